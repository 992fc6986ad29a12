"""Sounds around a speaker, much more varied than life has them, to learn what is not speech.

Beside the breaths, music and knocks of ``training/sounds.py``: tunes of any timbre, steady and gliding tones, noise of
any colour that stays, swells or flutters, and bursts of clicks that ring. Every number of a sound is drawn at random
from a range wider than instruments, rooms and keyboards fill, so that what stays common is only that none of it
speaks.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from engines.audio import BANDS, log_mel
from engines.types import SPEECH_RATE, FloatArray
from training import sounds
from training.batches import amplitude

SECONDS = 4.0
COUNT = int(SECONDS * SPEECH_RATE)
HIGHEST = 7600.0  # Hz, of a mel column

Samples = NDArray[np.float64]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _shaped(rng: np.random.Generator, sound: Samples, depth: float) -> Samples:
    """Sound through a random smooth curve over frequency, `depth` dB of deviation, often cut off below or above."""
    spectrum = np.fft.rfft(sound)
    hertz = np.fft.rfftfreq(len(sound), 1 / SPEECH_RATE)
    mel = np.log1p(hertz / 700)
    knots = np.linspace(0, mel[-1], int(rng.integers(3, 12)))
    decibel = np.interp(mel, knots, rng.normal(0, depth, len(knots)))
    decibel += rng.normal(-3, 4) * np.log2(np.maximum(hertz, 100) / 1000)
    if rng.random() < 0.4:
        decibel -= 60 * np.clip(np.log2(_between(rng, 80, 1500) / np.maximum(hertz, 1)), 0, 1)
    if rng.random() < 0.4:
        decibel -= 60 * np.clip(np.log2(np.maximum(hertz, 1) / _between(rng, 600, 7000)), 0, 1)
    return np.fft.irfft(spectrum * 10 ** (decibel / 20), len(sound))


def _slow(rng: np.random.Generator, count: int, rate: float) -> Samples:
    """A random curve with deviation 1 that changes about `rate` times a second."""
    points = rng.standard_normal(max(4, int(count / SPEECH_RATE * rate) + 4))
    return np.interp(np.linspace(0, len(points) - 1, count), np.arange(len(points)), points)


def _note(rng: np.random.Generator, hertz: float, count: int, timbre: tuple[Samples, float, float, float]) -> Samples:
    """One note: `timbre` is the partials' amplitudes, decay in seconds, attack in seconds and depth of vibrato."""
    amplitudes, decay, attack, depth = timbre
    time = np.arange(count) / SPEECH_RATE
    bend = depth * np.sin(2 * np.pi * rng.uniform(3.5, 7.5) * time + rng.uniform(0, 6))
    if rng.random() < 0.15:
        bend = bend + rng.normal(0, 0.15) * np.exp(-time / _between(rng, 0.03, 0.5))
    phase = 2 * np.pi * hertz * np.cumsum(1 + bend) / SPEECH_RATE
    partials = np.arange(1, 1 + min(len(amplitudes), max(1, int(HIGHEST / hertz))))
    damping = np.exp(-time[None] / decay * (1 + 0.3 * rng.random() * (partials[:, None] - 1)))
    waves = np.sin(partials[:, None] * phase[None] + rng.uniform(0, 6, (len(partials), 1)))
    sound = (amplitudes[: len(partials), None] * damping * waves).sum(0)
    return np.asarray(sound * np.clip(time / attack, 0, 1) * np.clip((time[-1] - time) / 0.02, 0, 1))


