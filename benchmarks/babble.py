"""Speech without a recording: syllables of a synthetic voice, with pauses, at moments that the seed decides."""

from __future__ import annotations

import numpy as np

from engines.types import PLAYBACK_RATE, IntArray

# Centre frequencies of the first three formants in Hz, men's voices (Peterson and Barney 1952, table II).
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
WIDTHS, LEVELS = (80, 100, 150), (1.0, 0.5, 0.25)  # of the formants, in Hz and relative
HARMONICS = 35
NOISE = 1e-3  # relative to the loudest sound, so that no stretch is empty


def babble(seconds: float, seed: int = 0) -> IntArray:
    """A voice that says vowels, 0.12 to 0.24 s each, with pauses now and then; i16 (samples,) at 48 kHz."""
    random = np.random.default_rng(seed)
    sound = NOISE * random.standard_normal(round(seconds * PLAYBACK_RATE))
    begin = 0.3
    while begin < seconds - 0.3:
        length = random.uniform(0.12, 0.24)
        first = round(begin * PLAYBACK_RATE)
        said = _syllable(length, random.uniform(100, 150), FORMANTS[random.integers(len(FORMANTS))])
        sound[first : first + len(said)] += said[: len(sound) - first]
        begin += length + (random.uniform(0.02, 0.08) if random.random() < 0.75 else random.uniform(0.3, 0.6))
    return np.round(sound / np.abs(sound).max() * 16_000).astype(np.int16)


def _syllable(seconds: float, pitch: float, formants: tuple[int, int, int]) -> np.ndarray:
    time = np.arange(round(seconds * PLAYBACK_RATE)) / PLAYBACK_RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))) / PLAYBACK_RATE
    sound = np.zeros(len(time))
    for harmonic in range(1, HARMONICS):
        resonances = zip(formants, WIDTHS, LEVELS, strict=True)
        gain = sum(level / (1 + ((harmonic * pitch - centre) / width) ** 2) for centre, width, level in resonances)
        sound += gain * np.sin(harmonic * phase)
    return np.asarray(sound * np.sqrt(np.hanning(len(time))))
