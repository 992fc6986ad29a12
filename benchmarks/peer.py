"""A caller as a browser is one: a real aiortc peer that speaks, listens and looks; for benchmarks and tests."""

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
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket

from benchmarks.impairment import Relay

RATE = 48_000
PACKET = 960


class Voice(MediaStreamTrack):
    """A microphone that plays i16 (samples,) at 48 kHz once, in 20 ms frames, then silence.

    `fast`: the share by which its clock runs faster than the machine's. While `muted` nothing is sent and time goes on.
    """

    kind = "audio"

    def __init__(self, sound: np.ndarray, fast: float = 0.0) -> None:
        super().__init__()
        self.muted = False
        self._sound = sound
        self._interval = PACKET / RATE / (1 + fast)
        self._index = 0
        self._origin = 0.0
        self.sent_at: list[float] = []  # when each frame was handed to the sender

    async def recv(self) -> av.AudioFrame | av.Packet[Any]:
        if self._index == 0:
            self._origin = time.monotonic()
        while True:
            wait = self._origin + self._index * self._interval - time.monotonic()
            await asyncio.sleep(max(0.0, wait))
            samples = self._sound[self._index * PACKET : (self._index + 1) * PACKET]
            pts = self._index * PACKET
            self._index += 1
            if not self.muted:
                break
        self.sent_at.append(time.monotonic())
        return self._made(np.pad(samples, (0, PACKET - len(samples))).astype(np.int16), pts)

    def _made(self, samples: np.ndarray, pts: int) -> av.AudioFrame | av.Packet[Any]:
        """What goes to the sender for samples i16 (960,)."""
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.time_base = Fraction(1, RATE)
        frame.pts = pts
        return frame


@dataclass
class Received:
    """What came back, with the moment of each arrival (monotonic seconds)."""

    moments: list[float] = field(default_factory=list)  # of every decoded picture
    pictures: list[tuple[float, np.ndarray]] = field(default_factory=list)  # RGB, those that are kept
    sound: list[tuple[float, np.ndarray]] = field(default_factory=list)  # i16 mono
    # by kind: (arrival, RTP timestamp) of packets, (NTP time, RTP timestamp) of sender reports
    timestamps: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {"audio": [], "video": []})
    reports: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"audio": [], "video": []})
    starts: dict[int, bytes] = field(default_factory=dict)  # first payload of each picture, by RTP timestamp


