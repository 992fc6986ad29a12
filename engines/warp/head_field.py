"""How every spot of a photo moves: one row of 25 numbers a node, so that a frame's flow is one product.

A node's displacement is ``row @ coefficients`` with the row ``[rho P (3), rho, mixing (21)]`` and
the coefficients ``[s R - s0 R0; t - t0; s (exp - exp0) R]`` (25, 2): the rigid move of the head, weighted by
rho, plus the expression. P is the node un-posed with its estimated depth; the suffix 0 marks the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines import motion
from engines.face_mesh import FaceModel, Pose, to_pixels, to_unit
from engines.types import FRAME_SIZE, ByteArray, FloatArray
from engines.warp.head_mask import head_mask
from engines.warp.warp_field import Lattice, interpolate

ROW = 25
# fmt: off
OVAL = np.array([10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148,
                 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109])
# Lids and irises. They move by `engines.warp.eyelids` alone; their keypoints must not drag the skin around them.
LIDS = np.array([7, 163, 144, 145, 153, 154, 155, 173, 157, 158, 159, 160, 161, 246, 25, 110, 24, 23, 22, 26, 112, 190,
                 56, 28, 27, 29, 30, 247, 249, 390, 373, 374, 380, 381, 382, 398, 384, 385, 386, 387, 388, 466, 255,
                 339, 254, 253, 252, 256, 341, 414, 286, 258, 257, 259, 260, 467, *range(468, 478)])
# fmt: on

# All in eye distances unless said otherwise.
DEPTH_BLUR = 0.075
DEPTH_SLOPE, DEPTH_REACH = 0.6, 0.8  # beyond the oval the head curves away from the camera
RIGID_REACH, RIGID_END = 0.05, 1.05  # head and hair move as one; beyond the second nothing does
NECK_END = 1.0
EXPRESSION_DECAY = 0.33
BORDER = 44  # pixels over which everything comes to rest at the picture's edges


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around the face, per pixel of the crop; all f32.

    `depth` (512, 512) half crop widths. `rigid`, `expressive` (512, 512) weights of the head's move and
    of the expression.
    """

    depth: FloatArray
    rigid: FloatArray
    expressive: FloatArray


