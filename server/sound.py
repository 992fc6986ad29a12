"""Small operations on 48 kHz mono sound that leave no click: concealing, splicing, stretching, decimating.

Sound is f32 in [-1, 1]. Nothing here knows of packets or time.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from engines.types import PLAYBACK_RATE, SPEECH_RATE, FloatArray

MS = PLAYBACK_RATE // 1000
SHORTEST_LAG, LONGEST_LAG = 5 * MS // 2, 15 * MS  # pitch periods from 400 down to 67 Hz
TEMPLATE = 5 * MS  # sound that two places are compared over
CROSSFADE = 5 * MS
HOLD, FADE = 20 * MS, 60 * MS  # a hole is filled at full level, then faded to silence
BRIDGE = 2 * MS  # time constant that takes a step out of the waveform


class Concealer:
    """Fills holes by repeating the last pitch period, fading to silence; keeps the last 40 ms it returned.

    Packet loss concealment in the manner of G.711 Appendix I, with a decaying offset instead of its
    look-ahead to join the waveforms.
    """

    def __init__(self) -> None:
        self._tail: FloatArray = np.zeros(40 * MS, np.float32)
        self._period: FloatArray | None = None  # None while real sound is playing
        self._filled = 0  # samples since the hole began
        self._back = 0  # samples since real sound came back
        self._step = np.float32(0)

    def run(self, sound: FloatArray, have: NDArray[np.bool_]) -> FloatArray:
        """`sound` f32 (n,) where `have`, and something that fits elsewhere."""
        if have.all() and self._period is None:
            self._remember(sound)
            return sound
        out = sound.copy()
        borders = np.flatnonzero(np.diff(have)) + 1
        for first, last in zip([0, *borders], [*borders, len(sound)], strict=True):
            if last > first:
                part = slice(first, last)
                out[part] = self._resume(sound[part]) if have[first] else self._fill(last - first)
                self._remember(out[part])
        return out

    def silence(self, count: int) -> FloatArray:
        """What follows when nothing is expected any more: the fade, then zeros."""
        return self.run(np.zeros(count, np.float32), np.zeros(count, np.bool_))

    def break_off(self) -> None:
        """The timeline jumps: let what played last fade below what comes next."""
        self._begin_hole()

    def _fill(self, count: int) -> FloatArray:
        if self._period is None or self._back:
            self._begin_hole()
        return self._continuation(count)

    def _resume(self, sound: FloatArray) -> FloatArray:
        if self._period is None:
            return sound
        fading = min(len(sound), CROSSFADE - self._back)
        weight = (self._back + 1 + np.arange(fading, dtype=np.float32)) / CROSSFADE
        out = sound.copy()
        out[:fading] = weight * sound[:fading] + (1 - weight) * self._continuation(fading)
        self._back += fading
        if self._back == CROSSFADE:
            self._period = None
        return out

    def _begin_hole(self) -> None:
        lag = _pitch_lag(self._tail)
        period = self._tail[-lag:].copy()
        blend = lag // 4  # the end of the period runs into its beginning
        weight = (1 + np.arange(blend, dtype=np.float32)) / blend
        period[-blend:] = (1 - weight) * period[-blend:] + weight * self._tail[-lag - blend : -lag]
        self._period, self._filled, self._back = period, 0, 0
        self._step = self._tail[-1] - self._tail[-lag - 1]

    def _continuation(self, count: int) -> FloatArray:
        """The next `count` samples of what fills the hole."""
        assert self._period is not None
        at = self._filled + np.arange(count)
        self._filled += count
        gain = np.clip(1 - (at - HOLD) / FADE, 0, 1)
        filled = gain * self._period[at % len(self._period)] + self._step * np.exp(-at / BRIDGE)
        return filled.astype(np.float32)

    def _remember(self, sound: FloatArray) -> None:
        self._tail = np.concatenate([self._tail[len(sound) :], sound[-len(self._tail) :]])


def _pitch_lag(tail: FloatArray) -> int:
    """The distance at which the end of `tail` resembles itself most."""
    template = tail[-TEMPLATE:]
    earlier = sliding_window_view(tail, TEMPLATE)
    last = len(tail) - TEMPLATE
    candidates = earlier[last - LONGEST_LAG : last - SHORTEST_LAG + 1]
    return LONGEST_LAG - _most_alike(template, candidates)


def _most_alike(template: FloatArray, candidates: NDArray[np.float32]) -> int:
    energy = np.sqrt((candidates * candidates).sum(axis=1)) + 1e-3
    return int(np.argmax(candidates @ template / energy))


def best_splice(sound: FloatArray) -> tuple[int, int]:
    """(position, lag) with the waveform alike at `position` and `position + lag`; silence gives the longest lag.

    `sound` has at least 1920 samples.
    """
    position = 2 * MS
    template = sound[position : position + TEMPLATE]
    reach = sound[position + SHORTEST_LAG : position + LONGEST_LAG + TEMPLATE]
    candidates = sliding_window_view(reach, TEMPLATE)[::-1]
    return position, LONGEST_LAG - _most_alike(template, candidates)


def splice(sound: FloatArray, left: int, right: int) -> FloatArray:
    """Play up to `left`, go on from `right`, cross-faded; `right` < `left` says something twice."""
    weight = (1 + np.arange(CROSSFADE, dtype=np.float32)) / CROSSFADE
    fade = (1 - weight) * sound[left : left + CROSSFADE] + weight * sound[right : right + CROSSFADE]
    return np.concatenate([sound[:left], fade, sound[right + CROSSFADE :]])


def stretch(sound: FloatArray, count: int) -> FloatArray:
    """Resample to `count` samples by cubic (Catmull-Rom) interpolation; for ratios near one."""
    if len(sound) == count:
        return sound
    at = np.arange(count) * (len(sound) / count)
    whole = at.astype(np.int64)
    t = (at - whole).astype(np.float32)
    padded = np.concatenate([sound[:1], sound, sound[-1:], sound[-1:]])
    a, b, c, d = (padded[whole + shift] for shift in range(4))
    bent: FloatArray = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return bent


class Decimator:
    """48 kHz -> 16 kHz, tick by tick: a linear-phase low-pass that delays by 0.67 ms, then every third sample."""

    def __init__(self) -> None:
        ratio = PLAYBACK_RATE // SPEECH_RATE
        reach = 32  # taps on either side: flat to 6.8 kHz, 60 dB down at 9.2 kHz
        at = np.arange(-reach, reach + 1)
        taps = np.sinc(at / ratio) / ratio * np.kaiser(len(at), 6.0)
        self._taps = (taps / taps.sum()).astype(np.float32)
        self._past: FloatArray = np.zeros(2 * reach, np.float32)
        self._ratio = ratio

    def run(self, sound: FloatArray) -> FloatArray:
        """f32 (3 n,) -> f32 (n,)."""
        joined = np.concatenate([self._past, sound])
        self._past = joined[-len(self._past) :]
        windows = sliding_window_view(joined, len(self._taps))[:: self._ratio]
        low: FloatArray = windows @ self._taps
        return low
