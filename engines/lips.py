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
UPPER_LIP = np.array([*INNER_UPPER[1:-1], 183, 42, 41, 38, 12, 268, 271, 272, 407, 184, 74, 73, 72, 11, 302, 303, 304, 408])
LOWER_LIP = np.array([*INNER_LOWER[1:-1], 96, 89, 179, 86, 15, 316, 403, 319, 325, 77, 90, 180, 85, 16, 315, 404, 320, 307])
CHIN, UPPER_MIDDLE, LOWER_MIDDLE = 152, 13, 14

OPEN_GAP = 0.03  # a photo with a smaller gap everywhere has closed lips
PASSES = 2  # closing some pairs may cross others slightly; a second pass settles them


@dataclass(frozen=True, slots=True)
class LipModel:
    """How expression moves the nine pairs of inner-lip points.

    `rows` f32 (9, 21): keypoint offsets (their y) to gaps. `variance` f32 (21,): how far each keypoint
    usually moves in y; closing prefers those that move most, which is how lips really close.
    """

    rows: FloatArray
    variance: FloatArray

    @staticmethod
    def of(face: FaceModel) -> LipModel:
        upper, lower = INNER_UPPER[1:-1], INNER_LOWER[1:-1]
        deviation = face.normalisation.std[7:].reshape(-1, 3)[:, 1]
        return LipModel(face.mixing[lower] - face.mixing[upper], deviation**2)

    def change(self, gaps: FloatArray) -> FloatArray:
        """The likeliest y offsets (21,) that add `gaps` (n,) to the pairs where they are not zero."""
        chosen = gaps != 0
        rows = self.rows[chosen]
        weighted = rows * self.variance
        system = weighted @ rows.T
        system[np.diag_indices(len(system))] += 1e-3 * self.variance.max()
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


def closed_rest(model: LipModel, mesh: FloatArray) -> FloatArray:
    """exp (21, 3) that the mouth of `mesh` (478, 3), un-posed, adds to closed lips; zeros when they are closed."""
    expression = np.zeros((model.rows.shape[1], 3), np.float32)
    gaps = gaps_of(mesh)
    if gaps.max() < OPEN_GAP:
        return expression
    for _ in range(4):
        remaining = gaps - model.rows @ expression[:, 1]
        expression[:, 1] += model.change(remaining)
    return expression


def bool_rows(count: int, chosen: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mask of length `count`, true at `chosen`."""
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask
