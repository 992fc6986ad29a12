"""A caller for measuring: speaks packets that were encoded beforehand and notes what comes back, decoding nothing.

It drives any WebRTC server that answers an SDP offer over HTTP, with the offer as `application/sdp` or inside JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from benchmarks.wire import Line, Packet, tap
from engines.types import PLAYBACK_RATE, FloatArray, IntArray, KDTalkerError
from server.encode import PACKET_SAMPLES, SpeechEncoder

BITRATE = 64_000
PACKET_SECONDS = PACKET_SAMPLES / PLAYBACK_RATE


class CallError(KDTalkerError):
    """The server did not take the call; the text says why."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Speech encoded once for all callers: Opus packets of 20 ms, and `heard`, the sound f32 (samples,) at 48 kHz that
    a decoder makes of them. What comes back is compared with that, so that the callers' own codec adds no delay.
    """

    packets: tuple[bytes, ...]
    heard: FloatArray

    @classmethod
    def of(cls, sound: IntArray) -> Voice:
        """Speech i16 (samples,) at 48 kHz, cut to whole ticks."""
        encoder, tick = SpeechEncoder(BITRATE), 2 * PACKET_SAMPLES
        packets = tuple(
            bytes(packet)
            for number in range(len(sound) // tick)
            for packet in encoder.encode(number, sound[number * tick : (number + 1) * tick])
        )
        return cls(packets, decoded(packets))


def decoded(packets: tuple[bytes, ...] | list[bytes]) -> FloatArray:
    """Opus packets of 20 ms in order -> f32 (samples,) at 48 kHz, channels averaged; a broken one is silence."""
    codec = av.CodecContext.create("libopus", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.format, codec.layout, codec.sample_rate = "s16", "stereo", PLAYBACK_RATE
    parts = []
    for data in packets:
        part = np.zeros(PACKET_SAMPLES, np.float32)
        try:
            frames = codec.decode(av.Packet(data))
        except av.FFmpegError:
            frames = []
        if frames:
            stereo = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])[:PACKET_SAMPLES]
            part[: len(stereo)] = stereo.mean(1) / 32768
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server takes offers. `format`: "sdp" (body and answer are SDP, as in WHIP, RFC 9725) or "json" (both are
    `{"sdp": ..., "type": ...}`; `extra` is added to the offer's object).
    """

    url: str
    format: str = "sdp"
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def offer(self, http: httpx.AsyncClient, sdp: str) -> tuple[str, str | None]:
        """SDP offer -> SDP answer and the address that ends the call, if there is one; raises CallError."""
        try:
            if self.format == "json":
                answer = await http.post(
                    self.url, json={"sdp": sdp, "type": "offer", **self.extra}, headers=self.headers
                )
            else:
                headers = {"Content-Type": "application/sdp", **self.headers}
                answer = await http.post(self.url, content=sdp, headers=headers)
        except httpx.HTTPError as error:
            raise CallError(f"{self.url} cannot be reached: {error}") from error
        if not answer.is_success:
            raise CallError(f"{self.url} answered {answer.status_code}: {answer.text[:200]}")
        location = answer.headers.get("Location")
        if self.format == "json":
            try:
                body = answer.json()["sdp"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise CallError(f"{self.url} answered no JSON with an 'sdp': {answer.text[:200]}") from error
        else:
            body = answer.text
        return body, None if location is None else urljoin(self.url, location)


class _Microphone(MediaStreamTrack):
    """Hands the voice's packets to the sender, one each 20 ms, and notes when."""

    kind = "audio"

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice
        self._origin = 0.0
        self.sent: list[float] = []
        self.late: list[float] = []  # seconds after a packet's moment that this machine sent it

    async def recv(self) -> av.Packet:
        index = len(self.sent)
        if index == len(self._voice.packets):
            self.stop()
            raise MediaStreamError
        if index == 0:
            self._origin = time.monotonic()
        moment = self._origin + index * PACKET_SECONDS
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        packet = av.Packet(self._voice.packets[index])
        packet.pts = index * PACKET_SAMPLES
        packet.time_base = Fraction(1, PLAYBACK_RATE)
        now = time.monotonic()
        self.sent.append(now)
        self.late.append(now - moment)
        return packet


@dataclass(frozen=True, slots=True)
class Recording:
    """One call from outside. `sent`: when each packet of the voice left; `marks`: seconds from the beginning to
    "offered", "answered", "ice", "dtls", "sound", "picture", as far as it came; `codec` of the pictures, lower case.
    """

    name: str
    begun: float
    marks: Mapping[str, float]
    sent: tuple[float, ...]
    late: tuple[float, ...]
    audio: Line
    video: Line
    codec: str


class Caller:
    """A call; leaving the block ends it. `codecs`: the video formats offered, in this order."""

    def __init__(self, door: Door, voice: Voice, codecs: tuple[str, ...] = ()) -> None:
        self.name = ""
        self.marks: dict[str, float] = {}
        self.lines = {kind: Line(kind) for kind in ("audio", "video")}
        self._door = door
        self._http = httpx.AsyncClient(timeout=30)
        self._begun = 0.0
        self._location: str | None = None
        self._microphone = _Microphone(voice)
        self._first = {kind: asyncio.Event() for kind in self.lines}
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peer.on("iceconnectionstatechange", self._ice)
        self._peer.on("connectionstatechange", self._dtls)
        speaking = self._peer.addTransceiver(self._microphone, direction="sendrecv")
        speaking.setCodecPreferences([c for c in RTCRtpReceiver.getCapabilities("audio").codecs if c.name == "opus"])
        watching = self._peer.addTransceiver("video", direction="recvonly")
        if codecs:
            known = RTCRtpReceiver.getCapabilities("video").codecs
            watching.setCodecPreferences([c for name in (*codecs, "rtx") for c in known if c.name == name])
        self._watching = watching
        for transceiver in (speaking, watching):
            line = self.lines[transceiver.kind]
            tap(transceiver.receiver, line, note=lambda packet, kind=line.kind: self._arrived(kind, packet))

    async def __aenter__(self) -> Caller:
        try:
            await self._call()
        except BaseException:
            await self._close()
            raise
        return self

    async def _call(self) -> None:
        self._begun = time.monotonic()
        await self._peer.setLocalDescription(await self._peer.createOffer())
        self._mark("offered")
        answer, self._location = await self._door.offer(self._http, self._peer.localDescription.sdp)
        self.name = (self._location or "").rstrip("/").rpartition("/")[2]
        self._mark("answered")
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except Exception as error:  # aiortc raises whatever the part of the SDP happens to trip over
            raise CallError(f"{self._door.url} answered what is no answer to the offer: {error}") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._location is not None:
            with suppress(httpx.HTTPError):  # a server that is gone needs no goodbye
                await self._http.delete(self._location, headers=self._door.headers)
        await self._close()

    @property
    def sees(self) -> bool:
        """Whether the server's answer promises pictures."""
        return self._watching.currentDirection == "recvonly"

    async def first(self, kind: str, within: float) -> bool:
        """Wait for the first sound, or the first whole picture; whether it came."""
        try:
            async with asyncio.timeout(within):
                await self._first[kind].wait()
        except TimeoutError:
            return False
        return True

    async def said(self, packets: int) -> None:
        """Wait until more than so many packets of the voice have left."""
        microphone = self._microphone
        while len(microphone.sent) <= packets and microphone.readyState == "live":  # noqa: ASYNC110  # paced by itself
            await asyncio.sleep(PACKET_SECONDS / 2)

    async def post(self, path: str, body: Any) -> None:
        """JSON to a resource below the call's own; raises CallError."""
        try:
            answer = await self._http.post(f"{self._location}/{path}", json=body, headers=self._door.headers)
        except httpx.HTTPError as error:
            raise CallError(f"{self._door.url} cannot be reached: {error}") from error
        if not answer.is_success:
            raise CallError(f"{self._location}/{path} answered {answer.status_code}: {answer.text[:200]}")

    async def get(self, path: str) -> Any:
        """JSON of a resource below the call's own; None where the server has none."""
        if self._location is None:
            return None
        try:
            answer = await self._http.get(f"{self._location}/{path}", headers=self._door.headers)
            return answer.json() if answer.is_success else None
        except (httpx.HTTPError, json.JSONDecodeError):
            return None

    def recording(self) -> Recording:
        codecs = getattr(self._watching, "_codecs", [])
        return Recording(
            self.name,
            self._begun,
            dict(self.marks),
            tuple(self._microphone.sent),
            tuple(self._microphone.late),
            self.lines["audio"],
            self.lines["video"],
            codecs[0].name.lower() if codecs else "",
        )

    def _mark(self, name: str) -> None:
        self.marks.setdefault(name, time.monotonic() - self._begun)

    def _ice(self) -> None:
        if self._peer.iceConnectionState == "completed":
            self._mark("ice")

    def _dtls(self) -> None:
        if self._peer.connectionState == "connected":
            self._mark("dtls")

    def _arrived(self, kind: str, packet: Packet) -> None:
        if kind == "audio" or packet.marker:  # the last packet of a picture
            self._mark({"audio": "sound", "video": "picture"}[kind])
            self._first[kind].set()

    async def _close(self) -> None:
        await self._peer.close()
        await self._http.aclose()
