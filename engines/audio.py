"""Streaming log-mel front end: speech ticks in, one mel window per video frame out.

The arithmetic is the published one (Wav2Lip's front end as KDTalker uses it): pre-emphasis .97,
800-sample periodic Hann window, hop 200, magnitude, 80 Slaney mel bands from 55 to 7600 Hz, decibels,
scaled to [-4, 4]. Column t is centred on sample 200 t. Which columns belong to a frame is a field of
the profile (`MelWindow`), because it decides how far into the future a frame listens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from engines.types import SPEECH_RATE, SPEECH_SAMPLES, FloatArray, MelTick

PRE_EMPHASIS = 0.97
FFT_SIZE = 800  # samples, also the window length: 50 ms
HOP = 200  # samples: 12.5 ms
HALF = FFT_SIZE // 2
BANDS = 80
LOWEST_HZ, HIGHEST_HZ = 55.0, 7600.0
SILENCE = np.float32(-4.0)  # the value digital silence maps to


@dataclass(frozen=True, slots=True)
class MelWindow:
    """Which mel columns a video frame sees.

    `columns` consecutive columns whose last one needs no sample later than `reach` samples after the
    frame's first. With `published` set, frame i starts at column trunc(80 (i - 2) / 25) as in
    KDTalker's inference (reach 2120 samples for i >= 2, slightly more for frames 0 and 1).
    """

    columns: int
    reach: int
    published: bool = False

    def start(self, frame: int) -> int:
        """First column of `frame`; negative columns are those of `lead`."""
        if self.published:
            return int(80 * (frame - 2) / 25) if frame < 2 else 16 * (frame - 2) // 5
        last = (frame * SPEECH_SAMPLES + self.reach - HALF) // HOP
        return last - self.columns + 1

    @property
    def lead(self) -> int:
        """Columns of silence before the sound; where there are none, column 0 is repeated, as published."""
        return 0 if self.published else max(0, -self.start(0))

    def samples_needed(self, frame: int) -> int:
        """Samples from the beginning of the sound that `frame` depends on."""
        return (self.start(frame) + self.columns - 1) * HOP + HALF


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale: linear (200/3 Hz a mel) below 1 kHz, logarithmic above."""
    linear = mel * (200.0 / 3.0)
    knee = 1000.0 / (200.0 / 3.0)
    step = np.log(6.4) / 27.0
    return np.where(mel < knee, linear, 1000.0 * np.exp(step * (mel - knee)))


def _slaney_mel(hz: float) -> float:
    if hz < 1000.0:
        return hz / (200.0 / 3.0)
    return 15.0 + float(np.log(hz / 1000.0)) / (float(np.log(6.4)) / 27.0)


@cache
def mel_filters() -> FloatArray:
    """Triangular filters with unit area (Slaney), f32 (80, 401)."""
    edges = _slaney_hz(np.linspace(_slaney_mel(LOWEST_HZ), _slaney_mel(HIGHEST_HZ), BANDS + 2))
    bins = np.linspace(0.0, SPEECH_RATE / 2, FFT_SIZE // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[:, None] - bins[None, :]
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters.astype(np.float32)


@cache
def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SIZE) / FFT_SIZE)


