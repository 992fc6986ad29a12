"""A question about what is heard, answered tick by tick: a small recurrent network over the mel windows of the lips.

The cell is a gated recurrent unit (Cho et al., arXiv 1406.1078). What is asked is decided by the parameters:
``python -m training voice`` fits them to whether somebody speaks, ``python -m training contact`` to whether lips
touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from engines.types import FloatArray

LARGEST_PRODUCT = 410_000  # numbers of a matrix that a row is multiplied with at once


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


def product(row: FloatArray, weights: FloatArray) -> FloatArray:
    """`row` (N,) @ `weights` (N, M), in pieces that OpenBLAS computes on the caller's thread.

    From 460,800 numbers on it wakes a thread for every core, and they spin between ticks: a core and more for nothing.
    """
    width = max(1, LARGEST_PRODUCT // len(weights))
    pieces = range(0, weights.shape[1], width)
    return np.concatenate([row @ weights[:, first : first + width] for first in pieces])


@dataclass(frozen=True, slots=True)
class Recurrent:
    """Parameters; holds no caller's state.

    `reading` f32 (80 K, F), `reading_bias` (F,): a mel window of K columns to F features. `gates_in` (F, 3 S),
    `gates_past` (S, 3 S) and their biases: reset, update and candidate of the cell. `answer` (S,), `answer_bias` ().
    """

    reading: FloatArray
    reading_bias: FloatArray
    gates_in: FloatArray
    gates_in_bias: FloatArray
    gates_past: FloatArray
    gates_past_bias: FloatArray
    answer: FloatArray
    answer_bias: FloatArray

    @staticmethod
    def of(tables: Mapping[str, FloatArray]) -> Recurrent:
        """From arrays by name, as in an opened file; raises KeyError when one is missing."""
        return Recurrent(**{field.name: tables[field.name] for field in fields(Recurrent)})

    def begin(self) -> FloatArray:
        """Memory f32 (S,) of a call before its first tick."""
        return np.zeros(len(self.answer), np.float32)

    def advance(self, windows: FloatArray, memory: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mel windows (T, 80, K) of consecutive ticks -> answers f32 (T,) from 0 to 1, and the memory after."""
        size = len(memory)
        # Tick by tick on purpose: a product over several rows rounds differently, and a call must not
        # depend on how many ticks came at once.
        answers = np.empty(len(windows), np.float32)
        for row, window in enumerate(windows):
            read = np.maximum(product(window.reshape(-1), self.reading) + self.reading_bias, 0)
            new = product(read, self.gates_in) + self.gates_in_bias
            past = product(memory, self.gates_past) + self.gates_past_bias
            reset, update = np.split(sigmoid(new[: 2 * size] + past[: 2 * size]), 2)
            candidate = np.tanh(new[2 * size :] + reset * past[2 * size :])
            memory = np.asarray((1 - update) * candidate + update * memory, np.float32)
            answers[row] = sigmoid(memory @ self.answer + self.answer_bias)
        return answers, memory

    def save(self, path: Path, **others: FloatArray) -> None:
        """Write an archive that `of` reads, with `others` beside it."""
        tables = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez_compressed(path, **{**tables, **others})