def tune(rng: np.random.Generator) -> Samples:
    """Notes and chords of one or two instruments, sometimes with drums and an echoing room."""
    sound = np.zeros(COUNT)
    beat = _between(rng, 0.12, 1.2)
    scale = rng.choice([0, 2, 3, 4, 5, 7, 9, 10, 11, 12], 5)
    for _ in range(int(rng.integers(1, 3))):
        root = _between(rng, 55, 700)
        bright = rng.uniform(0.2, 2.2)
        amplitudes = np.arange(1, 25) ** -bright * np.exp(rng.normal(0, rng.uniform(0, 1.2), 24))
        timbre = (amplitudes, _between(rng, 0.08, 20), _between(rng, 0.002, 0.25), max(0.0, rng.normal(0, 0.012)))
        voices = int(rng.integers(1, 4))
        at = -rng.uniform(0, beat)
        while at < SECONDS:
            length = beat * rng.choice([0.5, 1, 1, 2, 4])
            first, last = max(0, int(at * SPEECH_RATE)), min(COUNT, int((at + 1.2 * length) * SPEECH_RATE))
            for _ in range(voices if last - first > 400 and rng.random() < 0.9 else 0):
                pitch = root * 2 ** ((rng.choice(scale) + 12 * rng.integers(0, 2)) / 12)
                sound[first:last] += rng.uniform(0.4, 1) * _note(rng, pitch, last - first, timbre)
            at += length
    if rng.random() < 0.5:
        sound = sound / max(sound.std(), 1e-6) + rng.uniform(0.3, 2) * drums(rng, beat)
    return _echoing(rng, sound) if rng.random() < 0.3 else sound


def drums(rng: np.random.Generator, beat: float) -> Samples:
    """Struck skins and brushed metal on a beat, seconds; deviation 1."""
    sound = np.zeros(COUNT)
    for step in (1, 2, 0.5)[: int(rng.integers(1, 4))]:
        length = int(_between(rng, 0.03, 0.4) * SPEECH_RATE)
        time = np.arange(length) / SPEECH_RATE
        hit = _shaped(rng, rng.standard_normal(length), 10) * np.exp(-time / _between(rng, 0.01, 0.12))
        if rng.random() < 0.4:
            hit = hit / hit.std() + 3 * np.sin(2 * np.pi * _between(rng, 45, 250) * time) * np.exp(-time / 0.08)
        for start in np.arange(rng.uniform(0, beat), SECONDS, beat * step):
            first = int(start * SPEECH_RATE)
            sound[first : first + length] += rng.uniform(0.5, 1) * hit[: COUNT - first] / max(hit.std(), 1e-6)
    return sound / max(sound.std(), 1e-6)


def _echoing(rng: np.random.Generator, sound: Samples) -> Samples:
    """In a room that rings for a tenth of a second up to two."""
    length = int(SPEECH_RATE * rng.uniform(0.1, 0.8))
    tail = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
    size = 2 * COUNT
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)[:COUNT]


def tone(rng: np.random.Generator) -> Samples:
    """Hum, dial tones, beeps, sirens: a few sines, steady or gliding, with or without a cadence."""
    time = np.arange(COUNT) / SPEECH_RATE
    base = _between(rng, 45, 2500)
    harmonic = rng.random() < 0.5
    glide = np.ones(COUNT)
    if rng.random() < 0.3:
        glide = 2 ** (rng.uniform(0, 0.8) * _slow(rng, COUNT, _between(rng, 0.3, 6)))
    sound = np.zeros(COUNT)
    for number in range(1, int(rng.integers(2, 14))):
        hertz = base * (number if harmonic else _between(rng, 0.5, 4))
        if hertz < HIGHEST / 2:
            phase = 2 * np.pi * hertz * np.cumsum(glide) / SPEECH_RATE
            sound += np.exp(rng.normal(0, 1)) / number * np.sin(phase + rng.uniform(0, 6))
    if rng.random() < 0.5:
        period, share = _between(rng, 0.08, 2.5), rng.uniform(0.2, 0.8)
        sound *= ((time + rng.uniform(0, period)) % period) < share * period
    return sound + _between(rng, 0.001, 0.3) * rng.standard_normal(COUNT)


