"""From face-mesh tracks to what the model learns: rest shapes, head motion, offsets in the head's frame.

Every frame obeys ``V = scale * ((rest + offsets) R) + t`` (engines/face_mesh.py); the similarity is fitted
on the points that hardly move with speech. Rest means lips closed and eyes open, so that zero offsets
show a silent, attentive face.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from engines.face_mesh import LEFT_EYE_CORNER, LOWER_LIP, RIGHT_EYE_CORNER, STABLE, STABLE_CENTRE, UPPER_LIP
from engines.motion import angles_of, rotation
from engines.types import FloatArray
from training.tracks import Clip

UPPER_LIDS, LOWER_LIDS = np.array([159, 386]), np.array([145, 374])
FOREHEAD, CHIN = 10, 152
CROP_SIDE = 2.15  # crop widths per forehead-to-chin distance, as in portrait preparation
SHORT = 50  # frames; a shorter clip may never close its lips: its rest is extrapolated
CLOSED_SHARE = 0.10
FLIP = np.array([-1.0, 1.0, 1.0], np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """One clip after head motion was removed.

    `rest` f32 (478, 3): canonical mesh of this person in this clip. `offsets` f32 (T, 478, 3) from
    rest, head frame, eye distances. `scale` f32 (T,) as a ratio to the typical one, `angles` f32
    (T, 3) in degrees and `translation` f32 (T, 3) in half crop widths, both as differences from the
    clip's typical pose.
    """

    clip: Clip
    rest: FloatArray
    offsets: FloatArray
    scale: FloatArray
    angles: FloatArray
    translation: FloatArray


def similarity(reference: FloatArray, observed: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Best ``observed = scale * (reference R) + t`` in the least-squares sense, for row vectors.

    `reference` (n, 3), `observed` (T, n, 3). Returns scale (T,), R (T, 3, 3), t (T, 3). (Umeyama 1991)
    """
    a = np.asarray(reference, np.float64)
    b = np.asarray(observed, np.float64)
    a_mean, b_mean = a.mean(0), b.mean(1)
    a0, b0 = a - a_mean, b - b_mean[:, None]
    u, s, vt = np.linalg.svd(np.einsum("ni,tnj->tij", a0, b0))
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    matrix = (u * sign[:, None, :]) @ vt
    scale = (s * sign).sum(1) / (a0**2).sum()
    translation = b_mean - scale[:, None] * np.einsum("i,tij->tj", a_mean, matrix)
    return scale.astype(np.float32), matrix.astype(np.float32), translation.astype(np.float32)


def straighten(reference: FloatArray, mesh: FloatArray) -> FloatArray:
    """Meshes (T, 478, 3) brought into the frame of `reference` (478, 3) by their stable points."""
    scale, matrix, translation = similarity(reference[STABLE], mesh[:, STABLE])
    return ((mesh - translation[:, None]) / scale[:, None, None]) @ np.swapaxes(matrix, 1, 2)


def in_units(mesh: FloatArray) -> FloatArray:
    """Mesh (478, 3) scaled and shifted: outer eye corners at distance 1, stable points where they belong."""
    scaled = mesh / np.linalg.norm(mesh[LEFT_EYE_CORNER] - mesh[RIGHT_EYE_CORNER])
    return (scaled - scaled[STABLE].mean(0) + STABLE_CENTRE).astype(np.float32)


def mirror_index(mesh: FloatArray) -> np.ndarray:
    """For every point the one on the other side of the face; `mesh` (478, 3), mouth and eyes open.

    The mirrored mesh is laid over the mesh by an affine map fitted to the pairs found so far; pairs are
    then taken greedily, so that the answer is its own inverse.
    """
    flipped = np.c_[mesh * FLIP, np.ones(len(mesh))]
    laid = flipped[:, :3]
    for _ in range(10):
        distance = np.linalg.norm(mesh[:, None] - laid[None], axis=-1)
        nearest = distance.argmin(1)
        mutual = nearest[nearest] == np.arange(len(mesh))
        laid = flipped @ np.linalg.lstsq(flipped[nearest[mutual]], mesh[mutual], rcond=None)[0]
    cost = distance + distance.T
    index = np.full(len(mesh), -1)
    for i, j in zip(*np.unravel_index(np.argsort(cost, axis=None), cost.shape), strict=True):
        if index[i] < 0 and index[j] < 0:
            index[i], index[j] = j, i
    return index


def mirror_of(template: FloatArray) -> np.ndarray:
    """`mirror_index` of a template (478, 3) with closed lips, which are parted first, or pairs would be mixed up."""
    parted = template.copy()
    parted[template[:, 1] > template[UPPER_LIP[0], 1] + 0.03, 1] += 0.12
    return mirror_index(parted)


def mirrored(points: FloatArray, mirror: np.ndarray) -> FloatArray:
    """Meshes or offsets (..., 478, 3) of the mirror image of a face."""
    return np.take(points, mirror, axis=-2) * FLIP


