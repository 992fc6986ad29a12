"""What is measured on lips: correlation, amplitude, velocity, against the tracked truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.types import FloatArray
from training.corpus import MEASURES

CUT = 8  # frames in which a call that begins in mid-word finds its feet


@dataclass(frozen=True, slots=True)
class LipScore:
    """Means over clips. Correlations of opening, width, jaw and of their velocity; deviations as
    shares of the true ones.
    """

    correlation: dict[str, float]
    amplitude: dict[str, float]
    velocity_correlation: float
    velocity_amplitude: float

    @property
    def mean_correlation(self) -> float:
        return float(np.mean(list(self.correlation.values())))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-9))


def lip_curves(motion: FloatArray, measures: FloatArray) -> FloatArray:
    """Normalised motion (T, 70) -> opening, width, jaw (T, 3) in eye distances from the mean of training."""
    return motion @ measures


def lip_score(ours: list[FloatArray], truth: list[FloatArray], pooled: bool = False) -> LipScore:
    """Scores of lip curves (T, 3) per clip.

    `pooled`: very short clips, cut out of running speech, count as one long one without their beginnings.
    """
    if pooled:
        centred = [[curve[CUT:] - curve[CUT:].mean(0) for curve in curves] for curves in (ours, truth)]
        ours, truth = ([np.concatenate(curves)] for curves in centred)
    rows = []
    for mine, true in zip(ours, truth, strict=True):
        row = [_correlation(mine[:, k], true[:, k]) for k in range(3)]
        row += [float(mine[:, k].std() / true[:, k].std()) for k in range(3)]
        speed, real = np.diff(mine, axis=0), np.diff(true, axis=0)
        row += [
            np.mean([_correlation(speed[:, k], real[:, k]) for k in range(3)]),
            speed[:, 0].std() / real[:, 0].std(),
        ]
        rows.append(row)
    mean = np.mean(rows, axis=0)
    return LipScore(
        dict(zip(MEASURES, map(float, mean[:3]), strict=True)),
        dict(zip(MEASURES, map(float, mean[3:6]), strict=True)),
        float(mean[6]),
        float(mean[7]),
    )
