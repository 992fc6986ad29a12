"""What the model must beat: a jaw that follows loudness."""

from __future__ import annotations

import numpy as np

from engines.types import FloatArray
from training.batches import amplitude
from training.corpus import Item

LAGS = range(-3, 4)  # frames


def loudness(item: Item) -> FloatArray:
    """Level of every frame in decibels at several lags, f32 (T, lags + 1), the last column one."""
    level = 20 * np.log10(amplitude(item.mel).mean(1) + 1e-4)
    centre = (3.2 * np.arange(len(item.motion)) + 1.6).astype(int)
    columns = [level[np.clip(centre + round(3.2 * lag), 0, len(level) - 1)] for lag in LAGS]
    return np.stack([*columns, np.ones(len(item.motion))], 1).astype(np.float32)


def fit_loudness(items: list[Item], measures: FloatArray) -> FloatArray:
    """Least squares from loudness to lip curves, (lags + 1, 3); for evaluation only."""
    inputs = np.concatenate([loudness(item) for item in items])
    targets = np.concatenate([item.motion @ measures for item in items])
    return np.linalg.lstsq(inputs, targets, rcond=None)[0].astype(np.float32)
