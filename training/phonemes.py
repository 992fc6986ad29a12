"""Speech whose phonemes are known to the sample: espeak-ng through its library (``espeak-ng/speak_lib.h``)."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

from engines.media import resample
from engines.types import SPEECH_RATE, FloatArray, KDTalkerError

RETRIEVAL, PHONEME_EVENTS = 1, 1  # AUDIO_OUTPUT_RETRIEVAL, espeakINITIALIZE_PHONEME_EVENTS
UTF8, PHONEME = 1, 7  # espeakCHARS_UTF8, espeakEVENT_PHONEME
RATE, PITCH = 1, 3  # espeak_PARAMETER
LIBRARY = "libespeak-ng.1.dylib" if sys.platform == "darwin" else "libespeak-ng.so.1"


@dataclass(frozen=True, slots=True)
class Phoneme:
    """`name` in espeak's notation (ASCII, after Kirshenbaum); `begin` and `end` in seconds.

    The closure of a voiceless stop is silent and belongs to the phoneme before it.
    """

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """`sound` f32 (samples,) at 16 kHz and what is said in it."""

    sound: FloatArray
    phonemes: tuple[Phoneme, ...]


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its sampling rate."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise KDTalkerError(f"espeak-ng's library is missing ({error}); install espeak-ng.") from error
    rate = int(library.espeak_Initialize(RETRIEVAL, 0, None, PHONEME_EVENTS))
    if rate <= 0:
        raise KDTalkerError("espeak-ng cannot find its voices; install espeak-ng again.")
    return library, rate


def available() -> bool:
    """Whether espeak-ng is installed."""
    try:
        _library()
    except KDTalkerError:
        return False
    return True


def speak(text: str, voice: str = "en-us", words_a_minute: int = 160, pitch: int = 50) -> Spoken:
    """Speak `text`; `voice` as ``espeak-ng --voices`` lists them, variants as in ``en+f3``; `pitch` 0 to 99.

    Not to be used from two threads at once: the library has one state. Raises KDTalkerError without espeak-ng.
    """
    library, rate = _library()
    parts: list[np.ndarray] = []
    begins: list[tuple[str, int]] = []

    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            if events[index].type == PHONEME:
                begins.append((events[index].id.string.decode(), events[index].sample))
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise KDTalkerError(f"espeak-ng has no voice '{voice}'; espeak-ng --voices lists them.")
    library.espeak_SetParameter(RATE, words_a_minute, 0)
    library.espeak_SetParameter(PITCH, pitch, 0)
    data = text.encode() + b"\0"
    library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, UTF8, None, None)
    library.espeak_Synchronize()
    sound = resample(np.concatenate(parts).astype(np.float32) / 32768, rate, SPEECH_RATE)
    ends = [sample for _, sample in begins[1:]] + [sum(map(len, parts))]
    phonemes = tuple(Phoneme(name, begin / rate, end / rate) for (name, begin), end in zip(begins, ends, strict=True))
    return Spoken(sound, phonemes)
