"""Whether a microphone hears a caller, or the avatar's own voice that came back through a loudspeaker.

Browsers cancel echo; this is for what they leave and for callers without. What was played lately is searched for the
stretch that the microphone's latest sound resembles most (generalised cross-correlation with the phase transform,
Knapp and Carter, IEEE Trans. ASSP 24, 1976), and a short filter of that stretch is fitted to it. What the filter
explains is echo. A caller is somebody whose part is not explained and is as strong as the echo lately was.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from engines.types import SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, FloatArray

RATIO = 2  # both sounds are compared at 8 kHz
RATE = SPEECH_RATE // RATIO
TICK = SPEECH_SAMPLES // RATIO
HEARD = 4 * TICK  # samples of the microphone that are explained: 160 ms
PLAYED = int(1.4 * RATE)  # in which their origin is searched: what loudspeaker, room, lines and buffers may take
TAPS, BEFORE = 64, 12  # of the filter, and those of them that come before the place that was found
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

    def played(self, pcm: FloatArray) -> None:
        """What the avatar says in this tick, f32 (640,) at 16 kHz."""
        self._played.add(pcm)
        loud = float(np.mean(pcm**2)) > FAINT**2
        self._audible = round(PLAYED / RATE / TICK_SECONDS) if loud else max(0, self._audible - 1)

    def explains(self, pcm: FloatArray, voiced: bool) -> bool:
        """Whether a microphone's tick f32 (640,), where it sounds `voiced`, is what was played."""
        self._heard.add(pcm)
        self._strength *= FORGETS
        if not voiced or not self._audible:
            return False
        heard = self._heard.sound
        power = float(np.mean(heard**2))
        share = explained(heard, self._played.sound)
        self._strength = max(self._strength, share * power)
        return (1 - share) * power < STRENGTH * self._strength


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


def explained(heard: FloatArray, played: FloatArray) -> float:
    """Share of the power of `heard` f32 (n,) that some stretch of `played` f32 (m,), filtered, explains; 0 to 1."""
    power = float(heard @ heard)
    if power <= 0:
        return 0.0
    cross = np.fft.rfft(played, FFT) * np.conj(np.fft.rfft(heard, FFT))
    alike = np.fft.irfft(cross / (np.abs(cross) ** FLAT + 1e-9), FFT)[: len(played) - len(heard) + 1]
    first = int(np.argmax(np.abs(alike))) + BEFORE - TAPS + 1
    stretch = np.pad(played, (TAPS, TAPS))[first + TAPS : first + 2 * TAPS + len(heard) - 1].astype(np.float64)
    delayed = sliding_window_view(stretch, TAPS)
    normal = delayed.T @ delayed
    normal[np.diag_indices(TAPS)] += SOLID * np.trace(normal) / TAPS + 1e-9
    rest = heard - delayed @ np.linalg.solve(normal, delayed.T @ heard)
    return max(0.0, 1 - float(rest @ rest) / power)
