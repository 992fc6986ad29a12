"""What changed between two runs of `kdtalker bench live --json`, and whether it is more than noise."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import Run, read
from engines.types import FloatArray

FIGURES = ("sound_added_ms", "picture_added_ms", "skew_received_ms", "skew_aligned_ms", "interval_ms")
POINTS = (50, 95)
BLOCK = 25  # samples drawn together: neighbours are alike, and drawn one by one would promise too much
DRAWS = 400


def interval(
    before: list[FloatArray], after: list[FloatArray], point: int, seed: int = 0
) -> tuple[float, float, float]:
    """Change of a percentile, and the bounds between which it lies in 95 of 100 cases.

    Bootstrap over blocks of neighbouring samples (Kuensch 1989); each array is one call.
    """
    random = np.random.default_rng(seed)
    change = _percentile(after, point) - _percentile(before, point)
    drawn = []
    for _ in range(DRAWS):
        drawn.append(_percentile(_again(after, random), point) - _percentile(_again(before, random), point))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return change, float(low), float(high)


def _percentile(calls: list[FloatArray], point: int) -> float:
    return float(np.percentile(np.concatenate(calls), point))


def _again(calls: list[FloatArray], random: np.random.Generator) -> list[FloatArray]:
    """As many samples of each call, in blocks that begin anywhere in it."""
    made = []
    for samples in calls:
        length = min(BLOCK, len(samples))
        starts = random.integers(0, len(samples) - length + 1, -(-len(samples) // length))
        made.append(np.concatenate([samples[start : start + length] for start in starts])[: len(samples)])
    return made


def changes(before: Run, after: Run) -> Iterator[dict[str, Any]]:
    """Every figure that both runs have, by number of calls."""
    rungs = {rung["sessions"]: rung for rung in before["rungs"]}
    for rung in after["rungs"]:
        if rung["sessions"] not in rungs:
            continue
        for figure in FIGURES:
            old, new = (_samples(one, figure) for one in (rungs[rung["sessions"]], rung))
            if not old or not new:
                continue
            for point in POINTS:
                change, low, high = interval(old, new, point)
                yield {
                    "calls": rung["sessions"],
                    "figure": f"{figure} p{point}",
                    "before": round(_percentile(old, point), 1),
                    "after": round(_percentile(new, point), 1),
                    "change": round(change, 1),
                    "low": round(low, 1),
                    "high": round(high, 1),
                    "beyond noise": not low <= 0 <= high,
                }


def _samples(rung: dict[str, Any], figure: str) -> list[FloatArray]:
    found = [np.array(call[figure]["samples"]) for call in rung["calls"] if call.get(figure, {}).get("count")]
    return [samples for samples in found if len(samples)]


def compare(argv: list[str]) -> int:
    """Say which figures of a live run differ from another's by more than chance."""
    parser = argparse.ArgumentParser(prog="kdtalker bench compare", description=compare.__doc__)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    options = parser.parse_args(argv)
    table = Table(title="Milliseconds; low and high: where the change lies with 95 % (block bootstrap)")
    for heading in ("calls", "figure", "before", "after", "change", "low", "high", "beyond noise"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    found = list(changes(read(options.before), read(options.after)))
    for row in found:
        cells = [str(value) for value in row.values()]
        table.add_row(*cells[:-1], "yes" if row["beyond noise"] else "no")
    console = Console(width=120)
    console.print(table if found else "The two runs have no number of calls and no figure in common.")
    return 0
