"""Whose turn it is: when a caller begins to speak, whether that was meant, and when it ends.

Voice activity is WebRTC's detector (`webrtcvad`), asked every 10 ms; what follows from its answers has two thresholds,
so that a click does not begin a turn and a breath does not end one. A turn is suspected early, because an avatar that
is interrupted should stop at once, and confirmed or withdrawn a little later.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import webrtcvad

from engines.types import SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, FloatArray

FRAME = SPEECH_RATE // 100  # samples the detector is asked about
STRICT = 3  # the detector's mode that takes the least for speech
ONSET = (6, 8)  # voiced frames of so many: somebody may have begun to speak
MEANT = (20, 30)  # of so many: it is so
DOUBT = 10  # ticks after which what is suspected is confirmed or withdrawn
STILL = 0.05  # share of voiced frames in a pause
BEFORE = 10  # ticks kept of what was heard before a turn was suspected
FAINT = 0.004  # level (RMS) below which nothing is speech
LOUDER = 2.5  # times the level of the room
SINKS, RISES = 0.3, 0.002  # how far the level of the room follows each tick, down and up


class Heard(StrEnum):
    """What a tick of the caller's sound brought about."""

    SUSPECTED = "suspected"
    BEGUN = "begun"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a caller said: `pcm` f32 (samples,) at 16 kHz. `cut`: whether it was ended because it went on too long."""

    pcm: FloatArray
    cut: bool


class TurnTaking:
    """One caller. `pause`: seconds of quiet that end a turn, `longest`: seconds after which one is over anyway; then
    there is no other one before a pause, or `listen_again`.

    `turn` is the latest one that ended.
    """

    def __init__(self, pause: float, longest: float) -> None:
        self.turn: Turn | None = None
        self._detector = webrtcvad.Vad(STRICT)
        self._longest = math.ceil(longest / TICK_SECONDS)
        self._frames: deque[bool] = deque(maxlen=max(MEANT[1], round(pause / TICK_SECONDS) * 4))
        self._pause = round(pause / TICK_SECONDS) * 4
        self._before: deque[FloatArray] = deque(maxlen=BEFORE)
        self._sound: list[FloatArray] = []
        self._room = FAINT
        self._since = 0  # ticks since this was suspected
        self._suspected = self._begun = self._deaf = False

    @property
    def speaking(self) -> bool:
        """Whether the caller is taken to speak."""
        return self._begun

    @property
    def suspected(self) -> bool:
        """Whether the caller may have begun to speak."""
        return self._suspected

    def listen_again(self) -> None:
        """Whoever was cut may begin another turn, pause or not."""
        self._deaf = False

    def voiced(self, pcm: FloatArray) -> list[bool]:
        """Sound of a tick f32 (640,) -> whether each of its frames sounds like a voice."""
        level = float(np.sqrt(np.mean(pcm**2)))
        self._room += (SINKS if level < self._room else RISES) * (level - self._room)
        samples = np.clip(pcm * 32768, -32768, 32767).astype("<i2")
        loud = level > max(FAINT, LOUDER * self._room)
        heard = [
            self._detector.is_speech(samples[at : at + FRAME].tobytes(), SPEECH_RATE)
            for at in range(0, SPEECH_SAMPLES, FRAME)
        ]
        return [loud and frame for frame in heard]

    def hear(self, pcm: FloatArray, voiced: list[bool]) -> Heard | None:
        """Add a tick f32 (640,) of which `voiced` is known; what came of it."""
        self._frames.extend(voiced)
        if not self._suspected:
            self._before.append(pcm)
            return self._listen()
        self._sound.append(pcm)
        self._since += 1
        if not self._begun:
            if self._count(MEANT[1]) >= MEANT[0]:
                self._begun = True
                return Heard.BEGUN
            if self._since >= DOUBT:
                self._forget()
                return Heard.WITHDRAWN
        cut = self._since >= self._longest
        if self._begun and (cut or self._count(self._pause) <= STILL * self._pause):
            self.turn = Turn(np.concatenate(self._sound), cut)
            self._forget()
            self._deaf = cut
            return Heard.ENDED
        return None

    def _listen(self) -> Heard | None:
        if self._deaf:
            self._deaf = self._count(self._pause) > STILL * self._pause
        elif self._count(ONSET[1]) >= ONSET[0]:
            self._suspected = True
            self._sound = list(self._before)
            return Heard.SUSPECTED
        return None

    def _count(self, frames: int) -> int:
        return sum(list(self._frames)[-frames:])

    def _forget(self) -> None:
        self._suspected = self._begun = False
        self._since = 0
        self._sound = []
        self._before.clear()
        self._frames.extend([False] * ONSET[1])
