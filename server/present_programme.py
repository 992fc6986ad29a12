"""What a presenter says, on its way into the performance, and how far that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.media import Speech
from engines.types import FPS, PLAYBACK_RATE, TICK_SECONDS, KDTalkerError
from server.performance import Moment, Performance
from server.present_script import Said
from server.voices import Voice, Voices

AHEAD = 15.0  # seconds of sound that are made before they are spoken
TAIL = FPS  # ticks after the last word
PACE = 14.0  # characters a second, until the voice is known


@dataclass(slots=True)
class Programme:
    """Seconds of sound: the `total`, as far as it is known, and what is `said` of it."""

    total: float = 0.0
    said: float = 0.0
    waiting: int = 0  # utterances that are made and not over
    complete: bool = False  # all are made
    rest: int = 0  # ticks since the last word

    def shown(self, moment: Moment) -> bool:
        """Count a tick; True once all is said and the face had a moment to come to rest."""
        self.said += TICK_SECONDS * moment.speaks
        self.waiting -= moment.ends
        self.rest += self.complete and self.waiting == 0
        return self.rest > TAIL

    def __str__(self) -> str:
        return f"{clock(self.said)} of {'' if self.complete else 'about '}{clock(self.total)}"

    def play(self, speech: Speech, performance: Performance) -> None:
        """Say a sound file."""
        self.total, self.waiting, self.complete = speech.frames * TICK_SECONDS, 1, True
        performance.push(np.float32(1 / 32768) * speech.playback.astype(np.float32), PLAYBACK_RATE)
        performance.end()

    async def read(self, script: Sequence[Said], voice: Voice, name: str, performance: Performance) -> None:
        """Say a script, each sentence made while those before are spoken; raises VoiceError."""
        characters = [len(sentence.text) for sentence in script]
        made = 0.0
        self.total = sum(characters) / PACE
        for number, sentence in enumerate(script, start=1):
            await asyncio.sleep(max(0.0, performance.waiting - AHEAD))
            async for sound in voice.speak(sentence.text, name):
                performance.push(sound.pcm, sound.rate)
                made += len(sound.pcm) / sound.rate
            performance.push(np.zeros(round(sentence.pause * PLAYBACK_RATE), np.float32), PLAYBACK_RATE)
            made += sentence.pause
            self.waiting += 1
            performance.end()
            self.total = made + sum(characters[number:]) * made / sum(characters[:number])
        self.complete = True


async def voice_called(name: str | None, voices: Voices) -> tuple[Voice, str]:
    """A voice and the name that it is asked with; raises KDTalkerError."""
    wanted = name or voices.default
    if (voice := await voices.find(wanted)) is None:
        known = ", ".join(each.name for each in await voices.listed())
        raise KDTalkerError(f"There is no voice '{wanted}'; there are {known}.")
    return voice, wanted


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
