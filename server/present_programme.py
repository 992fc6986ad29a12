"""What a presenter says, on its way into the performance, and how far that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.media import Speech
from engines.types import FPS, PLAYBACK_RATE, TICK_SECONDS, KDTalkerError
from server.performance import Moment, Performance
from server.present_script import Said
from server.voices import Sound, Voice, Voices

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

    async def read(
        self, script: Sequence[Said], speaker: Speaker, performance: Performance, told: Callable[[str], None]
    ) -> None:
        """Say a script, each sentence made while those before are spoken; raises VoiceError.

        A sentence that a voice fails at is said by the voice that is always there, and `told` hears of it.
        """
        characters = [len(sentence.text) for sentence in script]
        made = 0.0
        self.total = sum(characters) / PACE
        for number, sentence in enumerate(script, start=1):
            await asyncio.sleep(max(0.0, performance.waiting - AHEAD))
            for sound in await speaker.sounds(sentence.text, told):
                performance.push(sound.pcm, sound.rate)
                made += len(sound.pcm) / sound.rate
            performance.push(np.zeros(round(sentence.pause * PLAYBACK_RATE), np.float32), PLAYBACK_RATE)
            made += sentence.pause
            self.waiting += 1
            performance.end()
            self.total = made + sum(characters[number:]) * made / sum(characters[:number])
        self.complete = True


@dataclass(frozen=True, slots=True)
class Speaker:
    """One of the `voices`, by the `name` it is asked with."""

    voices: Voices
    voice: Voice
    name: str

    @staticmethod
    async def called(name: str | None, voices: Voices) -> Speaker:
        """Raises KDTalkerError where there is no such voice."""
        wanted = name or voices.default
        if (voice := await voices.find(wanted)) is None:
            known = ", ".join(each.name for each in await voices.listed())
            raise KDTalkerError(f"There is no voice '{wanted}'; there are {known}.")
        return Speaker(voices, voice, wanted)

    async def sounds(self, text: str, told: Callable[[str], None]) -> list[Sound]:
        try:
            return [sound async for sound in self.voice.speak(text, self.name)]
        except Exception as error:  # voices are plugins
            spare = self.voices.spare
            if self.voice is spare:
                raise
            told(f"the voice '{self.name}' failed ({error}); another one says this sentence")
            return [sound async for sound in spare.speak(text, spare.default)]


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