def symmetrise(mesh: FloatArray, mirror: np.ndarray) -> FloatArray:
    """Mesh (478, 3) averaged with its mirror image: frontal, yaw and roll zero by definition."""
    for _ in range(3):
        mesh = in_units(mesh)
        mesh = 0.5 * (mesh + straighten(mesh, mirrored(mesh, mirror)[None])[0])
        # What is left of the asymmetry is a rotation; half of it back makes the mean frontal.
        _, turn, _ = similarity(mesh[STABLE], mirrored(mesh, mirror)[None, STABLE])
        angles = angles_of(turn)[0] / 2
        mesh = mesh @ rotation(angles)
    return in_units(0.5 * (mesh + mirrored(mesh, mirror)))


def lip_gap(mesh: FloatArray) -> FloatArray:
    """Distance of the inner lips in the middle of the mouth, (..., 478, 3) -> (...)."""
    return np.linalg.norm(mesh[..., UPPER_LIP, :] - mesh[..., LOWER_LIP, :], axis=-1).mean(-1)


def lid_gap(mesh: FloatArray) -> FloatArray:
    """Opening of the eyes, mean of both, (..., 478, 3) -> (...)."""
    return np.linalg.norm(mesh[..., UPPER_LIDS, :] - mesh[..., LOWER_LIDS, :], axis=-1).mean(-1)


def first_template(clips: list[Clip]) -> tuple[FloatArray, np.ndarray]:
    """Frontal symmetric mean mesh (478, 3) and the mirror index, from nothing but the clips."""
    means = np.stack([in_units(clip.mesh.mean(0)) for clip in clips])
    template = in_units(means.mean(0))
    for _ in range(3):
        template = in_units(straighten(template, means).mean(0))
    wide = []
    for clip in clips:
        mesh = straighten(template, clip.mesh)
        lips, lids = lip_gap(mesh), lid_gap(mesh)
        wide.append(mesh[np.argmax(lips / lips.max() + lids / lids.max())])
    mirror = mirror_index(in_units(np.mean(wide, axis=0)))
    return symmetrise(template, mirror), mirror


def _own_rest(mesh: FloatArray) -> FloatArray:
    """Rest of straightened meshes (T, 478, 3): below the eyes from closed lips, above from open eyes."""
    lips, lids = lip_gap(mesh), lid_gap(mesh)
    closed = np.argsort(lips)[: max(3, round(CLOSED_SHARE * len(mesh)))]
    awake = lids >= np.median(lids)
    rest = mesh[closed].mean(0)
    upper = rest[:, 1] < rest[LOWER_LIDS, 1].max() + 0.08
    rest[upper] = mesh[awake].mean(0)[upper]
    return rest


def _extrapolated_rest(clips: list[FloatArray]) -> list[FloatArray]:
    """Rests of short clips of one person.

    Meshes differ more between clips than within, so a rest is the clip's own mean carried to closed
    lips (and open eyes) along the line that all clips of the person share.
    """

    def centred(values: FloatArray) -> FloatArray:
        return values - values.mean(0)

    lips = np.concatenate([centred(lip_gap(mesh)) for mesh in clips])
    lids = np.concatenate([centred(lid_gap(mesh)) for mesh in clips])
    change = np.concatenate([centred(mesh.reshape(len(mesh), -1)) for mesh in clips])
    gaps = np.stack([lips, lids], 1)
    slope = np.linalg.solve(gaps.T @ gaps + 1e-6 * np.eye(2), gaps.T @ change).reshape(2, -1, 3)
    closed = np.quantile(np.concatenate([lip_gap(mesh) for mesh in clips]), CLOSED_SHARE / 2)
    awake = np.median(np.concatenate([lid_gap(mesh) for mesh in clips]))
    return [
        mesh.mean(0) + slope[0] * (closed - lip_gap(mesh).mean()) + slope[1] * (awake - lid_gap(mesh).mean())
        for mesh in clips
    ]


def shapes_of(clips: list[Clip], template: FloatArray) -> list[Shape]:
    """Head motion removed from every clip, measured from each clip's rest."""
    groups: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.dataset, clip.person].append(clip)
    shapes = []
    for members in groups.values():
        short = [clip for clip in members if len(clip.mesh) < SHORT]
        rests = (
            [in_units(rest) for rest in _extrapolated_rest([straighten(template, c.mesh) for c in short])]
            if short
            else []
        )
        shapes += [_shape(clip, rest) for clip, rest in zip(short, rests, strict=True)]
        for clip in members:
            if len(clip.mesh) >= SHORT:
                rest = in_units(_own_rest(straighten(template, clip.mesh)))
                # Once more with the person's own skull as the reference.
                shapes.append(_shape(clip, in_units(_own_rest(straighten(rest, clip.mesh)))))
    return shapes


def _shape(clip: Clip, rest: FloatArray) -> Shape:
    side = CROP_SIDE * np.median(np.linalg.norm(clip.mesh[:, FOREHEAD, :2] - clip.mesh[:, CHIN, :2], axis=-1))
    scale, matrix, translation = similarity(rest[STABLE], clip.mesh[:, STABLE] / (side / 2))
    mesh = (clip.mesh / (side / 2) - translation[:, None]) / scale[:, None, None]
    angles = angles_of(matrix)
    return Shape(
        clip=clip,
        rest=rest,
        offsets=(mesh @ np.swapaxes(matrix, 1, 2) - rest).astype(np.float32),
        scale=(scale / np.median(scale)).astype(np.float32),
        angles=(angles - np.median(angles, axis=0)).astype(np.float32),
        translation=(translation - np.median(translation, axis=0)).astype(np.float32),
    )
