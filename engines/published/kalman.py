"""The published smoothing of motion: a random-walk Kalman filter and its backward pass (Rauch, Tung, Striebel 1965).

All matrices of the published smoother are multiples of the identity, so its gains depend on the frame's number
alone and every channel is independent. With these variances it is weak: a filter alone keeps 98 % of each new
value, and looking ahead by one frame comes within .04 % of a step of the whole-clip result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.types import FloatArray

STEP_VARIANCE = 0.05  # in raw units squared: degrees, keypoint units
READING_VARIANCE = 0.001
FIRST_VARIANCE = 1.0


def _filter(values: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Filtered means (T, C) and, for every frame, the backward gain (T,) towards the next one."""
    means = np.array(values, np.float64)
    gains = np.empty(len(values))
    predicted = FIRST_VARIANCE
    for t in range(len(values)):
        gain = predicted / (predicted + READING_VARIANCE)
        if t:
            means[t] = means[t - 1] + gain * (means[t] - means[t - 1])
        variance = (1 - gain) * predicted
        predicted = variance + STEP_VARIANCE
        gains[t] = variance / predicted
    return means, gains


def filtered(values: FloatArray) -> FloatArray:
    """Forward pass over (T, C): every frame from those up to it."""
    return _filter(values)[0].astype(np.float32)


def smoothed(values: FloatArray) -> FloatArray:
    """Both passes over (T, C): every frame from the whole clip. One frame comes back as it is."""
    means, gains = _filter(values)
    for t in range(len(values) - 2, -1, -1):
        # The next frame's predicted mean is this frame's filtered one: a random walk.
        means[t] += gains[t] * (means[t + 1] - means[t])
    return means.astype(np.float32)
