"""What arrived on the wire, noted at the RTP packet, and the records that figures are made of.

Nothing is decoded while a call runs: packets are kept with their moments of arrival, and sound and pictures are decoded
when the call is over. All moments are monotonic seconds of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket

CLOCK = {"audio": 48_000, "video": 90_000}  # RTP clock rates: RFC 7587, RFC 7741, RFC 6184
MISSED = 0.25  # seconds that a missing packet may take until a key frame is asked for


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet. `data`: its payload without the codec's own header, empty where it only pads."""

    at: float
    sequence: int
    timestamp: int
    marker: bool
    size: int  # bytes of the RTP payload
    data: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """The pair of times in one sender report (RFC 3550, 6.4.1); `ntp` in seconds."""

    at: float
    ntp: float
    timestamp: int


@dataclass(slots=True)
class Line:
    """All that arrived of one kind, "audio" or "video", in the order it came."""

    kind: str
    packets: list[Packet] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def between(self, begin: float, end: float) -> Line:
        """Packets of a stretch of time; reports are kept whole, because they hold for the whole call."""
        return Line(self.kind, [packet for packet in self.packets if begin <= packet.at < end], self.reports)


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture, whole: when its last packet came, its media time in seconds, its bytes."""

    at: float
    media: float
    data: bytes


def unwrapped(timestamps: Sequence[int], first: int) -> list[int]:
    """RTP timestamps, 32 bits, as steps since `first`; they may run backwards a little."""
    steps, last = [], 0
    for timestamp in timestamps:
        step = (timestamp - first) % 2**32
        turns = round((last - step) / 2**32)
        last = step + turns * 2**32
        steps.append(last)
    return steps


def media_times(line: Line, first: int | None = None) -> list[float]:
    """Media time of every packet in seconds, 0 at RTP time `first` (default: the first packet's)."""
    if not line.packets:
        return []
    begin = line.packets[0].timestamp if first is None else first
    rate = CLOCK[line.kind]
    return [step / rate for step in unwrapped([packet.timestamp for packet in line.packets], begin)]


def pictures(line: Line) -> list[Picture]:
    """The whole pictures of a video line by media time, 0 at its first packet; those with a hole are left out."""
    parts: dict[float, list[Packet]] = {}
    for media, packet in zip(media_times(line), line.packets, strict=True):
        if packet.data:
            parts.setdefault(media, []).append(packet)
    whole = []
    for media, packets in sorted(parts.items()):
        first = packets[0].sequence
        by_place = {(packet.sequence - first + 2**15) % 2**16: packet for packet in packets}
        places = sorted(by_place)
        if by_place[places[-1]].marker and places[-1] - places[0] + 1 == len(places):
            data = b"".join(by_place[place].data for place in places)
            whole.append(Picture(max(packet.at for packet in packets), media, data))
    return whole


class Tap:
    """Stands where a receiver's jitter buffer stands: notes each packet and hands none on.

    Retransmissions are unwrapped by then, and feedback (receiver reports, NACK, REMB) goes out as usual. A packet that
    stays away makes it ask for a key frame, as a browser would.
    """

    def __init__(self, line: Line, note: Callable[[Packet], None] | None = None) -> None:
        self._line, self._note = line, note
        self._newest: int | None = None
        self._missing: dict[int, float] = {}

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        now = time.monotonic()
        data: bytes = packet._data  # type: ignore[attr-defined]  # set by the receiver just before
        noted = Packet(
            now, packet.sequence_number, packet.timestamp, bool(packet.marker), len(packet.payload or b""), data
        )
        self._line.packets.append(noted)
        if self._note is not None:
            self._note(noted)
        return self._line.kind == "video" and self._hole(packet.sequence_number, now), None

    def _hole(self, sequence: int, now: float) -> bool:
        """Whether something is missing for good."""
        self._missing.pop(sequence, None)
        ahead = 1 if self._newest is None else (sequence - self._newest) % 2**16
        if 0 < ahead < 2**15:
            for skipped in range(1, min(ahead, 100)):
                self._missing[(sequence - skipped) % 2**16] = now
            self._newest = sequence
        given_up = [number for number, since in self._missing.items() if now - since > MISSED]
        for number in given_up:
            del self._missing[number]
        return bool(given_up)


def tap(receiver: RTCRtpReceiver, line: Line, note: Callable[[Packet], None] | None = None) -> None:
    """Let `line` note everything that `receiver` gets; before the connection stands. Private parts of aiortc 1.16."""
    name = "_RTCRtpReceiver__jitter_buffer"
    if not hasattr(receiver, name):
        raise RuntimeError(f"RTCRtpReceiver of this aiortc has no {name}")
    setattr(receiver, name, Tap(line, note))
    handle: Any = receiver._handle_rtcp_packet

    async def noting(packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket):
            info = packet.sender_info
            line.reports.append(Report(time.monotonic(), info.ntp_timestamp / 2**32, info.rtp_timestamp))
        await handle(packet)

    receiver._handle_rtcp_packet = noting  # type: ignore[method-assign]
