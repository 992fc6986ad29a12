"""Whether somebody speaks, tick by tick: a small recurrent network over the mel windows the lips are made from.

Breaths, music, keys and hum are sound but not speech. Where the answer is no, the lips are given what silence
sounds like, so they rest whatever else is heard. Parameters: ``weights/embedded/voice.npz``, fitted by
``python -m training voice``. The cell is a gated recurrent unit (Cho et al., arXiv 1406.1078).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from engines.types import FloatArray, WeightsError

HOLD = 12  # ticks that speech is taken to go on after it was last heard: pauses between words belong to it
DOUBT, CERTAINTY = 0.1, 0.3  # of the network's answer: below is no speech, above is speech


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


@dataclass(frozen=True, slots=True)
class VoiceState:
    """What one call remembers: `memory` f32 (S,) of the cell, `recent` f32 (HOLD,), its latest answers."""

    memory: FloatArray
    recent: FloatArray


@dataclass(frozen=True, slots=True)
class VoiceModel:
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

    def begin(self) -> VoiceState:
        """State of a call before its first tick: nobody has spoken."""
        return VoiceState(np.zeros(len(self.answer), np.float32), np.zeros(HOLD, np.float32))

    def advance(self, windows: FloatArray, state: VoiceState) -> tuple[FloatArray, VoiceState]:
        """Mel windows (T, 80, K) of consecutive ticks -> share of speech f32 (T,) from 0 to 1, and the state after."""
        memory, size = state.memory, len(state.memory)
        # Tick by tick on purpose: a product over several rows rounds differently, and a call must not
        # depend on how many ticks came at once.
        answers = np.empty(len(windows), np.float32)
        for row, window in enumerate(windows):
            read = np.maximum(window.reshape(-1) @ self.reading + self.reading_bias, 0)
            new = read @ self.gates_in + self.gates_in_bias
            past = memory @ self.gates_past + self.gates_past_bias
            reset, update = np.split(_sigmoid(new[: 2 * size] + past[: 2 * size]), 2)
            candidate = np.tanh(new[2 * size :] + reset * past[2 * size :])
            memory = np.asarray((1 - update) * candidate + update * memory, np.float32)
            answers[row] = _sigmoid(memory @ self.answer + self.answer_bias)
        known = np.concatenate([state.recent, answers])
        heard = np.lib.stride_tricks.sliding_window_view(known, HOLD + 1).max(1)
        shares = np.clip((heard - DOUBT) / (CERTAINTY - DOUBT), 0, 1).astype(np.float32)
        return shares, VoiceState(memory, known[-HOLD:])

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **{name: getattr(self, name) for name in VoiceModel.__dataclass_fields__})


@cache
def voice_model(folder: Path | None = None) -> VoiceModel:
    """Parameters from a folder that has its own, else the shipped ones; raises WeightsError when they are not ours."""
    own = None if folder is None else folder / "voice.npz"
    resource = files("engines") / "weights" / "embedded" / "voice.npz"
    try:
        with as_file(own if own is not None and own.exists() else resource) as path, np.load(path) as archive:
            return VoiceModel(**{name: archive[name] for name in VoiceModel.__dataclass_fields__})
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"The voice tables {own or resource} cannot be read ({error}); reinstall the package."
        ) from error


def only_speech(features: FloatArray, shares: FloatArray, silence: FloatArray) -> FloatArray:
    """Sound features (T, A) where somebody speaks, the feature of silence (A,) where nobody does."""
    return np.asarray(silence + shares[:, None] * (features - silence), np.float32)
