"""Beat alignment of head motion and speech.

SadTalker (arXiv 2211.12194, section 4.1) and those who compare with it, KDTalker among them, take the score of
Bailando (arXiv 2203.13055, section 4): kinematic beats are the moments at which the smoothed speed is lowest; for
every beat of the sound the nearest kinematic one counts exp(-d^2 / (2 sigma^2)). Bailando smooths by 5 and takes a
sigma of 3 of its frames; the smoothing is the same time here, sigma is 3 frames of ours, as 50 ms is nothing to a head.
Speech has no bars: its beats are onsets, peaks of the spectral flux (Bello et al., IEEE Trans. SAP 13, 2005).
"""

from __future__ import annotations

import numpy as np

from engines.audio import HOP
from engines.types import FPS, SPEECH_RATE, FloatArray

SMOOTHING = 5 / 60 * FPS  # frames
SIGMA = 3.0  # frames
AROUND = 8  # mel columns, 100 ms, over whose mean an onset rises
DECIBELS = 100 / 8  # per unit of mel
LEAST_FLUX = 0.07  # of the largest


def onsets(mel: FloatArray) -> FloatArray:
    """Moments of onsets, in frames, of mel columns (T, 80)."""
    flux = np.maximum(0, np.diff(mel * DECIBELS, axis=0, prepend=mel[:1])).mean(1)
    flux /= max(float(flux.max()), 1e-9)
    found: list[int] = []
    for column, value in enumerate(flux):
        highest = value >= flux[max(0, column - 2) : column + 1].max()
        around = flux[max(0, column - AROUND) : column + AROUND + 1].mean()
        if highest and value > around + LEAST_FLUX and (not found or column - found[-1] > 2):
            found.append(column)
    return np.array(found) * HOP * FPS / SPEECH_RATE


def kinematic_beats(angles: FloatArray) -> FloatArray:
    """Frames at which a head of these angles (T, 3) in degrees moves least."""
    speed = np.linalg.norm(np.diff(angles, axis=0, prepend=angles[:1]), axis=1)
    reach = int(4 * SMOOTHING + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING) ** 2)
    speed = np.convolve(np.pad(speed, reach, "symmetric"), kernel / kernel.sum(), "valid")
    return 1 + np.flatnonzero((speed[1:-1] < speed[:-2]) & (speed[1:-1] <= speed[2:]))


def alignment(beats: FloatArray, angles: FloatArray) -> tuple[float, float]:
    """Score of the beats of a sound with a head's angles (T, 3), and the mean score of the same beats turned round.

    Beats are turned round the clip by every number of frames from 15 on: a sound of the same rhythm that has nothing
    to do with this head.
    """
    count = len(angles)
    grid = np.arange(4 * count) / 4
    near = np.abs(grid[:, None] - kinematic_beats(angles)).min(1, initial=np.inf)
    score = np.exp(-(near**2) / (2 * SIGMA**2))
    beats = beats[beats < count]
    turned = (beats + np.arange(count)[:, None]) % count
    scores = score[(4 * turned).astype(int)].mean(1)
    return float(scores[0]), float(scores[15 : count - 15].mean())
