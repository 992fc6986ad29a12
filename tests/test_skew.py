"""Sound and pictures of a call leave by one clock: pictures that carry their tick in their pixels, and real reports."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket

from benchmarks.peer import PACKET, Received, Voice, connect
from benchmarks.skew import NTP_EPOCH, first_tick, packet_skew, report_skew, skew
from engines.pipeline import Heard, Talker
from engines.portrait.prepare import prepare
from engines.renderer import Renderer
from engines.talkers import open_talker
from engines.types import ByteArray, FloatArray, Identity, MotionTick
from server import aiortc_door as door
from tests.test_faults import calls
from tests.test_server import PORTRAIT

pytestmark = pytest.mark.timeout(180)

BITS, SIDE = 16, 32  # a tick as squares along the upper edge, black or white


class MarkingRenderer:
    """A real renderer that writes into each picture the tick of the motion it shows."""

    def __init__(self, real: Renderer) -> None:
        self._real = real
        self.ticks: dict[bytes, int] = {}

    def staged(self, identity: Identity, view: str, background: str) -> Callable[[FloatArray], ByteArray]:
        staged = self._real.staged(identity, view, background)

        def show(motion: FloatArray) -> ByteArray:
            picture, tick = staged(motion).copy(), self.ticks[motion.tobytes()]
            for bit in range(BITS):
                picture[:SIDE, SIDE * bit : SIDE * (bit + 1)] = 255 * (tick >> bit & 1)
            return picture

        return show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class MarkingTalker(Talker):
    """A real talker that tells its renderer which motion belongs to which tick."""

    def listen_together(self, calls: Sequence[Heard]) -> list[list[MotionTick]]:
        ready = super().listen_together(calls)
        assert isinstance(self.renderer, MarkingRenderer)
        self.renderer.ticks |= {made.motion.tobytes(): made.tick for call in ready for made in call}
        return ready


def marked(picture: np.ndarray) -> int:
    side = len(picture) // BITS  # pictures may be sent smaller
    squares = picture[:side].reshape(side, BITS, side, 3).mean(axis=(0, 2, 3))
    return sum(int(square > 128) << bit for bit, square in enumerate(squares))


async def test_a_pictures_timestamp_is_that_of_its_ticks_sound(tmp_path: Path) -> None:
    real = open_talker()
    parts = {each.name: getattr(real, each.name) for each in dataclasses.fields(real)}
    talker = MarkingTalker(**parts | {"renderer": MarkingRenderer(real.renderer)})
    identity = real.renderer.enrol(prepare(PORTRAIT.read_bytes()))
    async with calls(talker, identity, 1, tmp_path) as [(peer, _)]:
        await peer.pictures(40, within=60)
    stamps = list(dict.fromkeys(stamp for _, stamp in peer.received.timestamps["video"]))
    ticks = [marked(picture) for _, picture in peer.received.pictures]
    assert ticks == [ticks[0] + (stamp - stamps[0]) % 2**32 // 3600 for stamp in stamps[: len(ticks)]]
    sound = [stamp for _, stamp in peer.received.timestamps["audio"]]
    assert {(b - a) % 2**32 for a, b in pairwise(sound)} == {PACKET}
    assert first_tick(peer.received) == ticks[0], "the first packet of sound is that of tick 0"


def received(seconds: float, late: Callable[[float], float], first: int = 3) -> Received:
    """A call whose first picture is of tick `first`, its pictures `late(time)` seconds behind their sound."""
    got, origins = Received(), {"audio": 2**32 - 5_000, "video": 2**32 - 70_000}  # RTP time wraps soon
    for reports in got.reports.values():
        reports.append((0, 0))  # from before the first packet
    for number in range(round(seconds * 50)):
        moment, stamp = 0.02 * number, (origins["audio"] + PACKET * number) % 2**32
        got.timestamps["audio"].append((moment, stamp))
        if number % 45 == 44:
            got.reports["audio"].append((round((moment + NTP_EPOCH) * 2**32), stamp))
    for tick in range(first, round(seconds * 25)):
        moment, stamp = 0.04 * tick, (origins["video"] + 3600 * tick) % 2**32
        moment += late(moment)
        got.timestamps["video"] += [(moment, stamp), (moment + 0.001, stamp)]
        if tick % 30 == 29:
            got.reports["video"].append((round((moment + NTP_EPOCH) * 2**32), stamp))
    return got


@pytest.mark.parametrize("first", [0, 1, 7, 40])
@pytest.mark.parametrize("late", [0.0, -0.008, 0.013])
def test_skew_is_measured_with_its_sign(late: float, first: int) -> None:
    got = received(60, lambda _: late, first)
    assert first_tick(got) == first
    for moments, apart in (report_skew(got), packet_skew(got)):
        assert len(moments) > 40
        assert apart == pytest.approx(1000 * late, abs=0.1)


def test_a_clock_that_drifts_away_is_not_taken_for_another_tick() -> None:
    got = received(120, lambda moment: 0.001 * moment)
    for moments, apart in (report_skew(got), packet_skew(got)):
        assert apart == pytest.approx(moments, abs=2.2), "1 ms a second, far beyond a tick"
    assert skew(got)["reports"]["largest"] == pytest.approx(119, abs=3)
    part = skew(got, since=0, until=50)["reports"]
    assert part["count"] < skew(got)["reports"]["count"]
    assert part["p99"] < 52


async def test_a_late_packet_does_not_move_the_reports_of_the_clock() -> None:
    source, receiver = (
        RTCPeerConnection(RTCConfiguration(iceServers=[])),
        RTCPeerConnection(RTCConfiguration(iceServers=[])),
    )
    voice = Voice(np.zeros(PACKET, np.int16))
    sender = source.addTransceiver(voice, direction="sendonly").sender
    begun = time.monotonic() - 0.75
    door.report_when_due(sender, lambda: begun + 0.02 * voice._index)
    got: list[tuple[int, int]] = []
    await connect(source, receiver)
    handle = receiver.getReceivers()[0]._handle_rtcp_packet

    async def noting(packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp:
            got.append((packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp))
        await handle(packet)

    receiver.getReceivers()[0]._handle_rtcp_packet = noting
    async with asyncio.timeout(30):
        while len(got) < 6 or "remote-inbound-rtp" not in {each.type for each in (await sender.getStats()).values()}:
            time.sleep(0.015)  # noqa: ASYNC251  # packets and reports leave late, the more so while one waits
            await asyncio.sleep(0.01)
    age = time.time() + NTP_EPOCH - got[-1][0] / 2**32
    for end in (source, receiver):
        await end.close()
    assert age > 0.7, "older than the packet by what it was late"
    offsets = [ntp / 2**32 - (stamp - got[0][1]) % 2**32 / 48_000 for ntp, stamp in got]
    assert max(offsets) - min(offsets) < 1e-5, "however late they leave, they pair the same times"
