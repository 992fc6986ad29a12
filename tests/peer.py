"""A caller as a browser is one: a real aiortc peer that speaks, listens and looks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket

RATE = 48_000
PACKET = 960


class Voice(MediaStreamTrack):
    """A microphone that plays i16 (samples,) at 48 kHz once, in 20 ms frames, then silence."""

    kind = "audio"

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__()
        self._sound = sound
        self._index = 0
        self._origin = 0.0
        self.sent_at: list[float] = []  # when each frame was handed to the sender

    async def recv(self) -> av.AudioFrame:
        if self._index == 0:
            self._origin = time.monotonic()
        wait = self._origin + self._index * PACKET / RATE - time.monotonic()
        await asyncio.sleep(max(0.0, wait))
        samples = self._sound[self._index * PACKET : (self._index + 1) * PACKET]
        samples = np.pad(samples, (0, PACKET - len(samples))).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.time_base = Fraction(1, RATE)
        frame.pts = self._index * PACKET
        self._index += 1
        self.sent_at.append(time.monotonic())
        return frame


@dataclass
class Received:
    """What came back, with the moment of each arrival (monotonic seconds)."""

    pictures: list[tuple[float, np.ndarray]] = field(default_factory=list)  # RGB
    sound: list[tuple[float, np.ndarray]] = field(default_factory=list)  # i16 mono
    timestamps: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {"audio": [], "video": []})


class Peer:
    """A call to `url`; leaving the block hangs up (and DELETEs the session unless told not to).

    `every`: keep each n-th picture's pixels (the others are only counted), so that a long call fits memory.
    """

    def __init__(
        self, url: str, sound: np.ndarray | None = None, *, query: str = "", tidy: bool = True, every: int = 1
    ) -> None:
        self.url = url
        self.query = query
        self.received = Received()
        self.count = 0  # pictures decoded
        self._arrived = asyncio.Event()
        self.location = ""
        self.voice = None if sound is None else Voice(sound)
        self._tidy = tidy
        self._every = every
        self._tasks: list[asyncio.Task[None]] = []
        self._http = httpx.AsyncClient(base_url=url, timeout=30)
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.on("track", self._track)
        if self.voice is None:
            self.connection.addTransceiver("audio", direction="recvonly")
        else:
            self.connection.addTransceiver(self.voice, direction="sendrecv")
        self.connection.addTransceiver("video", direction="recvonly")

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def __aenter__(self) -> Peer:
        answer = await self._http.post(
            f"/sessions{self.query}", content=await self.offer(), headers={"Content-Type": "application/sdp"}
        )
        if answer.status_code != 201:
            await self._hang_up()
            raise RefusedError(answer)
        self.location = answer.headers["Location"]
        for transceiver in self.connection.getTransceivers():
            self._watch_packets(transceiver.receiver, transceiver.kind)
        await self.connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tidy:
            await self._http.delete(self.location)
        await self._hang_up()

    async def stats(self) -> dict[str, Any]:
        answer = await self._http.get(f"{self.location}/stats")
        answer.raise_for_status()
        return answer.json()

    async def pictures(self, count: int, within: float) -> None:
        """Wait until `count` more pictures were decoded."""
        goal = self.count + count
        async with asyncio.timeout(within):
            while self.count < goal:
                self._arrived.clear()
                await self._arrived.wait()

    def heard(self) -> np.ndarray:
        """All sound received so far, i16 (samples,)."""
        return np.concatenate([np.zeros(0, np.int16), *(sound for _, sound in self.received.sound)])

    async def _hang_up(self) -> None:
        await self.connection.close()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    def _track(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.ensure_future(self._consume(track)))

    async def _consume(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            now = time.monotonic()
            if isinstance(frame, av.VideoFrame):
                if self.count % self._every == 0:
                    self.received.pictures.append((now, frame.to_ndarray(format="rgb24")))
                self.count += 1
                self._arrived.set()
            elif isinstance(frame, av.AudioFrame):
                channels = len(frame.layout.channels)
                self.received.sound.append((now, frame.to_ndarray().reshape(-1, channels)[:, 0].copy()))

    def _watch_packets(self, receiver: Any, kind: str) -> None:
        """Note the RTP timestamp of every packet, before any buffer sees it."""
        handle = receiver._handle_rtp_packet
        seen = self.received.timestamps[kind]

        async def noting(packet: RtpPacket, arrival_time_ms: int) -> None:
            seen.append((time.monotonic(), packet.timestamp))
            await handle(packet, arrival_time_ms)

        receiver._handle_rtp_packet = noting


class RefusedError(Exception):
    """The server did not take the call."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code}: {answer.text}")
        self.answer = answer


async def connect(caller: RTCPeerConnection, callee: RTCPeerConnection, within: float = 10) -> None:
    """Offer, answer and wait until both ends stand."""
    ends = (caller, callee)
    up = [asyncio.Event() for _ in ends]
    for end, event in zip(ends, up, strict=True):
        end.on("connectionstatechange", lambda end=end, event=event: end.connectionState == "connected" and event.set())
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)
    async with asyncio.timeout(within):
        for event in up:
            await event.wait()
