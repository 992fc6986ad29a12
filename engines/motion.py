"""The 70 numbers of one frame of motion, and the keypoints they stand for.

Layout: ``[scale, yaw, pitch, roll, tx, ty, tz, exp(21 x 3)]``, angles in degrees, exp
keypoint-major. Keypoints obey ``x = scale * (x_c R + exp) + t`` (LivePortrait, arXiv 2407.03168,
eq. 2), rows being points. This module alone knows whether `exp` is stored in the head's own frame
(embedded profile) or in the picture's (published profile): `turn_expression` maps the one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.types import KEYPOINTS, MOTION_WIDTH, FloatArray

SCALE = 0
YAW, PITCH, ROLL = 1, 2, 3
ANGLES = slice(1, 4)
TRANSLATION = slice(4, 7)
EXPRESSION = slice(7, MOTION_WIDTH)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and deviation of every number of the motion vector, and of the canonical keypoints.

    `mean`, `std` f32 (70,); `canonical_mean`, `canonical_std` f32 (63,). Kept in float32 whatever
    the networks compute in: published deviations go down to 6e-7.
    """

    mean: FloatArray
    std: FloatArray
    canonical_mean: FloatArray
    canonical_std: FloatArray

    def normalise(self, motion: FloatArray) -> FloatArray:
        """(..., 70) in physical units -> (..., 70) in deviations."""
        return ((motion - self.mean) / self.std).astype(np.float32)

    def denormalise(self, motion: FloatArray) -> FloatArray:
        """(..., 70) in deviations -> (..., 70) in physical units."""
        return (motion * self.std + self.mean).astype(np.float32)

    def canonical_token(self, canonical: FloatArray) -> FloatArray:
        """Canonical keypoints (21, 3) -> token (70,): seven zeros, then normalised keypoints."""
        token = np.zeros(MOTION_WIDTH, np.float32)
        token[EXPRESSION] = (canonical.reshape(-1) - self.canonical_mean) / self.canonical_std
        return token


@dataclass(frozen=True, slots=True)
class Limits:
    """How far motion may leave the photo before the picture suffers; approached softly.

    Angles in degrees relative to the photo, translation in half crop widths, scale as a ratio.
    """

    yaw: float = 10.0
    pitch: float = 8.0
    roll: float = 8.0
    translation: float = 0.06
    scale: float = 0.06
    total_yaw: float = 25.0


def rotation(angles: FloatArray) -> FloatArray:
    """Rotation matrices for row vectors, R = (Rz Ry Rx)^T.

    `angles` (..., 3): yaw, pitch, roll in degrees. Returns f32 (..., 3, 3). Rx(pitch), Ry(yaw) and
    Rz(roll) are the right-handed matrices acting on columns.
    """
    yaw, pitch, roll = np.moveaxis(np.radians(np.asarray(angles, np.float64)), -1, 0)
    sin_y, cos_y = np.sin(yaw), np.cos(yaw)
    sin_p, cos_p = np.sin(pitch), np.cos(pitch)
    sin_r, cos_r = np.sin(roll), np.cos(roll)
    columns = np.empty((*yaw.shape, 3, 3))
    columns[..., 0, 0] = cos_r * cos_y
    columns[..., 0, 1] = cos_r * sin_y * sin_p - sin_r * cos_p
    columns[..., 0, 2] = cos_r * sin_y * cos_p + sin_r * sin_p
    columns[..., 1, 0] = sin_r * cos_y
    columns[..., 1, 1] = sin_r * sin_y * sin_p + cos_r * cos_p
    columns[..., 1, 2] = sin_r * sin_y * cos_p - cos_r * sin_p
    columns[..., 2, 0] = -sin_y
    columns[..., 2, 1] = cos_y * sin_p
    columns[..., 2, 2] = cos_y * cos_p
    return np.swapaxes(columns, -1, -2).astype(np.float32)