def hiss(rng: np.random.Generator) -> Samples:
    """Noise of one colour: lines, fans and rain stay as loud, breaths and cars swell, wind flutters."""
    noise = _shaped(rng, rng.standard_normal(COUNT), rng.uniform(1, 12))
    noise /= max(noise.std(), 1e-9)
    choice = rng.random()
    if choice < 0.35:
        return noise * 10 ** (rng.uniform(0, 2) * _slow(rng, COUNT, 4) / 20)
    if choice < 0.6:
        return noise * 10 ** (rng.uniform(3, 9) * _slow(rng, COUNT, _between(rng, 0.5, 8)) / 20)
    time, envelope, at = np.arange(COUNT) / SPEECH_RATE, np.full(COUNT, 1e-4), rng.uniform(-0.5, 0.5)
    while at < SECONDS:
        rise, fall = _between(rng, 0.04, 0.8), _between(rng, 0.08, 1.2)
        shape = np.minimum((time - at) / rise, 1 - (time - at - rise) / fall)
        envelope = np.maximum(envelope, rng.uniform(0.3, 1) * np.clip(shape, 0, 1) ** _between(rng, 0.4, 3))
        at += rise + fall + rng.uniform(-0.05, 1.0)
        if rng.random() < 0.4:  # out sounds unlike in
            other = _shaped(rng, rng.standard_normal(COUNT), rng.uniform(1, 12))
            noise = np.where(time < at, noise, other / max(other.std(), 1e-9))
    return noise * envelope


def rustle(rng: np.random.Generator) -> Samples:
    """Paper, cloth, a hand on the microphone: noise in irregular short bursts."""
    noise = _shaped(rng, rng.standard_normal(COUNT), rng.uniform(1, 8))
    bursts = np.maximum(_slow(rng, COUNT, _between(rng, 5, 60)) + rng.uniform(-1, 0.5), 0) ** rng.uniform(1, 3)
    return noise * bursts * np.maximum(_slow(rng, COUNT, 1.5) + 1, 0)


def clicks(rng: np.random.Generator) -> Samples:
    """Keys, switches, cutlery: strokes alone, in pairs or in volleys, each ringing in one to four resonances."""
    strokes = np.zeros(COUNT)
    rate, release = _between(rng, 0.8, 14), rng.uniform(0.02, 0.15)
    at = rng.exponential(1 / rate)
    while at < SECONDS:
        strokes[int(at * SPEECH_RATE)] += rng.choice([-1, 1]) * rng.uniform(0.2, 1)
        after = at + release * rng.uniform(0.7, 1.4)
        if rng.random() < 0.6 and after < SECONDS:
            strokes[int(after * SPEECH_RATE)] += rng.choice([-1, 1]) * rng.uniform(0.1, 0.8)
        at += rng.exponential(1 / rate) + (rng.uniform(0.3, 1.5) if rng.random() < 0.1 else 0)
    length = int(0.15 * SPEECH_RATE)
    time = np.arange(length) / SPEECH_RATE
    ringing = rng.uniform(0, 0.5) * rng.standard_normal(length) * np.exp(-time / _between(rng, 0.001, 0.02))
    for _ in range(int(rng.integers(1, 5))):
        hertz, width = _between(rng, 120, 7000), _between(rng, 30, 1200)
        wave = np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6))
        ringing = ringing + rng.uniform(0.2, 1) * np.exp(-np.pi * width * time) * wave
    sound = np.fft.irfft(np.fft.rfft(strokes, 2 * COUNT) * np.fft.rfft(ringing, 2 * COUNT), 2 * COUNT)[:COUNT]
    return sound + 0.003 * sound.std() * rng.standard_normal(COUNT)


MAKERS = {"tune": tune, "tone": tone, "hiss": hiss, "rustle": rustle, "clicks": clicks}


@cache
def surroundings(seed: int, each: int = 100) -> dict[str, tuple[FloatArray, ...]]:
    """Linear mel amplitudes f32 (columns, 80), root mean square 1 each, `each` of every kind; tunes and hiss doubly.

    A pure function of the seed.
    """
    rng = np.random.default_rng([seed, 0xA2B])
    bank = sounds.amplitude_bank(seed, each).reshape(len(sounds.KINDS), each, -1, BANDS)
    made = {kind: tuple(bank[number]) for number, kind in enumerate(sounds.KINDS)}
    for kind, maker in MAKERS.items():
        made[kind] = tuple(_columns(maker(rng)) for _ in range(each * (2 if kind in ("tune", "hiss") else 1)))
    return made


def _columns(sound: Samples) -> FloatArray:
    """Linear mel amplitudes of a sound, root mean square 1."""
    columns = amplitude(log_mel((0.05 * sound / max(sound.std(), 1e-9)).astype(np.float32)).T)
    return np.asarray(columns / max(float(np.sqrt((columns**2).mean())), 1e-6), np.float32)
