"""What is measured on lips: correlation, amplitude, velocity against the tracked truth, and seams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.types import FloatArray
from training.corpus import MEASURES

FIGURES = (
    *MEASURES,
    *(f"{name} amplitude" for name in MEASURES),
    "velocity",
    "velocity amplitude",
)
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


def score_rows(ours: list[FloatArray], truth: list[FloatArray]) -> FloatArray:
    """One row of figures per clip, (clips, 8) in the order of `FIGURES`, from lip curves (T, 3)."""
    rows = []
    for mine, true in zip(ours, truth, strict=True):
        row = [_correlation(mine[:, k], true[:, k]) for k in range(3)]
        row += [float(mine[:, k].std() / true[:, k].std()) for k in range(3)]
        speed, real = np.diff(mine, axis=0), np.diff(true, axis=0)
        row += [
            float(np.mean([_correlation(speed[:, k], real[:, k]) for k in range(3)])),
            float(speed[:, 0].std() / real[:, 0].std()),
        ]
        rows.append(row)
    return np.array(rows, np.float32)


def lip_score(ours: list[FloatArray], truth: list[FloatArray], pooled: bool = False) -> LipScore:
    """Scores of lip curves (T, 3) per clip.

    `pooled`: very short clips, cut out of running speech, count as one long one without their beginnings.
    """
    if pooled:
        ours, truth = ([one_of(curves)] for curves in (ours, truth))
    mean = score_rows(ours, truth).mean(0)
    return LipScore(
        dict(zip(MEASURES, map(float, mean[:3]), strict=True)),
        dict(zip(MEASURES, map(float, mean[3:6]), strict=True)),
        float(mean[6]),
        float(mean[7]),
    )


def one_of(curves: list[FloatArray]) -> FloatArray:
    """Many short clips as one long one, each without its beginning and its mean."""
    return np.concatenate([curve[CUT:] - curve[CUT:].mean(0) for curve in curves])


def interval(rows: FloatArray, draws: int = 1000) -> FloatArray:
    """5 and 95 % quantiles of the mean of `rows` (clips, figures) when clips are drawn anew, (2, figures)."""
    rng = np.random.default_rng(0)
    means = np.stack([rows[rng.integers(len(rows), size=len(rows))].mean(0) for _ in range(draws)])
    return np.asarray(np.quantile(means, [0.05, 0.95], axis=0), np.float32)


def sizes(curves: Sequence[FloatArray], order: int) -> FloatArray:
    """Lengths of the differences of `order` between frames, all curves (T, 3) one after another."""
    return np.concatenate([np.linalg.norm(np.diff(curve, order, axis=0), axis=1) for curve in curves])


def border_ratio(curves: Sequence[FloatArray], hop: int, order: int) -> float | None:
    """Median difference of `order` at hop borders over the median elsewhere; None where there is no elsewhere.

    The second difference at a border is centred on the first frame of a hop.
    """
    if hop == 1:
        return None
    border = np.concatenate([np.arange(1, len(curve) - order + 1) % hop == 0 for curve in curves])
    found = sizes(curves, order)
    return round(float(np.median(found[border]) / np.median(found[~border])), 3)


def lag(ours: list[FloatArray], truth: list[FloatArray], reach: int = 5) -> int:
    """Shift in frames at which the opening agrees best; positive: ours is late."""

    def agreement(shift: int) -> float:
        pairs = zip(ours, truth, strict=True)
        kept = slice(reach, -reach)
        return float(np.mean([_correlation(np.roll(o[:, 0], -shift)[kept], t[kept, 0]) for o, t in pairs]))

    return max(range(-reach, reach + 1), key=agreement)
