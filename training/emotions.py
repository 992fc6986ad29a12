"""Fits the emotions of `engines.emotions`: offsets of the keypoints, from how tracked faces move.

An emotion is named by its action units (Facial Action Coding System; Ekman and Friesen, Emotion FACS): corners of
the mouth, brows, lids. What the rest of the face does with them is the likeliest expression that shows them:
the conditional mean of a Gaussian with the covariance of tracked people. Jaw and inner lips are held, so that
lips which meet in speech meet in every emotion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.controls import EMOTIONS
from engines.face_mesh import FaceModel
from engines.types import KEYPOINTS, FloatArray
from engines.warp.lips import INNER_LOWER, INNER_UPPER
from training.shapes import Shape, mirrored

# Changes at full strength in eye distances, y up; what is not named is zero. Each lies within what tracked people do.
UNITS = {
    "happy": {"corners": 0.056, "width": 0.098, "lids": -0.02, "inner brows": 0.0056, "outer brows": 0.0056},
    "sad": {"corners": -0.028, "inner brows": 0.042, "outer brows": -0.0056, "between brows": -0.017, "lids": -0.014},
    "surprised": {"inner brows": 0.063, "outer brows": 0.063},
    "angry": {
        "inner brows": -0.042,
        "outer brows": -0.017,
        "between brows": -0.028,
        "lids": -0.017,
        "corners": -0.011,
        "width": -0.028,
    },
}
SLACK = 1e-3  # share of a measure's variance that it may be missed by


def _measure(face: FaceModel, *terms: tuple[int, int, float]) -> FloatArray:
    """(mesh point, axis, weight) ... -> f32 (63,), the weighted sum as a linear function of exp."""
    row = np.zeros((KEYPOINTS, 3), np.float32)
    for point, axis, weight in terms:
        row[:, axis] += weight * face.mixing[point]
    return row.reshape(-1)


def measures(face: FaceModel) -> dict[str, FloatArray]:
    """What is asked for or held, each f32 (63,); see `UNITS`."""
    lips = {
        f"lips {pair}": _measure(face, (lower, 1, 1), (upper, 1, -1))
        for pair, (upper, lower) in enumerate(zip(INNER_UPPER[1:-1], INNER_LOWER[1:-1], strict=True))
    }
    return lips | {
        "corners": _measure(face, (61, 1, -0.5), (291, 1, -0.5), (13, 1, 0.5), (14, 1, 0.5)),
        "width": _measure(face, (291, 0, 1), (61, 0, -1)),
        "inner brows": _measure(face, (107, 1, -0.5), (336, 1, -0.5)),
        "outer brows": _measure(face, *((point, 1, -0.25) for point in (105, 334, 70, 300))),
        "between brows": _measure(face, (336, 0, 1), (107, 0, -1)),
        "lids": _measure(face, (145, 1, 0.5), (374, 1, 0.5), (159, 1, -0.5), (386, 1, -0.5)),
        "chin": _measure(face, (152, 1, 1)),
        "lopsided": _measure(face, (61, 1, 1), (291, 1, -1)),
    }


def covariance(shapes: list[Shape], face: FaceModel, mirror: np.ndarray) -> FloatArray:
    """How the numbers of exp vary together within clips, (63, 63), every clip and its mirror image counting once."""
    total = np.zeros((3 * KEYPOINTS, 3 * KEYPOINTS))
    for shape in shapes:
        for offsets in (shape.offsets, mirrored(shape.offsets, mirror)):
            exp = (face.reading @ offsets).reshape(len(offsets), -1)
            exp -= exp.mean(0)
            total += exp.T @ exp / len(exp)
    return np.asarray(total / (2 * len(shapes)), np.float32)


def fit_emotions(shapes: list[Shape], face: FaceModel, mirror: np.ndarray) -> FloatArray:
    """Offsets f32 (E, 63) at full strength, in the order of `EMOTIONS` without the neutral face."""
    spread = covariance(shapes, face, mirror)
    known = measures(face)
    rows = np.stack(list(known.values()))
    system = rows @ spread @ rows.T
    system[np.diag_indices(len(system))] *= 1 + SLACK
    wanted = np.array([[UNITS[emotion].get(name, 0.0) for name in known] for emotion in EMOTIONS[1:]])
    return np.asarray(np.linalg.solve(system, wanted.T).T @ rows @ spread, np.float32)


def save_emotions(offsets: FloatArray, path: Path) -> None:
    np.savez_compressed(path, **dict(zip(EMOTIONS[1:], offsets, strict=True)))