def _columns(emphasised: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`count` mel columns of pre-emphasised sound that begins 400 samples before the first centre."""
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, FFT_SIZE)[::HOP][:count]
    magnitude = np.abs(np.fft.rfft(frames * _hann(), axis=1))
    mel = mel_filters() @ magnitude.T
    loudness = 20.0 * np.log10(np.maximum(1e-5, mel)) - 20.0
    return np.clip(8.0 * (loudness + 100.0) / 100.0 - 4.0, -4.0, 4.0)


def decibels(mel: FloatArray) -> FloatArray:
    """Mel values from -4 to 4, as `log_mel` makes them -> dB."""
    return np.asarray(12.5 * (mel + 4) - 100, np.float32)


def log_mel(pcm: FloatArray) -> FloatArray:
    """Whole sound (samples,) in [-1, 1] at 16 kHz -> f32 (80, 1 + samples // 200)."""
    sound = np.asarray(pcm, np.float64)
    emphasised = np.concatenate([sound[:1], sound[1:] - PRE_EMPHASIS * sound[:-1]])
    padded = np.pad(emphasised, HALF)
    return _columns(padded, 1 + len(sound) // HOP).astype(np.float32)


def mel_windows(mel: FloatArray, window: MelWindow, frames: int) -> FloatArray:
    """Windows of a whole sound: (80, columns) -> f32 (frames, 80, window.columns), silence before, its end repeated."""
    mel = np.pad(mel, ((0, 0), (window.lead, 0)), constant_values=SILENCE)
    starts = window.lead + np.array([window.start(frame) for frame in range(frames)])
    index = np.clip(starts[:, None] + np.arange(window.columns), 0, mel.shape[1] - 1)
    return np.ascontiguousarray(np.moveaxis(mel[:, index], 1, 0))


class MelStream:
    """Log-mel windows as sound arrives; feeding ticks one by one equals feeding them at once.

    Owned by one caller and by one thread at a time. Memory is bounded by the window's length.
    """

    def __init__(self, window: MelWindow) -> None:
        self._window = window
        self._previous = 0.0  # last raw sample, for the pre-emphasis
        self._sound: NDArray[np.float64] = np.zeros(HALF)  # emphasised; begins 400 samples before the next column
        self._mel: FloatArray = np.full((BANDS, window.lead), SILENCE, np.float32)
        self._first_column = -window.lead  # absolute index of self._mel[:, 0]
        self._next_frame = 0

    def push(self, pcm: FloatArray) -> list[MelTick]:
        """Add sound f32 (samples,), any length; returns the frames whose window became complete."""
        if len(pcm):
            sound = np.asarray(pcm, np.float64)
            delayed = np.concatenate([[self._previous], sound[:-1]])
            self._previous = float(sound[-1])
            self._sound = np.concatenate([self._sound, sound - PRE_EMPHASIS * delayed])
        self._extend()
        return self._emit()

    def hush(self) -> None:
        """Forget the sound so far: windows that are not complete yet hold silence in its place."""
        self._previous = 0.0
        self._sound = np.zeros_like(self._sound)
        self._mel = np.full_like(self._mel, SILENCE)

    def finish(self, frames: int) -> list[MelTick]:
        """End of a finite sound: zero padding as in `log_mel`, then every frame below `frames`."""
        self._sound = np.concatenate([self._sound, np.zeros(HALF)])
        self._extend()
        emitted = []
        while self._next_frame < frames:
            emitted.append(self._take(last=self._first_column + self._mel.shape[1] - 1))
        return emitted

    def _extend(self) -> None:
        count = (len(self._sound) - FFT_SIZE) // HOP + 1
        if count > 0:
            fresh = _columns(self._sound, count).astype(np.float32)
            self._sound = self._sound[count * HOP :]
            self._mel = np.concatenate([self._mel, fresh], axis=1)

    def _emit(self) -> list[MelTick]:
        emitted = []
        while self._window.start(self._next_frame) + self._window.columns <= self._first_column + self._mel.shape[1]:
            emitted.append(self._take(last=None))
        return emitted

    def _take(self, last: int | None) -> MelTick:
        start = self._window.start(self._next_frame)
        index = np.maximum(start + np.arange(self._window.columns), self._first_column)
        if last is not None:
            index = np.minimum(index, last)
        tick = MelTick(self._next_frame, np.ascontiguousarray(self._mel[:, index - self._first_column]))
        self._next_frame += 1
        # Keep one column before the next start: the end of a sound may clamp to it.
        stale = max(0, self._window.start(self._next_frame) - 1 - self._first_column)
        stale = min(stale, self._mel.shape[1] - 1)
        self._mel = self._mel[:, stale:]
        self._first_column += stale
        return tick
