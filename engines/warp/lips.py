"""Which lips meet which, how far apart expression moves them, and how to close what has crossed.

Lengths are in units of the outer eye-corner distance, in the head's own frame (y down).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.face_mesh import FaceModel
from engines.types import FloatArray

# Face-mesh indices from the corner at the picture's left to the one at its right.
INNER_UPPER = np.array([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308])
INNER_LOWER = np.array([78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308])
UPPER_LIP = np.array(
    [*INNER_UPPER[1:-1], 183, 42, 41, 38, 12, 268, 271, 272, 407, 184, 74, 73, 72, 11, 302, 303, 304, 408]
)
LOWER_LIP = np.array(
    [*INNER_LOWER[1:-1], 96, 89, 179, 86, 15, 316, 403, 319, 325, 77, 90, 180, 85, 16, 315, 404, 320, 307]
)
CHIN, UPPER_MIDDLE, LOWER_MIDDLE = 152, 13, 14

OUTER_UPPER = np.array([61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291])
OUTER_LOWER = np.array([61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291])

LIDS_MIDDLE = (160, 159, 158, 144, 145, 153, 385, 386, 387, 380, 374, 373)
# Chin, jaw, cheeks, nose, brows, lids: a few pixels between the lips are no reason to move them.
STILL = np.array([152, 175, 172, 397, 58, 288, 50, 280, 1, 2, 98, 327, 105, 334, 66, 296, 61, 291, *LIDS_MIDDLE])
STIFFNESS = 400.0  # how much lips prefer to move as a whole over being stretched
RELAXED = 0.5  # share of a toothy smile that rest does not keep
LOWER_SHARE = 0.6  # of a gap, closed by the lower lip
PRESSED = 0.004  # eye distances by which lips at rest press on each other
OPEN_GAP = 0.03  # a photo with a smaller gap everywhere has closed lips
PASSES = 2  # closing some pairs may cross others slightly; a second pass settles them


@dataclass(frozen=True, slots=True)
class LipModel:
    """How expression moves the nine pairs of inner-lip points.

    `rows` f32 (9, 21): keypoint offsets (their y) to gaps. `spread` f32 (21, 21): prior covariance of the
    keypoints' y: each moves about as far as it does in speech, and lips keep their thickness.
    """

    rows: FloatArray
    spread: FloatArray

    @staticmethod
    def of(face: FaceModel) -> LipModel:
        upper, lower = INNER_UPPER[1:-1], INNER_LOWER[1:-1]
        deviation = face.normalisation.std[7:].reshape(-1, 3)[:, 1].astype(np.float64)
        unit = deviation.mean() ** 2
        stretches = np.concatenate(
            [
                face.mixing[INNER_UPPER[1:-1]] - face.mixing[OUTER_UPPER[1:-1]],
                face.mixing[INNER_LOWER[1:-1]] - face.mixing[OUTER_LOWER[1:-1]],
                face.mixing[STILL],
            ]
        ).astype(np.float64)
        precision = np.diag(unit / deviation**2) + STIFFNESS * stretches.T @ stretches / len(stretches)
        spread = unit * np.linalg.inv(precision)
        return LipModel(face.mixing[lower] - face.mixing[upper], spread.astype(np.float32))

    def change(self, gaps: FloatArray) -> FloatArray:
        """The likeliest y offsets (21,) that add `gaps` (n,) to the pairs where they are not zero."""
        chosen = gaps != 0
        if not chosen.any():
            return np.zeros(len(self.spread), np.float32)
        rows = self.rows[chosen]
        weighted = rows @ self.spread
        system = weighted @ rows.T
        system[np.diag_indices(len(system))] += 1e-3 * system.diagonal().max()
        return np.asarray(weighted.T @ np.linalg.solve(system, gaps[chosen]), np.float32)

    def uncrossed(self, expression: FloatArray, rest: FloatArray) -> FloatArray:
        """exp (21, 3) in the head's frame, changed so that no pair that rests `rest` (9,) apart crosses."""
        for _ in range(PASSES):
            gaps = rest + self.rows @ expression[:, 1]
            if (gaps >= 0).all():
                break
            expression = expression.copy()
            expression[:, 1] += self.change(np.where(gaps < 0, -gaps, 0))
        return expression


