"""Scenes to learn who speaks: somebody near speaks and stops, other sounds and people far away go on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engines.audio import BANDS, SILENCE, log_mel
from engines.types import FloatArray
from training import phonemes
from training.batches import WINDOW, amplitude, from_amplitude
from training.corpus import Item
from training.surroundings import surroundings

TICKS = 100
STARTS = np.array([WINDOW.start(frame) for frame in range(TICKS)]) + WINDOW.lead
COLUMNS = int(STARTS[-1]) + WINDOW.columns
NOW = slice(13, 18)  # columns of a window that sound while its frame is shown
AUDIBLE = 10 ** (-25 / 20)  # of a clip's loud moments: from there on it is speech that moves lips
PAUSE, ENDING = 32, 16  # columns: a shorter gap belongs to speech; so much of a longer one may still be a short one
SPEECH, OTHER, UNSURE = 1, 0, -1
TUNES = 0.3  # share of other sounds that are tunes at least: they are the hardest to tell from voices
KNOTS = np.linspace(0, BANDS - 1, 6)  # of a random timbre
MIX = {"grid_s1": 0.2, "lrcar": 0.3, "clips": 0.3, "espeak": 0.2}
LANGUAGES = ("en-us", "de", "fr", "es", "it", "pl", "tr", "sv", "hu", "id", "pt", "fi")
VARIANTS = ("", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m3", "+m5", "+m7", "+croak", "+whisper", "+whisperf")
SYLLABLES = "ba/de/go/ki/lo/mu/na/pe/ri/so/tu/va/we/ya/zo/fi/sha/cho/en/ar/is/ol/um/ka/di/ma"


def level(sound: FloatArray) -> FloatArray:
    """Root mean square of every column, (columns, 80) -> (columns,)."""
    return np.asarray(np.sqrt((sound**2).mean(1)), np.float32)


def synthetic_speech(seed: int, count: int = 120) -> list[FloatArray]:
    """Amplitudes (columns, 80) of espeak-ng's voices saying syllables; none where it is not installed."""
    if not phonemes.available():
        return []
    rng, made = np.random.default_rng([seed, 0xE5]), []
    for _ in range(count):
        words = ["".join(rng.choice(SYLLABLES.split("/"), rng.integers(1, 4))) for _ in range(12)]
        voice = str(rng.choice(LANGUAGES)) + str(rng.choice(VARIANTS))
        spoken = phonemes.speak(" ".join(words), voice, int(rng.integers(120, 230)), int(rng.integers(10, 95)))
        made.append(amplitude(log_mel(spoken.sound).T))
    return made


def kinds_of(loudness: FloatArray) -> NDArray[np.int64]:
    """What each column of a clip is, from its levels (columns,); a gap between words belongs to speech."""
    audible = np.flatnonzero(loudness > AUDIBLE * np.quantile(loudness, 0.95))
    kinds = np.full(len(loudness), OTHER)
    kinds[audible] = SPEECH
    edges = np.concatenate([[-PAUSE - 1], audible, [len(loudness) + PAUSE]])
    for before, after in pairwise(edges):
        if 1 < after - before <= PAUSE:
            kinds[max(before + 1, 0) : after] = SPEECH
        elif after - before > PAUSE:
            kinds[max(before + 1, 0) : max(before + 1 + ENDING, 0)] = UNSURE
            kinds[max(after - 2, 0) : after] = UNSURE
    return kinds


