"""Where sound enters a call and where sound and pictures leave it.

The microphone is read into a playout buffer and cut into ticks by the call's clock. The two avatar tracks
hand aiortc packets that are already encoded, each at its tick's `due`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.packet import Packet

from engines.types import SPEECH_SAMPLES, TICK_SECONDS, FloatArray, SpeechTick
from server.encode import tick_of
from server.playout import Playout
from server.sound import Decimator
from server.trace import Traces

SCALE = np.float32(1 / 32768)
PACKET_SECONDS = TICK_SECONDS / 2
FIRST_PACKETS = 10  # that tell when the next ones will come
UNHEARD = 250  # ticks of sound that wait for the engines
AT_ONCE = 10  # of them taken at a time, so that a backlog does not keep a worker from other calls
BACKLOG = 50  # ticks that a track keeps for a sender that does not ask for them


class MicrophoneReader:
    """A remote audio track as ticks of sound; silence where nothing came.

    `read` runs as a task for as long as the track lives; `take` is called once a tick, at its cut.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.playout = Playout()
        self.frames = 0
        self._now = now
        self._decimator = Decimator()
        self._regular = asyncio.Event()

    async def best_cut(self) -> float:
        """When to cut, once the first packets have come; see `Playout.best_cut`."""
        await self._regular.wait()
        return self.playout.best_cut()

    async def read(self, track: MediaStreamTrack) -> None:
        """Fill the playout buffer until the track ends."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if isinstance(frame, av.AudioFrame) and frame.pts is not None:
                self.frames += 1
                self.playout.put(frame.pts, mono(frame), self._now())
                if self.frames == FIRST_PACKETS:
                    self._regular.set()

    def take(self, tick: int, now: float) -> tuple[SpeechTick, float | None]:
        """The tick cut at `now`, and when its first sample arrived (None for silence)."""
        taken = self.playout.take(now)
        playback = np.clip(np.rint(taken.sound / SCALE), -32768, 32767).astype(np.int16)
        return SpeechTick(tick, self._decimator.run(taken.sound), playback), taken.arrival


def mono(frame: av.AudioFrame) -> FloatArray:
    """Interleaved s16, as aiortc's Opus decoder gives it -> f32 (samples,), channels averaged."""
    channels = len(frame.layout.channels)
    interleaved = frame.to_ndarray().reshape(-1, channels).astype(np.float32)
    mixed: FloatArray = interleaved @ np.full(channels, SCALE / channels, np.float32)
    return mixed


class UnheardSound:
    """Sound that the engines have not taken yet. When full, the oldest is given up and replaced by silence,
    so that what follows keeps its place in time.
    """

    def __init__(self) -> None:
        self._ticks: deque[FloatArray] = deque()
        self._given_up = 0
        self._filled = asyncio.Event()

    def put(self, pcm: FloatArray) -> bool:
        """Add a tick of sound; True if the oldest one had to go."""
        full = len(self._ticks) == UNHEARD
        if full:
            self._ticks.popleft()
            self._given_up += 1
        self._ticks.append(pcm)
        self._filled.set()
        return full

    def hush(self) -> None:
        """What waits is silence."""
        for place in range(len(self._ticks)):
            self._ticks[place] = np.zeros(SPEECH_SAMPLES, np.float32)

    @property
    def empty(self) -> bool:
        return not self._ticks

    async def take(self) -> FloatArray:
        """The sound there is, ten ticks at most, once there is some."""
        await self._filled.wait()
        silent = min(self._given_up, AT_ONCE)
        self._given_up -= silent
        ticks = [self._ticks.popleft() for _ in range(min(AT_ONCE - silent, len(self._ticks)))]
        if self.empty:
            self._filled.clear()
        return np.concatenate([np.zeros(silent * SPEECH_SAMPLES, np.float32), *ticks])


class Reports(Protocol):
    """Who is told of what a track does; see `CallMetrics`."""

    def released(self, kind: str, late: float, latency: float | None = None) -> None: ...

    def dropped(self, cause: str, count: int = 1) -> None: ...


class _ReleaseTrack(MediaStreamTrack):
    """Packets in the order they were put, each handed over at its moment and never before."""

    def __init__(self, metrics: Reports) -> None:
        super().__init__()
        self._metrics = metrics
        self.due = float("-inf")  # moment of the packet that was handed over last, monotonic seconds
        self._outgoing: deque[tuple[float, Packet[Any], float | None]] = deque()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    def _put(self, moment: float, packet: Packet[Any], arrival: float | None = None) -> None:
        self._outgoing.append((moment, packet, arrival))
        self._changed.set()

    async def recv(self) -> Packet[Any]:
        """The next packet, at its moment; raises MediaStreamError once the track is stopped."""
        while self.readyState == "live":
            if not self._outgoing:
                self._changed.clear()
                await self._changed.wait()
                continue
            await asyncio.sleep(max(0.0, self._outgoing[0][0] - time.monotonic()))
            now = time.monotonic()
            if self._outgoing and self._outgoing[0][0] <= now:  # what is waited for may have been given up
                self.due, packet, arrival = self._outgoing.popleft()
                self._metrics.released(self.kind, now - self.due, None if arrival is None else now - arrival)
                return packet
        raise MediaStreamError


class AvatarAudioTrack(_ReleaseTrack):
    """The voice, two Opus packets a tick: the first at its `due`, the second 20 ms later."""

    kind = "audio"

    def put(self, due: float, packets: tuple[Packet[Any], Packet[Any]], arrival: float | None = None) -> None:
        """`arrival`: when the tick's first sample came in, for the figure of the latency added here."""
        self._put(due, packets[0], arrival)
        self._put(due + PACKET_SECONDS, packets[1])
        while len(self._outgoing) > 2 * BACKLOG:
            self._outgoing.popleft()
            self._metrics.dropped("sound_unsent")


class AvatarVideoTrack(_ReleaseTrack):
    """The pictures; a tick that has none is not sent, so the viewer keeps the one before."""

    kind = "video"

    def __init__(self, metrics: Reports, traces: Traces | None = None) -> None:
        super().__init__(metrics)
        self._traces = traces
        self._sending: int | None = None  # the tick whose packets the sender has

    async def recv(self) -> Packet[Any]:
        """As a sender asks for the next packet, it has sent the one before."""
        self._mark(self._sending, "sent")
        self._sending = None
        packet = await super().recv()
        self._sending = tick_of(packet)
        self._mark(self._sending, "released")
        return packet

    def _mark(self, tick: int | None, moment: str) -> None:
        if self._traces is not None and tick is not None:
            self._traces.mark(tick, moment)

    def put(self, due: float, packet: Packet[Any]) -> None:
        self._mark(tick_of(packet), "encoded")
        self._put(due, packet)
        if len(self._outgoing) > BACKLOG:
            self._metrics.dropped("picture_unsent", len(self._outgoing))
            self._outgoing.clear()

    def give_up(self, due: float) -> bool:
        """Leave out what is due from then on; False where something of it has left already."""
        while self._outgoing and self._outgoing[-1][0] >= due:
            self._outgoing.pop()
        return self.due < due

    @property
    def next_due(self) -> float | None:
        """When the picture that waits for its sender should leave, or should have left."""
        return self._outgoing[0][0] if self._outgoing else None
