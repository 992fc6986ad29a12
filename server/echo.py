"""Whether a microphone hears a caller, or the avatar's own voice that came back through a loudspeaker.

Browsers cancel echo; this is for what they leave and for callers without. What was played lately is searched for the
stretch that the microphone's latest sound resembles most (generalised cross-correlation with the phase transform,
Knapp and Carter, IEEE Trans. ASSP 24, 1976), and a short filter of that stretch is fitted to it. What the filter
explains is echo. A line whose delay is being corrected bends what it carries, and no one filter explains that; so each
tick is also explained by itself, from near that place. A caller is somebody whose part neither explains and is as
strong as the echo lately was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from engines.types import SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, FloatArray

RATIO = 2  # both sounds are compared at 8 kHz
RATE = SPEECH_RATE // RATIO
TICK = SPEECH_SAMPLES // RATIO
HEARD = 4 * TICK  # samples of the microphone that are explained: 160 ms
PLAYED = int(1.4 * RATE)  # in which their origin is searched: what loudspeaker, room, lines and buffers may take
TAPS, BEFORE = 64, 12  # of the filter, and those of them that come before the place that was found
TICK_TAPS, TICK_BEFORE = 40, 10  # of that of a single tick
NEAR = 100  # samples around the place within which a single tick is searched
REMEMBERED = 0.8  # share of earlier likenesses that a tick leaves: a delay does not change all the time
FFT = 16_384
FLAT = 0.8  # how far the phase transform goes; 1: all the way
SOLID = 1e-3  # regularisation of the fit, as a share of the power
EMPHASIS = 0.9  # of high frequencies, which tell places apart
FAINT = 0.002  # level (RMS) of what was played below which it has no echo
STRENGTH = 0.8  # of the strongest echo lately: power that a caller has at the least
FORGETS = 0.96  # share of that strength which a tick leaves: half of it is forgotten in 0.7 s


class EchoCheck:
    """Of one call, tick by tick."""

    def __init__(self) -> None:
        self._played, self._heard = _Tail(PLAYED), _Tail(HEARD)
        self._audible = 0  # ticks for which what was played may still come back
        self._strength = 0.0
        self._alike: FloatArray = np.zeros(PLAYED - HEARD + 1, np.float32)
        self._rests: deque[float] = deque(maxlen=HEARD // TICK)  # energy of the latest ticks that is not explained

    def played(self, pcm: FloatArray) -> None:
        """What the avatar says in this tick, f32 (640,) at 16 kHz."""
        self._played.add(pcm)
        loud = float(np.mean(pcm**2)) > FAINT**2
        self._audible = round(PLAYED / RATE / TICK_SECONDS) if loud else max(0, self._audible - 1)

    def explains(self, pcm: FloatArray, voiced: bool) -> bool:
        """Whether a microphone's tick f32 (640,), where it sounds `voiced`, is what was played."""
        self._heard.add(pcm)
        self._strength *= FORGETS
        if not self._audible:
            self._alike[:] = 0
            self._rests.clear()
            return False
        heard, played = self._heard.sound, self._played.sound
        tick = heard[-TICK:]
        if float(np.mean(pcm**2)) < FAINT**2:
            self._rests.append(float(tick @ tick))
            return False
        alike = likeness(heard, played)
        self._alike = np.asarray(REMEMBERED * self._alike + alike, np.float32)
        places = {int(np.argmax(alike)), int(np.argmax(self._alike))}
        self._rests.append(min(_tick_rest(tick, played, place + HEARD - TICK) for place in places))
        if not voiced:
            return False
        energy = float(heard @ heard)
        rest = energy * (1 - explained(heard, played, places))
        if len(self._rests) == HEARD // TICK:
            rest = min(rest, sum(self._rests))
        self._strength = max(self._strength, energy - rest)
        return rest < STRENGTH * self._strength


class _Tail:
    """The latest sound at 8 kHz, its high frequencies emphasised."""

    def __init__(self, samples: int) -> None:
        self.sound: FloatArray = np.zeros(samples, np.float32)
        self._taps: FloatArray = (np.sinc(np.arange(-15, 16) / RATIO) / RATIO * np.hamming(31)).astype(np.float32)
        self._past: FloatArray = np.zeros(len(self._taps) - 1, np.float32)
        self._last = np.float32(0)

    def add(self, pcm: FloatArray) -> None:
        joined = np.concatenate([self._past, pcm])
        self._past = joined[-len(self._past) :]
        low = sliding_window_view(joined, len(self._taps))[::RATIO] @ self._taps
        before = np.concatenate([[self._last], low[:-1]])
        self._last = low[-1]
        self.sound = np.concatenate([self.sound[len(low) :], (low - EMPHASIS * before).astype(np.float32)])


def likeness(heard: FloatArray, played: FloatArray) -> FloatArray:
    """How much `heard` f32 (n,) resembles each stretch of `played` f32 (m,), f32 (m - n + 1,), in no unit."""
    cross = np.fft.rfft(played, FFT) * np.conj(np.fft.rfft(heard, FFT))
    alike = np.fft.irfft(cross / (np.abs(cross) ** FLAT + 1e-9), FFT)[: len(played) - len(heard) + 1]
    return np.abs(alike).astype(np.float32)


def explained(heard: FloatArray, played: FloatArray, places: Collection[int] = ()) -> float:
    """Share of the energy of `heard` f32 (n,) that some stretch of `played` f32 (m,), filtered, explains; 0 to 1.

    `places`: where stretches begin that are tried; without any, where the likeness is greatest.
    """
    energy = float(heard @ heard)
    if energy <= 0:
        return 0.0
    places = places or [int(np.argmax(likeness(heard, played)))]
    return max(0.0, 1 - min(_rest(heard, played, place + BEFORE, TAPS) for place in places) / energy)


def _tick_rest(tick: FloatArray, played: FloatArray, place: int) -> float:
    """Energy of a tick f32 (n,) that no stretch of `played` near a place explains; no more than it has."""
    near = played[max(0, place - NEAR) : place + NEAR + len(tick)]
    energy = float(tick @ tick)
    energies = np.convolve(near**2, np.ones(len(tick)), "valid")
    at = int(np.argmax(np.abs(np.correlate(near, tick, "valid")) / np.sqrt(energies + 1e-9)))
    rest = _rest(tick, played, max(0, place - NEAR) + at + TICK_BEFORE, TICK_TAPS)
    return min(energy, rest * len(tick) / (len(tick) - TICK_TAPS))  # so many taps explain a part of any sound


def _rest(heard: FloatArray, played: FloatArray, last: int, taps: int) -> float:
    """Energy of `heard` f32 (n,) that a filter of `played` leaves, whose stretches begin at `last` and before."""
    padded = np.pad(played, (taps, taps))
    first = last - taps + 1
    stretch = padded[first + taps : first + 2 * taps + len(heard) - 1].astype(np.float64)
    delayed = sliding_window_view(stretch, taps)
    normal = delayed.T @ delayed
    normal[np.diag_indices(taps)] += SOLID * np.trace(normal) / taps + 1e-9
    rest = heard - delayed @ np.linalg.solve(normal, delayed.T @ heard)
    return float(rest @ rest)