class Scenes:
    """Endless scenes, drawn from a seed; espeak-ng's voices rustle a little differently each time."""

    def __init__(self, items: list[Item], seed: int, sounds: int) -> None:
        self._rng = np.random.default_rng([seed, 0x501CE])
        speech: dict[str, list[FloatArray]] = {"espeak": synthetic_speech(seed)}
        for item in items:
            if len(item.mel) > 40:
                speech.setdefault(item.clip.dataset, []).append(amplitude(item.mel))
        self._speech = {name: clips for name, clips in speech.items() if clips}
        self._kinds = {name: [kinds_of(level(clip)) for clip in clips] for name, clips in self._speech.items()}
        chance = np.array([MIX.get(name, 1.0) for name in self._speech])
        self._names, self._chance = list(self._speech), chance / chance.sum()
        around = surroundings(seed, sounds)
        self._others, self._tunes = [sound for kind in around.values() for sound in kind], around["tune"]

    def draw(self, count: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Windows f32 (B, T, 80, K), and what each frame is, (B, T)."""
        scenes = [self._scene() for _ in range(count)]
        return np.stack([scene[0] for scene in scenes]), np.stack([scene[1] for scene in scenes])

    def _scene(self) -> tuple[FloatArray, NDArray[np.int64]]:
        rng = self._rng
        sound = np.zeros((COLUMNS, BANDS), np.float32)
        kinds = np.full(COLUMNS, OTHER)
        at, speaks = 0, bool(rng.random() < 0.5)
        near = self._voice()
        while at < COLUMNS:
            length = min(int(rng.uniform(20, 260)), COLUMNS - at)
            part = slice(at, at + length)
            if speaks:
                sound[part], kinds[part] = self._words(near, length)
            else:
                sound[part], rest = self._silence(length)
                kinds[at : at + rest] = UNSURE  # nobody can tell yet that it is no gap between words
            at, speaks = at + length, not speaks
        if rng.random() < 0.35:  # something behind everything, over which people speak
            behind = self._crowd(COLUMNS) if rng.random() < 0.3 else self._other(COLUMNS, -30, -3)
            lost = (kinds == SPEECH) & (level(behind) > 0.7 * level(sound))
            sound = np.hypot(sound, behind)
            kinds[lost] = UNSURE
        gain = 10 ** (rng.uniform(-32, 12) / 20)
        mel = from_amplitude(0.05 * gain * self._microphone(sound))
        # A call begins with silence, into which may fall the middle of a word or of a tune.
        lead = WINDOW.lead + (int(rng.integers(12)) if rng.random() < 0.3 else 0)
        mel = np.concatenate([np.full((lead, BANDS), SILENCE), mel])
        kinds = np.concatenate([np.full(lead, OTHER), kinds])
        index = STARTS[:, None] + np.arange(WINDOW.columns)
        seen = kinds[index[:, NOW]]
        frames = np.where((seen == SPEECH).any(1), SPEECH, np.where((seen == OTHER).all(1), OTHER, UNSURE))
        return np.ascontiguousarray(np.swapaxes(mel[index], 1, 2), np.float32), frames

    def _voice(self) -> tuple[str, FloatArray, float, bool]:
        """Somebody: where the words come from, formants moved in bands, pace, and whether they whisper."""
        rng = self._rng
        moved = rng.normal(0, 3) if rng.random() < 0.6 else 0.0
        bands = np.arange(BANDS)
        place = np.clip(bands + moved * bands / 40, 0, BANDS - 1).astype(np.float32)
        name = self._names[int(rng.choice(len(self._names), p=self._chance))]
        return name, place, rng.uniform(0.8, 1.25), bool(rng.random() < 0.04)

    def _words(self, voice: tuple[str, FloatArray, float, bool], length: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Columns of near speech, 1 at its loud moments, and what they are."""
        rng, (name, place, pace, whispers) = self._rng, voice
        parts, kinds, missing = [], [], length
        while missing > 0:
            pick = int(rng.integers(len(self._speech[name])))
            clip, kind = self._speech[name][pick], self._kinds[name][pick]
            columns = min(missing, int(len(clip) / pace))
            first = rng.uniform(0, len(clip) - pace * columns)
            index = np.clip((first + pace * np.arange(columns)).astype(int), 0, len(clip) - 1)
            parts.append(clip[index] / max(float(np.quantile(level(clip), 0.9)), 1e-4))
            kinds.append(kind[index])
            missing -= columns
        low = np.minimum(place.astype(int), BANDS - 2)
        share = place - low
        spoken = np.concatenate(parts)
        spoken = (1 - share) * spoken[:, low] + share * spoken[:, low + 1]
        if whispers:
            spoken = _whispered(rng, spoken)
        return np.asarray(spoken * 10 ** (rng.normal(0, 2) / 20), np.float32), np.concatenate(kinds)

    def _silence(self, length: int) -> tuple[FloatArray, int]:
        """What is heard while nobody near speaks, and for how many columns that could be a gap between words."""
        rng = self._rng
        choice = rng.random()
        if choice < 0.2:
            return np.zeros((length, BANDS), np.float32), ENDING
        sound = self._crowd(length) if choice < 0.35 else self._other(length, -45, 6)
        if choice > 0.9:
            sound = np.hypot(sound, self._other(length, -38, 0))
        if rng.random() > 0.4:
            return sound, 0
        rest = min(int(rng.uniform(2, 24)), length - 1)  # then it swells, as breath does
        swell = np.clip((np.arange(length) - rest) / rng.uniform(1, 30), 0, 1)
        return np.asarray(sound * swell[:, None], np.float32), rest

    def _other(self, columns: int, low: float, high: float) -> FloatArray:
        """Sounds around, at a level in dB of somebody near; no two alike."""
        sound = self._varied(columns)
        if self._rng.random() < 0.25:
            sound = np.hypot(sound, 10 ** (self._rng.uniform(-12, 0) / 20) * self._varied(columns))
        return np.asarray(10 ** (self._rng.uniform(low, high) / 20) * sound, np.float32)

    def _varied(self, columns: int) -> FloatArray:
        """A part of one sound at another pace, pitch and timbre, root mean square 1."""
        rng = self._rng
        group = self._tunes if rng.random() < TUNES else self._others
        clip = group[int(rng.integers(len(group)))]
        pace = np.exp(rng.uniform(-0.5, 0.5)) if rng.random() < 0.7 else 1.0
        bands = np.arange(BANDS) - (int(rng.integers(-12, 13)) if rng.random() < 0.7 else 0)
        inside = np.clip(bands, 0, BANDS - 1)
        index = (int(rng.integers(len(clip))) + pace * np.arange(columns)).astype(int) % len(clip)
        sound = clip[index[:, None], inside] * np.where(bands == inside, 1.0, 0.3)
        if rng.random() < 0.5:
            sound = sound * 10 ** (np.interp(np.arange(BANDS), KNOTS, rng.normal(0, 5, len(KNOTS))) / 20)
        return np.asarray(sound / max(float(np.sqrt((sound**2).mean())), 1e-6), np.float32)

    def _crowd(self, columns: int) -> FloatArray:
        """People in the next room, 14 to 32 dB below somebody near: several at once, dull, with echoes."""
        rng = self._rng
        power = np.zeros((columns, BANDS), np.float32)
        for _ in range(int(rng.integers(2, 9))):
            power += (10 ** (rng.uniform(-6, 0) / 20) * self._words(self._voice(), columns)[0]) ** 2
        ringing = rng.uniform(0, 0.85)
        for column in range(1, columns):
            power[column] = np.maximum(power[column], ringing * power[column - 1])
        dull = 10 ** (-rng.uniform(0, 20) * np.arange(BANDS) / BANDS / 20)
        sound = np.sqrt(power) * dull
        loud = max(float(np.sqrt((sound**2).mean())), 1e-6)
        return np.asarray(10 ** (-rng.uniform(14, 32) / 20) * sound / loud, np.float32)

    def _microphone(self, sound: FloatArray) -> FloatArray:
        """Tilt, telephone band, and the noise of room and line."""
        rng, bands = self._rng, np.arange(BANDS)
        decibel = rng.normal(0, 5) * (bands / 40 - 1)
        colour = 10 ** (rng.normal(0, 8) * (bands / 40 - 1) / 20)
        if rng.random() < 0.2:
            colour += 10 ** rng.uniform(0, 1.2) * np.exp(-0.5 * ((bands - rng.uniform(0, 6)) / 1.5) ** 2)
        floor = 10 ** (-rng.uniform(8, 65) / 20) * colour / np.sqrt((colour**2).mean())
        flutter = np.exp(rng.standard_normal(sound.shape, np.float32) * rng.uniform(0.06, 0.4))
        heard = np.hypot(sound * 10 ** (decibel / 20), floor * flutter)
        if rng.random() < 0.12:
            heard = heard * np.where((bands < 4) | (bands > 58), 0.005, 1)
        return np.asarray(heard, np.float32)


def _whispered(rng: np.random.Generator, spoken: FloatArray) -> FloatArray:
    """Without a pitch: neighbouring bands averaged, fluttering, little below 500 Hz."""
    kernel = np.ones(7, np.float32) / 7
    smooth = np.stack([np.convolve(column, kernel, "same") for column in spoken])
    bass = np.clip(np.arange(BANDS) / 12, 0.05, 1)
    return np.asarray(smooth * bass * np.exp(0.25 * rng.standard_normal(spoken.shape)), np.float32)
