"""Publishers and viewers of a room, by WHIP and WHEP: real aiortc peers; for benchmarks and tests."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.codecs.vpx import VpxPayloadDescriptor
from aiortc.rtcrtpreceiver import StreamStatistics

from benchmarks.peer import RefusedError, Voice

SDP = {"Content-Type": "application/sdp"}


class _Guest:
    """One exchange of SDP with `url`; leaving the block hangs up, and DELETEs what was made unless it is not `tidy`."""

    def __init__(self, url: str, path: str, *, tidy: bool = True, headers: dict[str, str] | None = None) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30, headers=headers)
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.location = self.tag = self.answer = ""
        self._path, self._tidy = path, tidy

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def post(self, offer: str) -> httpx.Response:
        """Send an offer and take the answer; raises RefusedError."""
        answer = await self.http.post(self._path, content=offer, headers=SDP)
        if answer.status_code != 201:
            await self.close()
            raise RefusedError(answer)
        self.location, self.tag, self.answer = answer.headers["location"], answer.headers["etag"], answer.text
        await self.connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        return answer

    async def trickle(self, fragment: str, tag: str | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": tag or self.tag}
        return await self.http.patch(self.location, content=fragment, headers=headers)

    async def close(self) -> None:
        await self.connection.close()
        await self.http.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tidy and self.location:
            await self.http.delete(self.location)
        await self.close()


class Publisher(_Guest):
    """Speaks `sound`, i16 (samples,) at 48 kHz, into a room."""

    def __init__(self, url: str, room: str, sound: np.ndarray, *, query: str = "", **options: Any) -> None:
        super().__init__(url, f"/whip/{room}{query}", **options)
        self.voice = Voice(sound)
        self.connection.addTransceiver(self.voice, direction="sendonly")

    async def __aenter__(self) -> Publisher:
        await self.post(await self.offer())
        return self


class _Counter:
    """Stands where a receiver's decoder queue stands: counts whole frames and decodes none."""

    def __init__(self, queue: Any) -> None:
        self.moments: list[float] = []  # of every frame
        self._queue = queue

    def put(self, item: object) -> None:
        if item is None:
            self._queue.put(None)  # the decoder's end
        else:
            self.moments.append(time.monotonic())

    def get(self) -> object:
        return self._queue.get()


class _NothingLost(StreamStatistics):
    fraction_lost = 0


class _Content(dict[int, StreamStatistics]):
    """Stands where a receiver keeps the statistics of what it receives: by these nothing is ever lost."""

    def __setitem__(self, source: int, statistics: StreamStatistics) -> None:
        statistics.__class__ = _NothingLost
        super().__setitem__(source, statistics)


class Viewer(_Guest):
    """Watches a room and decodes nothing, so that many fit one machine. `frames`: whole pictures that came.

    A `calm` one complains of nothing: it sends no estimate of its bandwidth and reports no loss, both of which a busy
    machine brings about. A `deaf` one takes no sound, which is two packets of three. `codec`: the only format of
    pictures that it offers, default: aiortc's; the size of pictures is known of VP8.
    """

    def __init__(
        self, url: str, room: str, *, calm: bool = False, deaf: bool = False, codec: str = "", **options: Any
    ) -> None:
        super().__init__(url, f"/whep/{room}", **options)
        self.keyframes: list[tuple[float, tuple[int, int]]] = []  # when, and their width and height
        self._counters: dict[str, _Counter] = {}
        for kind in ("video",) if deaf else ("audio", "video"):
            transceiver = self.connection.addTransceiver(kind, direction="recvonly")
            receiver: Any = transceiver.receiver
            self._counters[kind] = _Counter(receiver._RTCRtpReceiver__decoder_queue)
            receiver._RTCRtpReceiver__decoder_queue = self._counters[kind]
            if kind == "video":
                if codec:
                    formats = RTCRtpReceiver.getCapabilities("video").codecs
                    transceiver.setCodecPreferences([each for each in formats if each.name == codec])
                if codec in ("", "VP8"):
                    self._watch(receiver)
                if calm:
                    receiver._RTCRtpReceiver__remote_bitrate_estimator = None
                    receiver._RTCRtpReceiver__remote_streams = _Content()

    async def __aenter__(self) -> Viewer:
        await self.post(await self.offer())
        return self

    @property
    def frames(self) -> int:
        return len(self._counters["video"].moments)

    @property
    def sounds(self) -> int:
        return len(self._counters["audio"].moments)

    @property
    def size(self) -> int:
        """Width of the pictures since the last key frame; 0 before the first."""
        return self.keyframes[-1][1][0] if self.keyframes else 0

    def lose(self, packet_is_lost: Any) -> None:
        """Let what `packet_is_lost()` says of each arriving datagram with sound or pictures be so, from now on."""
        transport: Any = self.connection.getTransceivers()[0].receiver.transport
        handle = transport._handle_rtp_data

        async def losing(data: bytes, arrival_time_ms: int) -> None:
            if not packet_is_lost():
                await handle(data, arrival_time_ms)

        transport._handle_rtp_data = losing

    async def ask_for_a_picture(self) -> None:
        """Say that the picture is lost (PLI)."""
        for receiver in self.connection.getReceivers():
            if receiver.track.kind == "video":
                for source in receiver.getSynchronizationSources():
                    await receiver._send_rtcp_pli(source.source)

    def _watch(self, receiver: Any) -> None:
        handle = receiver._handle_rtp_packet
        newest: list[int] = []

        async def noting(packet: Any, arrival_time_ms: int) -> None:
            if packet.payload and newest[-1:] != [packet.timestamp]:
                newest[:] = [packet.timestamp]
                data = VpxPayloadDescriptor.parse(packet.payload)[1]
                if len(data) > 9 and not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a":  # RFC 6386, 9.1
                    size = int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
                    self.keyframes.append((time.monotonic(), size))
            await handle(packet, arrival_time_ms)

        receiver._handle_rtp_packet = noting