class Peer:
    """A call to `url`; leaving the block hangs up (and DELETEs the session unless it is not `tidy`).

    `sound`: what the microphone picks up, or the microphone; none without. `every`: keep each n-th picture's pixels
    (the others are only counted), and `listens`: keep what is heard and how pictures begin; so that a long call fits
    memory. `through`: what stands between the two ends.
    `codecs`: the video formats offered, in this order; aiortc's own order where there are none. `ice`: the way to
    the server; without it nobody else is asked. `lost`: the peer whose call this one takes over.
    """

    def __init__(
        self,
        url: str,
        sound: np.ndarray | Voice | None = None,
        *,
        query: str = "",
        tidy: bool = True,
        every: int = 1,
        listens: bool = True,
        codecs: tuple[str, ...] = (),
        ice: RTCConfiguration | None = None,
        lost: Peer | None = None,
        through: Relay | None = None,
    ) -> None:
        self.url = url
        self.query = query
        self.received = Received()
        self.count = 0  # pictures decoded
        self._arrived = asyncio.Event()
        self.location = self.token = self.answer = self.room = ""
        self._lost = lost
        self._through = through
        self.voice = Voice(sound) if isinstance(sound, np.ndarray) else sound
        self._tidy = tidy
        self._every, self._listens = every, listens
        self._tasks: list[asyncio.Task[None]] = []
        self._http = httpx.AsyncClient(base_url=url, timeout=30)
        self.connection = RTCPeerConnection(ice or RTCConfiguration(iceServers=[]))
        self.connection.on("track", self._track)
        if self.voice is None:
            self.connection.addTransceiver("audio", direction="recvonly")
        else:
            self.connection.addTransceiver(self.voice, direction="sendrecv")
        watching = self.connection.addTransceiver("video", direction="recvonly")
        if codecs:
            capabilities = RTCRtpReceiver.getCapabilities("video").codecs
            watching.setCodecPreferences([c for name in (*codecs, "rtx") for c in capabilities if c.name == name])

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        sdp = self.connection.localDescription.sdp
        return sdp if self._through is None else await self._through.offered(sdp)

    async def accept(self, answer: str) -> None:
        """What follows an offer: the SDP answer begins the call."""
        self.answer = answer if self._through is None else await self._through.answered(answer)
        for transceiver in self.connection.getTransceivers():
            self._watch_packets(transceiver.receiver, transceiver.kind)
        await self.connection.setRemoteDescription(RTCSessionDescription(self.answer, "answer"))

    async def __aenter__(self) -> Peer:
        headers = {"Content-Type": "application/sdp"}
        if self._lost is None:
            answer = await self._http.post(f"/sessions{self.query}", content=await self.offer(), headers=headers)
        else:
            headers["Session-Token"] = self._lost.token
            answer = await self._http.post(self._lost.location, content=await self.offer(), headers=headers)
        if answer.status_code not in (200, 201):
            await self.close()
            raise RefusedError(answer)
        self.location = answer.headers["Location"] if self._lost is None else self._lost.location
        self.token = answer.headers["Session-Token"] if self._lost is None else self._lost.token
        self.room = answer.headers.get("Watch-Location", "").rpartition("/")[2]
        await self.accept(answer.text)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tidy:
            await self._http.delete(self.location)
        await self.close()

    async def stats(self) -> dict[str, Any]:
        answer = await self._http.get(f"{self.location}/stats")
        answer.raise_for_status()
        return answer.json()

    async def record(self) -> None:
        """Have the call recorded by the server."""
        answer = await self._http.post(f"{self.location}/recording", headers={"Session-Token": self.token})
        answer.raise_for_status()

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

    def vanish(self) -> None:
        """Send nothing any more, not even a goodbye."""
        ice = self.connection.getTransceivers()[0].receiver.transport.transport._connection
        for protocol in ice._protocols:
            protocol.transport.sendto = lambda *_: None

    async def ask_for_a_picture(self) -> None:
        """Say that the picture is lost (PLI)."""
        for receiver in self.connection.getReceivers():
            if receiver.track.kind == "video":
                for source in receiver.getSynchronizationSources():
                    await receiver._send_rtcp_pli(source.source)

    async def close(self) -> None:
        """Hang up without the block; for peers that never called."""
        await self.connection.close()
        for task in self._tasks:
            task.cancel()  # a track that never began does not end by itself
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
                self.received.moments.append(now)
                if self.count % self._every == 0:
                    self.received.pictures.append((now, frame.to_ndarray(format="rgb24")))
                self.count += 1
                self._arrived.set()
            elif self._listens and isinstance(frame, av.AudioFrame):
                channels = len(frame.layout.channels)
                self.received.sound.append((now, frame.to_ndarray().reshape(-1, channels)[:, 0].copy()))

    def _watch_packets(self, receiver: Any, kind: str) -> None:
        """Note every packet's RTP timestamp and every sender report's pair of times, before any buffer sees them."""
        handle = receiver._handle_rtp_packet
        seen, starts = self.received.timestamps[kind], self.received.starts

        async def noting(packet: RtpPacket, arrival_time_ms: int) -> None:
            seen.append((time.monotonic(), packet.timestamp))
            if kind == "video" and self._listens:
                starts.setdefault(packet.timestamp, packet.payload)
            await handle(packet, arrival_time_ms)

        receiver._handle_rtp_packet = noting
        handle_report, reports = receiver._handle_rtcp_packet, self.received.reports[kind]

        async def noting_reports(packet: AnyRtcpPacket) -> None:
            if isinstance(packet, RtcpSrPacket):
                reports.append((packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp))
            await handle_report(packet)

        receiver._handle_rtcp_packet = noting_reports


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
