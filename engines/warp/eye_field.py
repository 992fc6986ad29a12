"""How the irises move within the eyes of the photo: a soft patch of each eye goes with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.face_mesh import FaceModel
from engines.gaze import IRISES, Gaze
from engines.types import KEYPOINTS, FloatArray
from engines.warp.eyelids import EYES
from engines.warp.head_field import smoothstep

HEIGHT = 2.0  # radii of the iris over which the patch ends above and below
CORE = 0.4  # share of the patch that moves as one


def iris_rows(mesh: FloatArray, face: FaceModel, points: NDArray[np.floating]) -> FloatArray:
    """Mixing rows (n, 21) that carry pixels `points` (n, 2) with the irises of `mesh` (478, 3) crop pixels.

    The patch ends at the corners of the eye: white is stretched on one side and squeezed on the other. Lids move by
    `engines.warp.eyelids`.
    """
    keypoints = Gaze.of(face).keypoints
    rows = np.zeros((len(points), KEYPOINTS), np.float32)
    middles = {int(iris[0]): mesh[iris[0], :2] for iris in (IRISES[:5], IRISES[5:])}
    for upper, _ in EYES:
        corners = mesh[[upper[0], upper[-1]], :2]
        iris = min(middles, key=lambda point: float(np.linalg.norm(middles[point] - corners.mean(0))))
        centre = middles[iris]
        radius = float(np.linalg.norm(mesh[iris + 1 : iris + 5, :2] - centre, axis=1).mean())
        along = (corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        away = points - centre
        x, y = away @ along, away @ np.array([-along[1], along[0]])
        first, last = (corners - centre) @ along
        reach = np.where(x < 0, -first, last)
        weight = 1 - smoothstep(np.hypot(x / np.maximum(reach, radius), y / (HEIGHT * radius)), CORE, 1.0)
        rows[:, keypoints] += weight[:, None] * face.mixing[iris, keypoints]
    return rows