def smoothstep(value: NDArray[np.floating], start: float, end: float) -> FloatArray:
    """0 up to `start`, 1 from `end`, smooth between."""
    x = np.clip((value - start) / (end - start), 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def survey(mesh: FloatArray, crop: ByteArray) -> Surroundings:
    """Depth and weights around a face; `mesh` (478, 3) in crop pixels."""
    unit = float(np.linalg.norm(mesh[33] - mesh[263]))
    outline = mesh[OVAL]
    hull = np.zeros((FRAME_SIZE, FRAME_SIZE), np.uint8)
    cv2.fillPoly(hull, [np.round(outline[:, :2] * 16).astype(np.int32)], 1, shift=4)
    distance = np.asarray(cv2.distanceTransform(1 - hull, cv2.DIST_L2, 5), np.float32) / unit

    lattice = Lattice(0, 0, FRAME_SIZE // 2, FRAME_SIZE // 2, 2)
    coarse, known = interpolate(mesh[:468, :2], mesh[:468, 2:], lattice)
    depth = cv2.resize(coarse.reshape(lattice.rows, lattice.columns), (FRAME_SIZE, FRAME_SIZE))
    inner = cv2.erode(hull * cv2.resize(known.reshape(lattice.rows, -1).astype(np.uint8), hull.shape), np.ones((5, 5)))
    # The depth of the nearest spot of the face, smoothed along the outline, then sloping away.
    _, nearest = cv2.distanceTransformWithLabels(1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros(nearest.max() + 1, np.float32)
    by_label[nearest[inner > 0]] = depth[inner > 0]
    depth = np.where(inner > 0, depth, by_label[nearest])
    depth = cv2.GaussianBlur(depth, (0, 0), DEPTH_BLUR * unit)
    depth = depth + DEPTH_SLOPE * unit * np.minimum(distance, DEPTH_REACH)
    depth = cv2.GaussianBlur(depth, (0, 0), 0.6 * DEPTH_BLUR * unit)

    grid = np.arange(FRAME_SIZE, dtype=np.float32)
    edge = np.minimum(grid, FRAME_SIZE - 1 - grid)
    border = smoothstep(np.minimum(edge[:, None], edge[None]), 0, BORDER)
    chin = mesh[152]
    below = smoothstep((grid[:, None] - chin[1]) / unit, 0.0, NECK_END)
    head = head_mask(crop, outline[:, :2], chin[:2], unit)
    away = np.asarray(cv2.distanceTransform(1 - head, cv2.DIST_L2, 5), np.float32) / unit
    away = np.asarray(cv2.GaussianBlur(away, (0, 0), 0.06 * unit), np.float32)
    rigid = (1 - smoothstep(away, RIGID_REACH, RIGID_END)) * (1 - below) * border
    expressive = np.exp(-((distance / EXPRESSION_DECAY) ** 2)) * border
    half = FRAME_SIZE / 2
    return Surroundings(
        np.asarray(depth / half, np.float32),
        np.asarray(cv2.GaussianBlur(rigid.astype(np.float32), (0, 0), 0.05 * unit), np.float32),
        expressive.astype(np.float32),
    )


def node_rows(
    mesh: FloatArray,
    mixing: FloatArray,
    pose: Pose,
    around: Surroundings,
    lattice: Lattice,
    left_out: NDArray[np.bool_],
) -> FloatArray:
    """The 25 numbers of every node of `lattice`, (rows * columns, 25).

    `mesh` (478, 3) crop pixels, `mixing` (478, 21); vertices in `left_out` (478,) do not count.
    """
    used = ~left_out
    weights, inside = interpolate(mesh[used, :2], mixing[used], lattice)
    points = lattice.points()
    if not inside.all():
        # Outside the mesh: the nearest spot of its outline, faded by `expressive`.
        ring, amount = _densified(mesh[OVAL, :2]), _densified(mixing[OVAL])
        strangers = points[~inside]
        nearest = np.concatenate(
            [
                ((block[:, None] - ring) ** 2).sum(-1).argmin(-1)
                for block in np.array_split(strangers, len(strangers) // 512 + 1)
            ]
        )
        weights[~inside] = amount[nearest]
    rigid = lattice.sample(around.rigid)[:, None]
    placed = np.concatenate(
        [to_unit(np.pad(points, ((0, 0), (0, 1))))[:, :2], lattice.sample(around.depth)[:, None]], 1
    )
    rows = [rigid * pose.remove(placed), rigid, weights * lattice.sample(around.expressive)[:, None]]
    return np.concatenate(rows, 1).astype(np.float32)


def coefficients(source: FloatArray, frame: FloatArray) -> FloatArray:
    """What a frame's motion does to node rows: (25, 2) in pixels.

    `source`, `frame` (70,): the photo's motion and the frame's, exp in the head's frame.
    """
    frame_turn, source_turn = motion.head_to_picture(frame), motion.head_to_picture(source)
    result = np.empty((ROW, 3), np.float32)
    result[:3] = frame_turn - source_turn
    result[3] = frame[motion.TRANSLATION] - source[motion.TRANSLATION]
    result[4:] = (motion.expression(frame) - motion.expression(source)) @ frame_turn
    return np.asarray(result[:, :2] * (FRAME_SIZE / 2), np.float32)


def place(canonical: FloatArray, mixing: FloatArray, frame: FloatArray) -> FloatArray:
    """Vertices of a canonical mesh (n, 3), their mixing rows (n, 21), motion (70,) -> crop pixels (n, 3)."""
    turned = (canonical + mixing @ motion.expression(frame)) @ motion.head_to_picture(frame)
    return to_pixels(turned + frame[motion.TRANSLATION])


def skin_mixing(face: FaceModel) -> NDArray[np.bool_]:
    """Vertices whose own motion is not used for the skin: lids and irises, (478,) bool."""
    mask = np.zeros(len(face.mixing), bool)
    mask[LIDS] = True
    return mask


def _densified(ring: FloatArray, factor: int = 8) -> FloatArray:
    """Closed ring of points or values (n, c) with `factor` times as many, linearly."""
    following = np.roll(ring, -1, 0)
    share = (np.arange(factor, dtype=np.float32) / factor)[None, :, None]
    dense = ring[:, None] * (1 - share) + following[:, None] * share
    return np.asarray(dense.reshape(-1, ring.shape[1]), np.float32)
