"""Sounds that are not speech: breaths, music and knocks, drawn from a seed and made into mel columns.

A microphone hears them while nobody speaks; the mouth must not answer. The shapes follow acoustics, not
recordings: a breath is noise through the broad resonances of an open throat that swells and fades, music
is chords of decaying partials with a beat, a knock is a short burst that rings.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from engines.audio import log_mel
from engines.types import SPEECH_RATE, FloatArray

SECONDS = 3.0
KINDS = ("breath", "music", "knocks")

Samples = NDArray[np.float64]


def _coloured(rng: np.random.Generator, count: int, centres: FloatArray, widths: FloatArray) -> Samples:
    """Noise (count,) with a spectrum of bell-shaped resonances, Hz, over a falling floor."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SPEECH_RATE)
    gain = 0.1 / (1 + frequency / 1000)
    for centre, width in zip(centres, widths, strict=True):
        gain = gain + np.exp(-0.5 * ((frequency - centre) / width) ** 2)
    return np.fft.irfft(spectrum * gain, count)


def breath(rng: np.random.Generator, seconds: float = SECONDS) -> FloatArray:
    """Breaths in and out, f32 (samples,) with a root mean square of 1 where it sounds."""
    count = int(seconds * SPEECH_RATE)
    centres = np.array([rng.uniform(400, 900), rng.uniform(1200, 2200), rng.uniform(2500, 6000)])
    noise = _coloured(rng, count, centres, np.array([200, 400, 1000]) * rng.uniform(0.6, 3.0, 3))
    noise /= noise.std()
    envelope = np.zeros(count)
    at = rng.uniform(0, 0.5)
    while at < seconds:
        length = rng.uniform(0.25, 1.5)
        time = (np.arange(count) / SPEECH_RATE - at) / length
        rise = rng.uniform(0.2, 0.7)
        swell = np.where(time < rise, time / rise, (1 - time) / (1 - rise))
        envelope = np.maximum(envelope, np.clip(swell, 0, 1) ** rng.uniform(0.5, 2))
        at += length + rng.uniform(0.05, 1.2)
    return np.asarray(noise * envelope * 2, np.float32)


def music(rng: np.random.Generator, seconds: float = SECONDS) -> FloatArray:
    """Chords, a melody and sometimes a drum, f32 (samples,) with a root mean square of 1."""
    count = int(seconds * SPEECH_RATE)
    time = np.arange(count) / SPEECH_RATE
    beat = rng.uniform(0.2, 0.8)
    sound = np.zeros(count)
    root = rng.uniform(80, 350)
    for start in np.arange(rng.uniform(-beat, 0), seconds, beat):
        since = time - start
        begun = since >= 0
        if rng.random() < 0.3:
            root *= 2 ** (rng.integers(-5, 6) / 12)
            root = float(np.clip(root, 70, 400))
        decay = rng.uniform(0.15, 1.5)
        shape = begun * np.exp(-np.maximum(since, 0) / decay) * np.clip(since / rng.uniform(0.003, 0.08), 0, 1)
        for semitones in rng.choice([0, 3, 4, 7, 12, 16, 19, 24], size=rng.integers(1, 4), replace=False):
            pitch = root * 2 ** (semitones / 12)
            brightness = rng.uniform(0.3, 1.8)
            for partial in range(1, 13):
                if partial * pitch < 7000:
                    phase = rng.uniform(0, 2 * np.pi)
                    sound += shape * np.sin(2 * np.pi * partial * pitch * time + phase) / partial**brightness
        if rng.random() < 0.3:
            drum = _coloured(rng, count, np.array([rng.uniform(60, 4000)]), np.array([rng.uniform(50, 2500)]))
            sound += 2 * drum / drum.std() * begun * np.exp(-np.maximum(since, 0) / rng.uniform(0.02, 0.12))
    return np.asarray(sound / max(sound.std(), 1e-6), np.float32)


def knocks(rng: np.random.Generator, seconds: float = SECONDS) -> FloatArray:
    """Keys, cups and doors: short bursts that ring, f32 (samples,), root mean square 1 over the whole."""
    count = int(seconds * SPEECH_RATE)
    time = np.arange(count) / SPEECH_RATE
    sound = np.zeros(count)
    for start in np.cumsum(rng.exponential(0.35, 12)):
        if start < seconds:
            since = np.maximum(time - start, 0)
            burst = _coloured(rng, count, np.array([rng.uniform(200, 5000)]), np.array([rng.uniform(200, 3000)]))
            decay = np.exp(-since / rng.uniform(0.004, 0.04)) * (time >= start)
            sound += rng.uniform(0.2, 1) * burst / burst.std() * decay
    return np.asarray(sound / max(sound.std(), 1e-6), np.float32)


MAKERS = {"breath": breath, "music": music, "knocks": knocks}


@cache
def amplitude_bank(seed: int, each: int = 40) -> FloatArray:
    """Linear mel amplitudes f32 (3 each, columns, 80) of sounds that are not speech, 0 dB each.

    Order: all breaths, all music, all knocks. A pure function of the seed.
    """
    rng = np.random.default_rng([seed, 0x50D])
    bank = []
    for kind in KINDS:
        for _ in range(each):
            mel = log_mel(0.05 * MAKERS[kind](rng)).T
            bank.append(10.0 ** ((mel + 4) * 0.625 - 4))
    stacked = np.stack(bank).astype(np.float32)
    level = np.sqrt((stacked**2).mean((1, 2), keepdims=True))
    return np.asarray(stacked / level, np.float32)
