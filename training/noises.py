"""What a microphone hears while nobody speaks, for the evaluation.

Nothing here shares code or shapes with ``training/sounds.py``: breaths are turbulence through two ringing
resonators, music is plucked strings (Karplus and Strong 1983) under a vibrato tone, other people are recorded
clips. A model that learned the training's sounds by heart would not pass here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.types import SPEECH_RATE, FloatArray

Samples = NDArray[np.float64]
SECONDS = 2.0
LEVELS = {"silence": -120, "room noise": -56, "telephone line": -50, "breath": -34, "music": -26, "keys": -34}  # dB


def _time(count: int) -> Samples:
    return np.arange(count) / SPEECH_RATE


def _resonator(sound: Samples, hertz: float, width: float) -> Samples:
    """A two-pole resonator, its impulse response cut at 60 dB."""
    length = int(2.2 * SPEECH_RATE / width)
    time = _time(length)
    response = np.exp(-np.pi * width * time) * np.sin(2 * np.pi * hertz * time)
    return np.convolve(sound, response)[: len(sound)]


def room_noise(rng: np.random.Generator, count: int) -> Samples:
    """Ventilation: noise that falls by 3 dB an octave, and the hum of the mains."""
    octaves = sum(np.repeat(rng.standard_normal(-(-count // 2**k)), 2**k)[:count] for k in range(10))
    hum = np.sin(2 * np.pi * 50 * _time(count)) + 0.5 * np.sin(2 * np.pi * 150 * _time(count) + 1)
    return np.asarray(octaves / np.std(octaves) + 0.3 * hum)


def telephone_line(rng: np.random.Generator, count: int) -> Samples:
    """Hiss of a line, 300 to 3400 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SPEECH_RATE)
    return np.fft.irfft(spectrum * ((hertz > 300) & (hertz < 3400)), count)


def breath(rng: np.random.Generator, count: int) -> Samples:
    """In quickly through the mouth, out slowly through the nose."""
    noise = rng.standard_normal(count)
    mouth = _resonator(noise, rng.uniform(1100, 1700), 500) + 0.5 * _resonator(noise, rng.uniform(2800, 3800), 900)
    nose = _resonator(noise, rng.uniform(300, 700), 250)
    time = _time(count)
    begin, turn = rng.uniform(0.1, 0.3), rng.uniform(0.6, 0.9)
    inwards = np.clip((time - begin) / (turn - begin), 0, 1) * (time < turn)
    outwards = np.exp(-2.5 * np.clip(time - turn - 0.1, 0, None)) * (time > turn + 0.1)
    return np.asarray(mouth / mouth.std() * inwards + 0.5 * nose / nose.std() * outwards)


def _pluck(rng: np.random.Generator, hertz: float, count: int) -> Samples:
    """A string: noise that goes round a delay line and is averaged with its neighbour each time."""
    period = int(SPEECH_RATE / hertz)
    line, parts = rng.uniform(-1, 1, period), []
    for _ in range(-(-count // period)):
        parts.append(line)
        line = 0.498 * (line + np.roll(line, 1))
    return np.concatenate(parts)[:count]


def music(rng: np.random.Generator, count: int) -> Samples:
    """A plucked tune with a sustained tone in vibrato under it and a brushed beat."""
    time, sound = _time(count), np.zeros(count)
    root = rng.uniform(110, 260)
    step = int(rng.uniform(0.18, 0.4) * SPEECH_RATE)
    for number, start in enumerate(range(0, count, step)):
        note = root * 2 ** (rng.choice([0, 2, 4, 7, 9, 12]) / 12)
        sound[start:] += _pluck(rng, note, count - start)
        if number % 2:
            brush = rng.standard_normal(count - start) * np.exp(-30 * time[: count - start])
            sound[start:] += 0.15 * np.diff(brush, prepend=0)
    vibrato = 2 * np.pi * root * time + 0.6 * np.sin(2 * np.pi * 5.5 * time)
    return np.asarray(sound + 0.25 * np.sin(vibrato + 0.8 * np.sin(2 * vibrato)))


def keys(rng: np.random.Generator, count: int) -> Samples:
    """Somebody types: pairs of clicks on a board."""
    clicks = np.zeros(count)
    for start in rng.integers(0, count - 1600, 9):
        clicks[start] += rng.uniform(0.4, 1)
        clicks[start + rng.integers(500, 1500)] -= rng.uniform(0.2, 0.6)
    return _resonator(clicks, 2600, 700) + 0.6 * _resonator(clicks, 420, 160)


MAKERS = {"room noise": room_noise, "telephone line": telephone_line, "breath": breath, "music": music, "keys": keys}


def noise(kind: str, seed: int, seconds: float = SECONDS) -> FloatArray:
    """Sound f32 (samples,) of a kind of `LEVELS` at its level, root mean square over the whole."""
    count = int(seconds * SPEECH_RATE)
    if kind == "silence":
        return np.zeros(count, np.float32)
    return at_level(MAKERS[kind](np.random.default_rng([seed, len(kind)]), count), LEVELS[kind])


def at_level(sound: Samples | FloatArray, decibel: float) -> FloatArray:
    """Sound brought to a root mean square of `decibel` below full scale."""
    return np.asarray(sound / max(float(np.std(sound)), 1e-9) * 10 ** (decibel / 20), np.float32)


def babble(voices: list[FloatArray], count: int) -> FloatArray:
    """Several people talk behind: sounds laid over each other, f32 (count,)."""
    return np.asarray(sum(np.resize(voice / max(float(voice.std()), 1e-6), count) for voice in voices), np.float32)
