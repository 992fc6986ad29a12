"""The other way in for sound: PCM that a WebSocket brings stands for a microphone, or is pushed to be said."""

from __future__ import annotations

import time

import av
import numpy as np

from engines.types import PLAYBACK_RATE, PLAYBACK_SAMPLES, FloatArray
from server.tracks import MicrophoneReader, mono

RATES = (16_000, 24_000, 44_100, 48_000)
PACKET = PLAYBACK_SAMPLES // 2  # samples that are handed on together, as a microphone's packets are


class PushedSound:
    """Mono PCM16 (little-endian) at `rate`, one of RATES; as `microphone` it is pushed as fast as it is spoken.

    Playout then absorbs uneven arrivals and a clock that runs up to 0.5 % fast or slow; what comes sooner than that is
    left out.
    """

    def __init__(self, rate: int) -> None:
        self.microphone = MicrophoneReader()
        self._rate = rate
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=PLAYBACK_RATE)
        self._rest: FloatArray = np.empty(0, np.float32)
        self._position = 0

    def read(self, pcm: bytes) -> FloatArray:
        """Whole samples -> f32 (samples,) at 48 kHz."""
        samples = np.frombuffer(pcm, "<i2")
        if not len(samples):
            return np.empty(0, np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = self._rate
        return np.concatenate([np.empty(0, np.float32), *(mono(part) for part in self._resampler.resample(frame))])

    def hear(self, sound: FloatArray) -> None:
        """Let the microphone pick up sound f32 (samples,) at 48 kHz, spoken just now."""
        sound = np.concatenate([self._rest, sound])
        arrival = time.monotonic()
        whole = len(sound) - len(sound) % PACKET
        for packet in sound[:whole].reshape(-1, PACKET):
            self.microphone.playout.put(self._position, packet, arrival)
            self._position += PACKET
        self._rest = sound[whole:]
