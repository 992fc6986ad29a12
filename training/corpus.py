"""Clips as the denoiser sees them: normalised motion, mel columns, and what is measured on lips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.audio import log_mel
from engines.face_mesh import FaceModel, face_model
from engines.motion import EXPRESSION, ROLL, YAW, expression
from engines.types import KEYPOINTS, MOTION_WIDTH, FloatArray
from training.keypoints import motion_of, opening_gains
from training.shapes import LOWER_LIDS, UPPER_LIDS, Shape, mirrored
from training.tracks import Clip

MEASURES = ("opening", "width", "jaw")
LARGEST = 6.0  # deviations; beyond it the tracker or the camera moved, not the face


@dataclass(frozen=True, slots=True)
class Item:
    """One clip, ready to learn from.

    `motion` f32 (T, 70) normalised; `mel` f32 (columns, 80), column t centred on sample 200 t;
    `canonical` f32 (70,) token of the person.
    """

    clip: Clip
    motion: FloatArray
    mel: FloatArray
    canonical: FloatArray


def measuring_matrix(face: FaceModel) -> FloatArray:
    """Opening, width and jaw in eye distances as linear functions of normalised motion, f32 (70, 3).

    Changes from rest: the inner lips' vertical gap, the distance of the mouth's corners, the chin's
    height. The mean of the training data is left out, as only differences are compared.
    """
    rows = np.zeros((3, KEYPOINTS, 3))
    rows[1, :, 0] = face.mixing[291] - face.mixing[61]
    rows[2, :, 1] = face.mixing[152]
    matrix = np.zeros((MOTION_WIDTH, 3), np.float32)
    matrix[EXPRESSION] = rows.reshape(3, -1).T * face.normalisation.std[EXPRESSION, None]
    matrix[:, 0] = face.opening()
    return matrix


def mouth_numbers(face: FaceModel) -> np.ndarray:
    """Which of the 70 numbers belong to lips and jaw, bool (70,)."""
    numbers = np.zeros(MOTION_WIDTH, bool)
    numbers[EXPRESSION] = np.repeat(face.mouth, 3)
    return numbers


def mirror_matrix(face: FaceModel, mirror: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Matrix (70, 70) and offset (70,) that turn normalised motion (rows) into that of the mirror image."""
    matrix = np.eye(MOTION_WIDTH)
    for index in (YAW, ROLL, 4):
        matrix[index, index] = -1
    swap = face.reading @ mirrored(np.repeat(face.mixing.T[:, :, None], 3, 2), mirror)  # (21 from, 21 to, 3)
    flipped = np.einsum("jkc,cd->jckd", swap, np.eye(3)).reshape(3 * KEYPOINTS, 3 * KEYPOINTS)
    matrix[EXPRESSION, EXPRESSION] = flipped
    mean, std = face.normalisation.mean, face.normalisation.std
    return (std[:, None] * matrix / std).astype(np.float32), ((mean @ matrix - mean) / std).astype(np.float32)


def items_of(shapes: list[Shape], face: FaceModel | None = None) -> list[Item]:
    """Normalised motion and mel of every clip, with the tables of `face`, default: the shipped ones."""
    face = face or face_model()
    gains = opening_gains(shapes)
    items = []
    for shape in shapes:
        motion = motion_of(shape, face.reading, face.mouth, gains[shape.clip.person])
        items.append(
            Item(
                clip=shape.clip,
                motion=np.clip(face.normalisation.normalise(motion), -LARGEST, LARGEST),
                mel=np.ascontiguousarray(log_mel(shape.clip.sound).T),
                canonical=face.normalisation.canonical_token(face.canonical_keypoints(shape.rest)),
            )
        )
    return items


def lid_curve(motion: FloatArray, face: FaceModel) -> FloatArray:
    """Change of the lids' gap from rest in eye distances, (T, 70) normalised -> (T,); a blink reaches -.1."""
    rows = (face.mixing[LOWER_LIDS] - face.mixing[UPPER_LIDS]).mean(0)
    exp = expression(face.normalisation.denormalise(motion))
    return np.asarray(exp[..., 1] @ rows, np.float32)
