"""Whether somebody speaks, tick by tick (`engines.recurrent`).

Breaths, music, keys and hum are sound but not speech. Where the answer is no, the lips hear silence, so they rest
whatever else sounds. Parameters: ``weights/embedded/voice.npz``, fitted by
``python -m training voice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from engines.audio import decibels
from engines.recurrent import Recurrent
from engines.tables import own, tables
from engines.types import FloatArray

BEGINS, GOES_ON = 0.6, 0.25  # of the network's answer: what it takes to begin to speak, and to go on
HOLD = 1  # ticks that speech is taken to go on after that
NEAR = 15.0  # dB below the loudest speech in which nobody begins: people in the next room are softer than that
EASE = 0.1  # dB a tick by which that is forgotten while somebody insists
COLUMNS = 6  # of a mel window, the latest: how loud it is now
NOTHING = -200.0  # dB


@dataclass(frozen=True, slots=True)
class VoiceState:
    """What one call remembers: `memory` f32 (S,) of the cell, `left`: ticks for which somebody still speaks, `loudest`:
    dB of the speech so far.
    """

    memory: FloatArray
    left: int
    loudest: float = NOTHING


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """The network that answers whether somebody speaks; holds no caller's state."""

    network: Recurrent

    def begin(self) -> VoiceState:
        """State of a call before its first tick: nobody has spoken."""
        return VoiceState(self.network.begin(), 0)

    def advance(self, windows: FloatArray, state: VoiceState) -> tuple[FloatArray, VoiceState]:
        """Mel windows (T, 80, K) of consecutive ticks -> share of speech f32 (T,), 0 or 1, and the state after.

        Two thresholds, as in a Schmitt trigger: it takes more to begin than to go on. Nor does anybody begin who is
        much softer than who spoke before.
        """
        answers, memory = self.network.advance(windows, state.memory)
        shares, left, loudest = np.empty(len(answers), np.float32), state.left, state.loudest
        for tick, (answer, level) in enumerate(zip(answers, levels(windows), strict=True)):
            speaks = answer >= (GOES_ON if left else BEGINS)
            if speaks and not left and level < loudest - NEAR:
                speaks, loudest = False, loudest - EASE
            if speaks and answer >= BEGINS:
                loudest = max(loudest, float(level))
            left = HOLD + 1 if speaks else max(0, left - 1)
            shares[tick] = left > 0
        return shares, VoiceState(memory, left, loudest)


def levels(windows: FloatArray) -> FloatArray:
    """How loud mel windows (T, 80, K) are at their end, dB (T,)."""
    power = (10 ** (decibels(windows[..., -COLUMNS:]) / 10)).sum((1, 2)) / COLUMNS
    return np.asarray(10 * np.log10(np.maximum(power, 1e-20)), np.float32)


@cache
def voice_model(folder: Path | None = None) -> VoiceModel:
    """Parameters from a folder that has its own, else the shipped ones; raises WeightsError when they are not ours."""
    with tables("voice.npz", "voice tables", own(folder, "voice.npz")) as archive:
        return VoiceModel(Recurrent.of(archive))
