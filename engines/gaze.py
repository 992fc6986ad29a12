"""Where the eyes look: the keypoints that carry the irises, and what keeps them on the viewer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines import motion
from engines.face_mesh import FaceModel
from engines.types import FloatArray

IRISES = np.arange(468, 478)  # of the face mesh: centre and rim of one, then of the other
EYE_RADIUS = 0.13  # eye distances: 12 mm of about 90
STRAIGHT = np.array([0.0, 0.0, -1.0], np.float32)  # out of the face, in the head's frame


@dataclass(frozen=True, slots=True)
class Gaze:
    """`keypoints` i64 (n,): those whose main effect is on the irises. `share`: how far the irises follow them."""

    keypoints: NDArray[np.int64]
    share: float

    @staticmethod
    def of(face: FaceModel) -> Gaze:
        energy = face.mixing**2
        chosen = np.flatnonzero(energy[IRISES].sum(0) > 0.5 * energy.sum(0))
        return Gaze(chosen, float(face.mixing[IRISES][:, chosen].sum(1).mean()))

    def held(self, source: FloatArray, placed: FloatArray, firmness: FloatArray) -> FloatArray:
        """Motion (N, 70) whose eyes turn against the head, so that they look where those of the photo look.

        `source` (70,): the photo's motion. `firmness` (N,): 0 leaves the eyes alone, 1 holds them.
        """
        turned = motion.rotation(source[motion.ANGLES]) @ np.swapaxes(motion.rotation(placed[:, motion.ANGLES]), 1, 2)
        offset = EYE_RADIUS / self.share * (STRAIGHT @ turned - STRAIGHT)
        exp = motion.expression(placed).copy()
        exp[:, self.keypoints] += firmness[:, None, None] * (offset[:, None] - exp[:, self.keypoints])
        held = placed.copy()
        held[:, motion.EXPRESSION] = exp.reshape(len(placed), -1)
        return held
