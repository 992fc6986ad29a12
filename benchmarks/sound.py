"""Returned sound recognised in what was spoken, by normalised cross-correlation in short windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.caller import PACKET_SECONDS, Recording, decoded
from benchmarks.wire import media_times
from engines.types import PLAYBACK_RATE, FloatArray

LONGEST = 8.0  # seconds of delay that are looked for
EARLIEST = -0.1  # and how far a delay may seem negative, by what clocks and interpolation do
THIN = 4  # of the samples are averaged to one: 12 kHz, 83 microseconds
RATE = PLAYBACK_RATE / THIN
WINDOW, STEP = 1.0, 0.25  # seconds
ALIKE = 0.6  # correlation from which sound is recognised
QUIET = 0.003  # level (RMS) below which there is nothing to recognise


@dataclass(frozen=True, slots=True)
class Places:
    """Where what was returned lies in what was spoken.

    `media`: centres of the windows in which it was recognised, seconds of the line's media time, rising; `lag`: media
    time less the time in the voice there; `alike`: the correlation. All (windows,).
    """

    media: FloatArray
    lag: FloatArray
    alike: FloatArray

    def spoken(self, media: FloatArray, reach: float) -> FloatArray:
        """Media times -> seconds in the voice, by the nearest window; nan where that is farther than `reach`."""
        if not len(self.media):
            return np.full(len(media), np.nan)
        after = np.clip(np.searchsorted(self.media, media), 1, max(1, len(self.media) - 1))
        before = after - 1
        after = np.minimum(after, len(self.media) - 1)
        nearer = np.where(media - self.media[before] < self.media[after] - media, before, after)
        near = np.abs(self.media[nearer] - media) <= reach
        return np.where(near, media - self.lag[nearer], np.nan)


def timeline(recording: Recording) -> FloatArray:
    """The returned sound, f32 (samples,) at 48 kHz, each packet at its media time; silence in holes."""
    order: dict[int, bytes] = {}
    for media, packet in zip(media_times(recording.audio), recording.audio.packets, strict=True):
        if packet.data and media >= 0:
            order.setdefault(round(media * PLAYBACK_RATE), packet.data)
    places = sorted(order)
    parts = decoded([order[place] for place in places]).reshape(len(places), -1)
    sound = np.zeros(places[-1] + parts.shape[1] if places else 0, np.float32)
    for place, part in zip(places, parts, strict=True):
        sound[place : place + len(part)] = part
    return sound


def lags_possible(recording: Recording, kind: str) -> tuple[float, float]:
    """Smallest and largest lag (media time less time in the voice) that a delay within reason gives."""
    line = recording.audio if kind == "audio" else recording.video
    head_start = line.packets[0].at - recording.sent[0]
    return EARLIEST - head_start, LONGEST - head_start


def find(heard: FloatArray, voice: FloatArray, lowest: float, highest: float) -> Places:
    """Where windows of `heard` lie in `voice` (both f32 at 48 kHz) with a lag between the two limits, in seconds."""
    returned, spoken = _thin(heard), _thin(voice)
    length, step = round(WINDOW * RATE), round(STEP * RATE)
    found: list[tuple[float, float, float]] = []
    for start in range(0, len(returned) - length + 1, step):
        window = returned[start : start + length]
        first = max(0, start - round(highest * RATE))
        part = spoken[first : max(0, start - round(lowest * RATE)) + length]
        if len(part) < length or np.sqrt(np.mean(window**2)) < QUIET:
            continue
        alike = correlation(window, part)
        best = int(alike.argmax())
        if alike[best] >= ALIKE:
            lag = (start - first - best) / RATE
            found.append(((start + length / 2) / RATE, lag, float(alike[best])))
    return Places(*np.array(found, np.float64).reshape(-1, 3).T)


def correlation(window: FloatArray, part: FloatArray) -> FloatArray:
    """Normalised correlation of `window` with every stretch of `part` of its length, without their means."""
    length, places = len(window), len(part) - len(window) + 1
    centred = window - window.mean()
    size = 1 << (len(part) + length - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(part, size) * np.conj(np.fft.rfft(centred, size)), size)[:places]
    sums = np.concatenate([[0.0], np.cumsum(part, dtype=np.float64)])
    squares = np.concatenate([[0.0], np.cumsum(part.astype(np.float64) ** 2)])
    mean = (sums[length:] - sums[:-length]) / length
    energy = np.maximum(squares[length:] - squares[:-length] - length * mean**2, length * QUIET**2 / 4)
    return np.asarray(product / np.sqrt(energy * max(float(np.sum(centred**2)), 1e-12)))


def departure(recording: Recording, spoken: FloatArray) -> FloatArray:
    """Moments at which these seconds of the voice left, as if each packet left sample by sample; nan outside it."""
    sent = np.array(recording.sent)
    index = np.floor(np.nan_to_num(spoken, nan=-1.0) / PACKET_SECONDS + 1e-9).astype(int)
    inside = (index >= 0) & (index < len(sent))
    left = sent[np.clip(index, 0, len(sent) - 1)] + spoken - index * PACKET_SECONDS
    return np.where(inside, left, np.nan)


def _thin(sound: FloatArray) -> FloatArray:
    count = len(sound) // THIN
    return np.asarray(sound[: count * THIN].reshape(count, THIN).mean(1), np.float64)
