"""What is known about faces in general: the dense mesh, and the 21 keypoints that move it.

The dense mesh is the 478-point face mesh (MediaPipe's topology, irises included). A person's mesh at
rest, frontal, in units of the outer eye-corner distance and with its origin at the neck-side pivot, is
the *canonical mesh* V_c. Expression moves it by ``mixing @ exp`` with `exp` (21, 3): one learned
matrix for all three axes, so it commutes with rotation. A picture then shows
``V = scale * ((V_c + mixing @ exp_head) R) + t``, in units of half a crop width from the crop's centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from engines.motion import EXPRESSION, Normalisation
from engines.profile import Parts
from engines.tables import tables
from engines.types import FRAME_SIZE, KEYPOINTS, MOTION_WIDTH, FloatArray, WeightsError

MOUTH_CORNERS, CHIN = (61, 291), (152,)
UPPER_LIP, LOWER_LIP = np.array([13, 82, 312]), np.array([14, 87, 317])  # inner contour, middle
LEFT_EYE_CORNER, RIGHT_EYE_CORNER = 33, 263  # outer corners; their distance is the unit of length
# Points that hardly move with speech; head motion is fitted on them alone.
_EYES_NOSE_BRIDGE = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1)
_FOREHEAD_TEMPLES = (10, 151, 9, 8, 234, 454, 127, 356, 21, 251, 54, 284, 103, 332, 67, 297, 109, 338)
STABLE = np.array([*_EYES_NOSE_BRIDGE, *_FOREHEAD_TEMPLES])
# Where the mean of the stable points lies in the head's frame: the pivot is .25 below and .75 behind it.
STABLE_CENTRE = np.array([0.0, -0.25, -0.75], np.float32)


@dataclass(frozen=True, slots=True)
class Pose:
    """Similarity from the canonical frame to a picture: ``V = scale * (V_c matrix) + translation``.

    `scale` in half crop widths per eye distance, `matrix` f32 (3, 3) for row vectors,
    `translation` f32 (3,).
    """

    scale: float
    matrix: FloatArray
    translation: FloatArray

    def remove(self, points: FloatArray) -> FloatArray:
        """Picture -> canonical frame, (..., 3)."""
        return ((points - self.translation) / self.scale @ self.matrix.T).astype(np.float32)

    def apply(self, points: FloatArray) -> FloatArray:
        """Canonical frame -> picture, (..., 3)."""
        return (self.scale * (points @ self.matrix) + self.translation).astype(np.float32)


def to_unit(mesh: FloatArray) -> FloatArray:
    """Crop pixels (..., 3) -> half crop widths from the centre; z only scaled."""
    half = FRAME_SIZE / 2
    return np.asarray((mesh - np.array([half, half, 0.0])) / half, np.float32)


def to_pixels(points: FloatArray) -> FloatArray:
    """Inverse of `to_unit`."""
    half = FRAME_SIZE / 2
    return np.asarray(points * half + np.array([half, half, 0.0]), np.float32)


def kabsch(reference: FloatArray, observed: FloatArray) -> FloatArray:
    """Rotation (3, 3) for row vectors that best turns `reference` (n, 3) into `observed` (n, 3)."""
    a = np.asarray(reference, np.float64)
    b = np.asarray(observed, np.float64)
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return np.asarray((u * flip) @ vt, np.float32)


@dataclass(frozen=True, slots=True)
class FaceModel:
    """Learned tables of the embedded profile, from ``weights/embedded/keypoints.npz``.

    `mixing` (478, 21): keypoint offsets to dense offsets. `reading` (21, 478): weighted
    pseudo-inverse, dense offsets to keypoint offsets. `placing` (21, 478): rows sum to one, canonical
    mesh to canonical keypoints. `template` (478, 3): mean canonical mesh. `mouth` (21,) bool: keypoints
    whose main effect is on lips and jaw. `normalisation`: see `Normalisation`.
    """

    mixing: FloatArray
    reading: FloatArray
    placing: FloatArray
    template: FloatArray
    mouth: np.ndarray
    normalisation: Normalisation

    def pose(self, points: FloatArray) -> Pose:
        """Pose of a mesh (478, 3) given in half crop widths.

        The unit of length is this mesh's own outer eye-corner distance; the rotation is fitted to
        the template on the stable points.
        """
        scale = float(np.linalg.norm(points[LEFT_EYE_CORNER] - points[RIGHT_EYE_CORNER]))
        matrix = kabsch(self.template[STABLE], points[STABLE])
        translation = points[STABLE].mean(0) - scale * (STABLE_CENTRE @ matrix)
        return Pose(scale, matrix, translation.astype(np.float32))

    def canonical_keypoints(self, canonical_mesh: FloatArray) -> FloatArray:
        """Canonical mesh (478, 3) -> canonical keypoints x_c (21, 3)."""
        return self.placing @ canonical_mesh

    def expression(self, offsets: FloatArray) -> FloatArray:
        """Dense offsets from rest (..., 478, 3) -> exp (..., 21, 3), same frame."""
        return self.reading @ offsets

    def offsets(self, expression: FloatArray) -> FloatArray:
        """exp (..., 21, 3) -> dense offsets from rest (..., 478, 3), same frame."""
        return self.mixing @ expression

    def rest(self) -> FloatArray:
        """Normalised motion (70,) of a face at rest: closed lips, open eyes, typical pose."""
        return self.normalisation.normalise(np.eye(1, MOTION_WIDTH, dtype=np.float32)[0])

    def opening(self) -> FloatArray:
        """What each of the 70 normalised numbers adds to the inner lips' vertical gap, eye distances."""
        row = np.zeros((KEYPOINTS, 3))
        row[:, 1] = self.mixing[LOWER_LIP].mean(0) - self.mixing[UPPER_LIP].mean(0)
        opening = np.zeros(MOTION_WIDTH, np.float32)
        opening[EXPRESSION] = row.reshape(-1) * self.normalisation.std[EXPRESSION]
        return opening

    def per_number(self, parts: Parts) -> FloatArray:
        """A setting for each of the 70 numbers; corners and chin are the numbers that move those points most."""
        values = np.full(MOTION_WIDTH, parts.rest, np.float32)
        values[EXPRESSION] = np.where(np.repeat(self.mouth, 3), parts.mouth, parts.rest)
        for points, axis, value in ((MOUTH_CORNERS, 0, parts.corners), (CHIN, 1, parts.chin)):
            if value is not None:
                keypoints = self.mixing[list(points)].argmax(1)
                values[EXPRESSION.start + 3 * keypoints + axis] = value
        return values


@cache
def face_model(folder: Path | None = None) -> FaceModel:
    """The tables of `folder`, default: the shipped ones; raises WeightsError when the file is missing or not ours.

    Only the statistics may differ from the shipped tables: enrolled faces were measured with those.
    """
    cure = "reinstall the package" if folder is None else "name a folder that `kdtalker train --videos` wrote"
    with tables("keypoints.npz", "keypoint tables", folder, cure) as archive:
        normalisation = Normalisation(*(archive[name] for name in ("mean", "std", "canonical_mean", "canonical_std")))
        found = {name: archive[name] for name in ("mixing", "reading", "placing", "template", "mouth")}
    if folder is not None and any(not np.array_equal(found[name], getattr(face_model(), name)) for name in found):
        raise WeightsError(f"{folder / 'keypoints.npz'} holds other keypoints than this version's; train again.")
    return FaceModel(normalisation=normalisation, **found)