def angles_of(matrix: NDArray[np.floating]) -> FloatArray:
    """Yaw, pitch, roll in degrees of row-vector rotations (..., 3, 3); inverse of `rotation`."""
    columns = np.swapaxes(np.asarray(matrix, np.float64), -1, -2)
    yaw = np.arcsin(np.clip(-columns[..., 2, 0], -1.0, 1.0))
    pitch = np.arctan2(columns[..., 2, 1], columns[..., 2, 2])
    roll = np.arctan2(columns[..., 1, 0], columns[..., 0, 0])
    return np.asarray(np.degrees(np.stack([yaw, pitch, roll], -1)), np.float32)


def pack(scale: float | FloatArray, angles: FloatArray, translation: FloatArray, expression: FloatArray) -> FloatArray:
    """Parts -> (..., 70). `angles` (..., 3), `translation` (..., 3), `expression` (..., 21, 3)."""
    expression = np.asarray(expression, np.float32)
    motion = np.empty((*expression.shape[:-2], MOTION_WIDTH), np.float32)
    motion[..., SCALE] = scale
    motion[..., ANGLES] = angles
    motion[..., TRANSLATION] = translation
    motion[..., EXPRESSION] = expression.reshape(*expression.shape[:-2], 3 * KEYPOINTS)
    return motion


def expression(motion: FloatArray) -> FloatArray:
    """The `exp` part of (..., 70) as (..., 21, 3)."""
    return motion[..., EXPRESSION].reshape(*motion.shape[:-1], KEYPOINTS, 3)


def head_to_picture(motion: FloatArray) -> FloatArray:
    """Scaled rotations ``scale * R`` (..., 3, 3) of (..., 70), for points and exp in the head's frame alike."""
    return np.asarray(motion[..., SCALE, None, None] * rotation(motion[..., ANGLES]), np.float32)


def turn_expression(motion: FloatArray) -> FloatArray:
    """Expression given in the head's frame -> the same vectors with `exp = exp_head R`."""
    turned = np.array(motion, np.float32, copy=True)
    exp = expression(motion) @ rotation(motion[..., ANGLES])
    turned[..., EXPRESSION] = exp.reshape(*motion.shape[:-1], 3 * KEYPOINTS)
    return turned


def keypoints(canonical: FloatArray, motion: FloatArray) -> FloatArray:
    """Canonical keypoints (21, 3) and motion (..., 70) in the picture's frame -> (..., 21, 3)."""
    matrix = rotation(motion[..., ANGLES])
    shape = canonical @ matrix + expression(motion)
    placed: FloatArray = motion[..., None, SCALE : SCALE + 1] * shape + motion[..., None, TRANSLATION]
    return placed


def soft_limit(value: FloatArray, bound: float) -> FloatArray:
    """Identity up to 60 % of `bound`, then bends smoothly and never exceeds it."""
    knee = 0.6 * bound
    room = bound - knee
    excess = np.maximum(np.abs(value) - knee, 0.0)
    magnitude = np.minimum(np.abs(value), knee) + room * np.tanh(excess / room)
    return np.asarray(np.sign(value) * magnitude, np.float32)


def onto_photo(source: FloatArray, relative: FloatArray, limits: Limits) -> FloatArray:
    """Motion relative to a rest pose -> motion of this photo, softly limited.

    `source` (70,) is the photo's own vector; `relative` (..., 70) holds scale as a ratio, angles and
    translation as differences and `exp` measured from the person's rest shape. Returns (..., 70) with
    `exp` in the frame it came in.
    """
    placed = np.array(relative, np.float32, copy=True)
    placed[..., SCALE] = source[SCALE] * (1 + soft_limit(relative[..., SCALE] - 1, limits.scale))
    for index, bound in ((YAW, limits.yaw), (PITCH, limits.pitch), (ROLL, limits.roll)):
        placed[..., index] = source[index] + soft_limit(relative[..., index], bound)
    room = max(limits.total_yaw, abs(float(source[YAW])))
    placed[..., YAW] = np.clip(placed[..., YAW], -room, room)
    placed[..., TRANSLATION] = source[TRANSLATION] + soft_limit(relative[..., TRANSLATION], limits.translation)
    return placed
