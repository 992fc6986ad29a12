"""Lips against the tracked truth: ours, what it must beat, and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.types import FPS, FloatArray
from training.baselines import loudness
from training.bench import Bench
from training.corpus import Item
from training.metrics import FIGURES, interval, lag, lip_curves, one_of, score_rows
from training.shapes import Shape

SEEDS = (11, 23, 37)  # of the noise
# Upper and lower inner lip, corners, chin: two readings of the same movements.
HALVES = ((82, 87, 61, 291, 148), (312, 317, 78, 308, 377))


def lip_table(
    runs: Sequence[Bench], others: dict[str, Bench], items: list[Item], line: FloatArray, pooled: bool = False
) -> dict[str, Any]:
    """Figures of one group of clips.

    `runs`: the same recipe trained with several seeds; every one is streamed with every seed of `SEEDS`. `others`:
    models without noise, streamed once. `line`: see `fit_loudness`. `pooled`: very short clips count as one.
    """
    measures = runs[0].measures

    def curves(motions: list[FloatArray]) -> list[FloatArray]:
        found = [lip_curves(motion, measures) for motion in motions]
        return [one_of(found)] if pooled else found

    truth = curves([item.motion for item in items])
    ours = [[curves(bench.generate(items, seed)) for seed in SEEDS] for bench in runs]
    rows = np.array([[score_rows(made, truth) for made in seeds] for seeds in ours])  # (runs, seeds, clips, figures)
    shuffled = [curves(bench.generate(items, SEEDS[0], shuffled=True)) for bench in runs]
    loud = [loudness(item) @ line for item in items]
    table: dict[str, Any] = {
        "clips": len(items),
        "seconds": sum(len(item.motion) for item in items) / FPS,
        "ours": _named(rows.mean((0, 1, 2))),
    }
    if not pooled:
        low, high = interval(rows.mean((0, 1)))
        table["interval"] = {name: [_short(low[k]), _short(high[k])] for k, name in enumerate(FIGURES)}
    spread = rows.mean((1, 2))
    table["training seeds"] = {name: [_short(value) for value in spread[:, k]] for k, name in enumerate(FIGURES)}
    for name, bench in others.items():
        table[name] = _named(score_rows(curves(bench.generate(items, SEEDS[0])), truth).mean(0))
    table["loudness"] = _named(score_rows([one_of(loud)] if pooled else loud, truth).mean(0))
    table["shuffled"] = _named(np.mean([score_rows(made, truth).mean(0) for made in shuffled], axis=0))
    table["lag_frames"] = [lag(made, truth) for seeds in ours for made in seeds[:1]]
    return table


def split_half(shapes: list[Shape]) -> dict[str, float]:
    """How well the tracker agrees with itself: the same measures read from two sets of mesh points.

    An upper bound of what a model can reach. Errors that both sets share stay unseen, so the true bound is lower.
    """
    curves: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for shape in shapes:
        moved = shape.offsets
        for found, (upper, lower, left, right, chin) in zip(curves, HALVES, strict=True):
            opening = moved[:, lower, 1] - moved[:, upper, 1]
            width = moved[:, right, 0] - moved[:, left, 0]
            found.append(np.stack([opening, width, moved[:, chin, 1]], 1))
    return _named(score_rows(*curves).mean(0))


def _named(values: FloatArray) -> dict[str, float]:
    return {name: _short(value) for name, value in zip(FIGURES, values, strict=True)}


def _short(value: float) -> float:
    return round(float(value), 3)
