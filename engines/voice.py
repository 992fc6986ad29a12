"""Whether somebody speaks, tick by tick (`engines.recurrent`).

Breaths, music, keys and hum are sound but not speech. Where the answer is no, the lips are given what silence
sounds like, so they rest whatever else is heard. Parameters: ``weights/embedded/voice.npz``, fitted by
``python -m training voice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from engines.recurrent import Recurrent
from engines.types import FloatArray, WeightsError

HOLD = 12  # ticks that speech is taken to go on after it was last heard: pauses between words belong to it
DOUBT, CERTAINTY = 0.1, 0.3  # of the network's answer: below is no speech, above is speech


@dataclass(frozen=True, slots=True)
class VoiceState:
    """What one call remembers: `memory` f32 (S,) of the cell, `recent` f32 (HOLD,), its latest answers."""

    memory: FloatArray
    recent: FloatArray


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """The network that answers whether somebody speaks; holds no caller's state."""

    network: Recurrent

    def begin(self) -> VoiceState:
        """State of a call before its first tick: nobody has spoken."""
        return VoiceState(self.network.begin(), np.zeros(HOLD, np.float32))

    def advance(self, windows: FloatArray, state: VoiceState) -> tuple[FloatArray, VoiceState]:
        """Mel windows (T, 80, K) of consecutive ticks -> share of speech f32 (T,) from 0 to 1, and the state after."""
        answers, memory = self.network.advance(windows, state.memory)
        known = np.concatenate([state.recent, answers])
        heard = np.lib.stride_tricks.sliding_window_view(known, HOLD + 1).max(1)
        shares = np.clip((heard - DOUBT) / (CERTAINTY - DOUBT), 0, 1).astype(np.float32)
        return shares, VoiceState(memory, known[-HOLD:])


@cache
def voice_model(folder: Path | None = None) -> VoiceModel:
    """Parameters from a folder that has its own, else the shipped ones; raises WeightsError when they are not ours."""
    own = None if folder is None else folder / "voice.npz"
    resource = files("engines") / "weights" / "embedded" / "voice.npz"
    try:
        with as_file(own if own is not None and own.exists() else resource) as path, np.load(path) as archive:
            return VoiceModel(Recurrent.of(archive))
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"The voice tables {own or resource} cannot be read ({error}); reinstall the package."
        ) from error


def only_speech(features: FloatArray, shares: FloatArray, silence: FloatArray) -> FloatArray:
    """Sound features (T, A) where somebody speaks, the feature of silence (A,) where nobody does."""
    return np.asarray(silence + shares[:, None] * (features - silence), np.float32)