def gaps_of(mesh: FloatArray) -> FloatArray:
    """Openings of the nine inner-lip pairs of a mesh (478, 3) in the head's frame, (9,)."""
    return np.asarray(mesh[INNER_LOWER[1:-1], 1] - mesh[INNER_UPPER[1:-1], 1], np.float32)


def closed_rest(face: FaceModel, model: LipModel, mesh: FloatArray) -> FloatArray:
    """exp (21, 3) that the mouth of `mesh` (478, 3), un-posed, adds to closed lips; zeros when they are closed.

    Lips meet as they do on a face: each moves as a whole, chin and philtrum follow, everything else stays.
    """
    gaps = gaps_of(mesh)
    if gaps.max() < OPEN_GAP:
        return np.zeros((model.rows.shape[1], 3), np.float32)
    inner = mesh[INNER_UPPER, 0]
    gap = np.interp(mesh[:, 0], inner, np.concatenate([[0], gaps, [0]]))
    widest = gaps.max()
    lower, upper = mesh[OUTER_LOWER], mesh[OUTER_UPPER]
    under = mesh[:, 1] - np.interp(mesh[:, 0], lower[:, 0], lower[:, 1])
    over = np.interp(mesh[:, 0], upper[:, 0], upper[:, 1]) - mesh[:, 1]
    sideways = np.exp(-(((mesh[:, 0] - inner.mean()) / (0.6 * (inner[-1] - inner[0]))) ** 2))
    chin = 0.75 * widest * sideways
    share = np.clip(under / 0.12, 0, 1)
    target = np.where(under > 0, LOWER_SHARE * (gap * (1 - share) + chin * share), 0)
    target -= np.where(over > 0, (1 - LOWER_SHARE) * gap * np.exp(-((over / 0.12) ** 2)), 0)
    target[LOWER_LIP] = LOWER_SHARE * gap[LOWER_LIP]
    target[OUTER_LOWER[1:-1]] = LOWER_SHARE * gap[OUTER_LOWER[1:-1]]
    target[UPPER_LIP] = (LOWER_SHARE - 1) * gap[UPPER_LIP]
    target[OUTER_UPPER[1:-1]] = (LOWER_SHARE - 1) * gap[OUTER_UPPER[1:-1]]
    # A broad smile is no rest to speak from: half of its excess width and of its corners' raise goes.
    half, centre = (inner[-1] - inner[0]) / 2, (inner[-1] + inner[0]) / 2
    usual = (face.template[INNER_UPPER[-1], 0] - face.template[INNER_UPPER[0], 0]) / 2
    across = (mesh[:, 0] - centre) / half
    raised = float(mesh[[13, 14], 1].mean() - mesh[INNER_UPPER[[0, -1]], 1].mean())
    beside = np.maximum(np.abs(across) - 1, 0) * half
    above = np.maximum(np.maximum(under, over), 0)
    near = np.exp(-(beside**2 + above**2) / 0.2**2)
    wider = RELAXED * max(0.0, half - usual) * np.clip(across, -1, 1) * near
    target -= RELAXED * max(0.0, raised) * np.minimum(across**2, 1) * near
    expression = np.zeros((model.rows.shape[1], 3), np.float32)
    expression[:, 0] = face.reading @ wider
    expression[:, 1] = face.reading @ target
    # `change` prefers stillness to closing all the way: it is asked for a little more.
    expression[:, 1] += model.change(gaps + PRESSED - model.rows @ expression[:, 1])
    return expression


def bool_rows(count: int, chosen: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mask of length `count`, true at `chosen`."""
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask
