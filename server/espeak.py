"""The voice that is always there: espeak-ng, out of the wheel that carries it, in a process of its own.

The library keeps its state in globals and reads whatever strangers write: one process owns it for all calls, and one
that breaks costs a sentence. Names and constants are those of espeak-ng's `speak_lib.h`.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import espeakng_loader
import numpy as np

from server.apart import Apart, BrokenError, FailedError
from server.voices import Sound, VoiceError, VoiceInfo

DEFAULT = "en-us"
VARIANT = re.compile(r"\+[A-Za-z0-9]{1,16}")  # of a voice, as `+f3`: another throat
PATIENCE = 10.0  # seconds for one sentence, the process's own start included
NICE = 5  # less than what prepares photos: somebody waits for the next word
LONGEST = 120  # seconds of sound that one request may make
SYNCHRONOUS, DONT_EXIT, UTF8, BY_CHARACTER = 2, 0x8000, 1, 1
LIST_END, WORD = 0, 1

logger = logging.getLogger(__name__)


class Espeak:
    """Every voice that espeak-ng has, by its language (`en-us`, `de`), with a variant if asked (`en-us+f3`);
    see `server.voices.Voice`.
    """

    def __init__(self, default: str = DEFAULT) -> None:
        self._default = default
        self._process = Apart("voice", _speaking, patience=PATIENCE, nice=NICE)
        self._executor = ThreadPoolExecutor(1, "voice")
        self._voices: tuple[VoiceInfo, ...] = ()

    @property
    def default(self) -> str:
        return self._default

    async def voices(self) -> tuple[VoiceInfo, ...]:
        if not self._voices:
            self._voices = await self._ask(None)
        return self._voices

    async def has(self, voice: str) -> bool:
        name = VARIANT.sub("", voice, count=1)
        return voice.count("+") <= 1 and any(name == known.name for known in await self.voices())

    async def speak(self, text: str, voice: str) -> AsyncIterator[Sound]:
        """The sound of a sentence, in one piece; raises VoiceError."""
        yield await self._ask((text, voice))

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._process.stop()

    async def _ask(self, request: tuple[str, str] | None) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._process.ask, request)
        except (BrokenError, FailedError) as error:
            logger.warning("espeak-ng failed: %s", error)
            raise VoiceError("The voice espeak-ng failed at this sentence.") from error


# What follows runs in the process.


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),  # a byte of priority, then the language; another one; zero
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(slots=True)
class _Made:
    """What the library handed over for the sentence it is at."""

    limit: int
    pieces: list[np.ndarray[Any, np.dtype[np.int16]]]
    words: list[tuple[float, int]]
    samples: int = 0


def _speaking() -> Callable[[tuple[str, str] | None], Sound | tuple[VoiceInfo, ...]]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), DONT_EXIT)
    if rate <= 0:
        raise OSError("espeak-ng does not start")
    made = _Made(LONGEST * rate, [], [])

    def collect(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            made.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            made.samples += count
        at = 0
        while events[at].type != LIST_END:
            if events[at].type == WORD:
                made.words.append((events[at].audio_position / 1000, events[at].text_position - 1))
            at += 1
        return int(made.samples > made.limit)  # 1: that is enough

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)

    def speak(text: str, voice: str) -> Sound:
        nonlocal made
        made = _Made(LONGEST * rate, [], [])
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        data = text.replace("\0", " ").encode()
        if library.espeak_Synth(data, len(data) + 1, 0, BY_CHARACTER, 0, UTF8, None, None):
            raise ValueError("espeak-ng refuses the text")
        samples = np.concatenate([np.zeros(0, np.int16), *made.pieces])
        return Sound(text, samples.astype(np.float32) * np.float32(1 / 32768), rate, tuple(made.words))

    def answer(request: tuple[str, str] | None) -> Sound | tuple[VoiceInfo, ...]:
        _ = callback  # the library has only its address
        return _listed(library) if request is None else speak(*request)

    return answer


def _listed(library: Any) -> tuple[VoiceInfo, ...]:
    listed: dict[str, VoiceInfo] = {}
    voices = library.espeak_ListVoices(None)
    at = 0
    while voices[at]:
        voice = voices[at].contents
        language = ctypes.string_at(voice.languages + 1).decode()
        listed.setdefault(language, VoiceInfo(language, language, f"{voice.name.decode()}, espeak-ng"))
        at += 1
    return tuple(listed.values())
