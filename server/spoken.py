"""Sound files that a call's avatar speaks in place of its microphone, one after another, cut by the call's clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from engines.media import Speech
from engines.types import PLAYBACK_RATE, PLAYBACK_SAMPLES, SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, SpeechTick

FADE = 0.01  # seconds in which a file that is stopped ends


class TooMuchError(Exception):
    """More is waiting than may; the text says what to do."""


class SpokenFiles:
    """The files of one call; used on the event loop. `tell(kind, state=..., ...)` hears when one begins and ends.

    Every sample is passed on, so the look-ahead of a file's frames is its own sound, and silence at its end.
    """

    def __init__(self, longest: float, tell: Callable[..., None]) -> None:
        self._longest, self._tell = longest, tell
        self._files: deque[Speech] = deque()
        self._spoken = 0  # ticks of the first one
        self._stopped = False

    @property
    def seconds(self) -> float:
        """Of sound that are still to be spoken."""
        return (sum(speech.frames for speech in self._files) - self._spoken) * TICK_SECONDS

    def add(self, speech: Speech) -> None:
        """Speak this when all before it is spoken; raises TooMuchError."""
        if self.seconds + speech.frames * TICK_SECONDS > self._longest:
            raise TooMuchError(f"At most {self._longest:.0f} s of sound may wait; try again when more of it is spoken.")
        self._files.append(speech)

    def stop(self) -> None:
        """Speak none of it any more."""
        self._stopped = bool(self._files)

    def take(self, tick: int) -> SpeechTick | None:
        """The sound of a tick; None while there is nothing to speak."""
        if not self._files:
            return None
        speech = self._files[0]
        at = self._spoken
        if at == 0 and not self._stopped:
            self._tell("speech", state="begun", seconds=speech.frames * TICK_SECONDS)
        self._spoken += 1
        pcm = speech.pcm[at * SPEECH_SAMPLES : (at + 1) * SPEECH_SAMPLES]
        playback = speech.playback[at * PLAYBACK_SAMPLES : (at + 1) * PLAYBACK_SAMPLES]
        pcm = np.pad(pcm, (0, SPEECH_SAMPLES - len(pcm)))
        playback = np.pad(playback, (0, PLAYBACK_SAMPLES - len(playback)))
        if self._stopped:
            self._files.clear()
            self._spoken, self._stopped = 0, False
            pcm = np.asarray(pcm * _fall(SPEECH_RATE, SPEECH_SAMPLES), np.float32)
            playback = np.asarray(playback * _fall(PLAYBACK_RATE, PLAYBACK_SAMPLES), np.int16)
            self._tell("speech", state="stopped")
        elif self._spoken == speech.frames:
            self._files.popleft()
            self._spoken = 0
            self._tell("speech", state="ended", waiting=len(self._files))
        return SpeechTick(tick, pcm, playback)

    def stats(self) -> dict[str, Any] | None:
        return {"seconds_left": round(self.seconds, 2), "files": len(self._files)} if self._files else None


def _fall(rate: int, samples: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """From 1 to 0 in `FADE`, then 0."""
    return np.clip(1 - np.arange(samples) / (FADE * rate), 0, 1)
