"""A stream of known delay and skew, to measure the measuring with.

The reference server returns every Opus packet as it came, a known time later, and with it, another known time later,
the picture of a film that shows the same words. What it really did is noted, so that a busy machine is told apart from
a wrong figure.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import uvicorn
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from fastapi import FastAPI, Request, Response

from benchmarks.wire import CLOCK, Line, Packet, tap
from engines.types import ByteArray
from server.encode import PACKET_SAMPLES, PICTURE_CODECS, PICTURE_PTS

BITRATE = 1_200_000


@dataclass(frozen=True, slots=True)
class Known:
    """Seconds that the reference holds back sound, and pictures."""

    sound: float = 0.120
    picture: float = 0.160


def encoded(film: Iterable[ByteArray], codec: str = "vp8") -> list[bytes]:
    """Pictures u8 (height, width, 3) RGB as one stream, the first a key frame."""
    made: list[bytes] = []
    context: av.VideoCodecContext | None = None
    for number, picture in enumerate(film):
        if context is None:
            height, width = picture.shape[:2]
            context = PICTURE_CODECS[codec](width, height, BITRATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number * PICTURE_PTS, Fraction(1, CLOCK["video"])
        made += [bytes(packet) for packet in context.encode(frame)]
    return made


class HeldTrack(MediaStreamTrack):
    """Encoded packets, each at its moment."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.held: list[float] = []  # seconds from a sound's arrival to what answers it being handed over
        self._waiting: asyncio.Queue[tuple[float, float, int, bytes]] = asyncio.Queue()

    def put(self, arrived: float, delay: float, pts: int, data: bytes) -> None:
        self._waiting.put_nowait((arrived, arrived + delay, pts, data))

    async def recv(self) -> av.Packet:
        if self.readyState != "live":
            raise MediaStreamError
        arrived, moment, pts, data = await self._waiting.get()
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        packet = av.Packet(data)
        packet.pts, packet.time_base = pts, Fraction(1, CLOCK[self.kind])
        self.held.append(time.monotonic() - arrived)
        return packet


@dataclass(slots=True)
class ReferenceServer:
    """Calls that hear themselves after `known.sound` and see `film` beside it after `known.picture`.

    `held`: for each call that ended, the seconds that every sound and picture was really held, by kind.
    """

    film: list[bytes]
    known: Known
    url: str = ""
    held: list[dict[str, list[float]]] = field(default_factory=list)
    _calls: dict[str, tuple[RTCPeerConnection, dict[str, HeldTrack]]] = field(default_factory=dict)

    async def answer(self, offer: str) -> tuple[str, str]:
        """SDP offer -> name of the call and SDP answer."""
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        tracks = {kind: HeldTrack(kind) for kind in ("audio", "video")}
        first: list[int] = []

        def pass_on(packet: Packet) -> None:
            if not first:
                first.append(packet.timestamp)
            pts = (packet.timestamp - first[0]) % 2**32
            tracks["audio"].put(packet.at, self.known.sound, pts, packet.data)
            tick, rest = divmod(pts, 2 * PACKET_SAMPLES)
            if rest == 0 and tick < len(self.film):
                tracks["video"].put(packet.at, self.known.picture, tick * PICTURE_PTS, self.film[tick])

        for kind, codec in (("audio", "opus"), ("video", "VP8")):
            transceiver: RTCRtpTransceiver = peer.addTransceiver(
                tracks[kind], direction="sendrecv" if kind == "audio" else "sendonly"
            )
            capabilities = RTCRtpSender.getCapabilities(kind).codecs
            transceiver.setCodecPreferences([known for known in capabilities if known.name == codec])
            if kind == "audio":
                tap(transceiver.receiver, Line("audio"), pass_on)
        name = secrets.token_urlsafe(8)
        self._calls[name] = peer, tracks
        await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        return name, peer.localDescription.sdp

    async def end(self, name: str) -> None:
        peer, tracks = self._calls.pop(name)
        self.held.append({kind: track.held for kind, track in tracks.items()})
        await peer.close()

    async def end_all(self) -> None:
        for name in list(self._calls):
            await self.end(name)

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

        @app.post("/sessions")
        async def sdp(request: Request) -> Response:
            name, answer = await self.answer((await request.body()).decode())
            return Response(answer, 201, {"Location": f"/sessions/{name}"}, media_type="application/sdp")

        @app.delete("/sessions/{name}", status_code=204)
        async def end(name: str) -> None:
            await self.end(name)

        @app.post("/offer")
        async def in_json(request: Request) -> Response:
            _, answer = await self.answer((await request.json())["sdp"])
            return Response(json.dumps({"sdp": answer, "type": "answer"}), media_type="application/json")

        return app


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The application on a port of its own of 127.0.0.1; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def reference(film: list[bytes], known: Known) -> AsyncIterator[ReferenceServer]:
    """A reference server that runs; `film`: one encoded picture for each 40 ms of the voice."""
    made = ReferenceServer(film, known)
    async with served(made.app()) as url:
        made.url = url
        try:
            yield made
        finally:
            await made.end_all()
