"""Text to speech: what a voice is, and the voices that a server has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.types import FloatArray, KDTalkerError


class VoiceError(KDTalkerError):
    """A voice cannot say this; the text is for a person."""


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """`name` is what requests use, `language` a BCP 47 tag or empty where a voice has many."""

    name: str
    language: str
    description: str


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of text as sound: `pcm` f32 (samples,), mono, at `rate` Hz.

    `words`: where known, (second at which a word begins, characters of `text` before it), in order.
    """

    text: str
    pcm: FloatArray
    rate: int
    words: tuple[tuple[float, int], ...] = ()


class Voice(Protocol):
    """One way to make speech. The setting `voice` names a class of one's own, called without arguments.

    Everything is called on the event loop, which must not wait for it.
    """

    @property
    def default(self) -> str:
        """Name of the voice that speaks where nobody chose one."""
        ...

    async def voices(self) -> Sequence[VoiceInfo]:
        """Those that can be chosen; raises VoiceError."""
        ...

    async def has(self, voice: str) -> bool: ...

    def speak(self, text: str, voice: str) -> AsyncIterator[Sound]:
        """The sound of a sentence, in as many pieces as it comes in; raises VoiceError."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...


class Voices:
    """All voices of a server; those of the first are preferred, and the last one speaks where another fails."""

    def __init__(self, voices: Sequence[Voice]) -> None:
        self._voices = tuple(voices)

    @property
    def default(self) -> str:
        return self._voices[0].default

    @property
    def spare(self) -> Voice:
        return self._voices[-1]

    async def listed(self) -> list[VoiceInfo]:
        return [voice for each in self._voices for voice in await each.voices()]

    async def find(self, name: str) -> Voice | None:
        for each in self._voices:
            if await each.has(name):
                return each
        return None

    async def close(self) -> None:
        for each in self._voices:
            await each.close()
