"""Sound between its cut and its encoding: for a few ticks more it can be taken back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engines.types import PLAYBACK_RATE, PLAYBACK_SAMPLES, TICK_SECONDS, IntArray
from server.spoken import Utterance

FADE = 0.02  # seconds in which speech ends that is taken back
SPARE = 0.02  # seconds that are left for encoding and sending
LONGEST = 3  # ticks: later than that pictures would be far ahead of their sound, also where a long hop has time for it


@dataclass(frozen=True, slots=True)
class Leaving:
    """A tick's sound `playback` i16 (1920,). `arrival`: when it came in, None where it was made here. `utterance`: what
    it is a part of, None for a caller's own voice and for silence.
    """

    tick: int
    playback: IntArray
    arrival: float | None
    utterance: Utterance | None


class Outgoing:
    """Holds each tick back for as long as its encoding can wait. `ahead`: seconds from a tick's cut to its due."""

    def __init__(self, ahead: float) -> None:
        self._hold = min(LONGEST, max(0, int((ahead - SPARE) / TICK_SECONDS)))
        self._line: deque[Leaving] = deque()

    def put(self, leaving: Leaving) -> Leaving | None:
        """The tick that is to be encoded now; None while the first ones are held back."""
        self._line.append(leaving)
        return self._line.popleft() if len(self._line) > self._hold else None

    def hush(self) -> bool:
        """End the utterances in it by a short fade; whether there were any."""
        spoken = [place for place, leaving in enumerate(self._line) if leaving.utterance is not None]
        for place in spoken:
            playback = self._line[place].playback * (_fall() if place == spoken[0] else 0.0)
            self._line[place] = replace(self._line[place], playback=playback.astype(np.int16), utterance=None)
        return bool(spoken)


def _fall() -> np.ndarray[Any, np.dtype[np.float64]]:
    """From 1 to 0 in `FADE`, then 0."""
    return np.clip(1 - np.arange(PLAYBACK_SAMPLES) / (FADE * PLAYBACK_RATE), 0, 1)
