"""Faults brought about with a running server, seconds each: the call lives, the other notices nothing, nothing is left.

`kdtalker bench soak faults` is the long form, with engines that fail and with pictures counted more strictly.
"""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest
from aiortc import RTCRtpReceiver

from benchmarks.faults import MICROPHONE, NETWORK, VANISHED, Fault, suffer
from benchmarks.impairment import Impairment, Relay
from benchmarks.peer import RATE, Peer
from tests.conftest import LiveServer
from tests.test_server import SDP, assert_problem

pytestmark = pytest.mark.timeout(120)

TONE = (8000 * np.sin(2 * np.pi * 200 * np.arange(60 * RATE) / RATE)).astype(np.int16)
BUSY = {"share": 0.05, "sound": 0.5}  # of pictures and sound that the busiest machine still brings in time


@pytest.mark.parametrize("fault", [*NETWORK, *MICROPHONE[:3], VANISHED], ids=lambda fault: fault.name)
async def test_a_fault_harms_one_call_and_does_not_end_it(server: LiveServer, fault: Fault) -> None:
    outcome = await suffer(server.url, fault, 2.5, TONE, settle=0.5, recovery=2)
    assert not outcome.broken(**BUSY), outcome
    if fault in NETWORK:
        counts = outcome.relayed["up"]
        assert counts["received"] == counts["delivered"] + counts.get("lost", 0)
        assert (outcome.microphone["lost"] > 0) == (fault.up.loss > 0)
    if fault is VANISHED:
        assert server.metric('kdtalker_sessions_ended_total{reason="peer lost"}') >= 1


async def test_every_packet_of_a_call_goes_through_the_relay(server: LiveServer) -> None:
    async with Relay() as relay, Peer(server.url, TONE, through=relay) as peer:
        await peer.pictures(3, within=30)
        relay.up.impairment = relay.down.impairment = Impairment(loss=1)
        async with asyncio.timeout(20):
            while (await peer.stats())["state"] != "reconnecting":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        seen = len(peer.received.timestamps["audio"])
        await asyncio.sleep(0.3)
        assert len(peer.received.timestamps["audio"]) == seen
        relay.up.impairment = relay.down.impairment = Impairment()
        await peer.pictures(3, within=30)
        assert (await peer.stats())["state"] == "live", "it is the same call again, without a new offer"


async def test_a_microphone_that_has_only_8_khz_formats_is_told_so(server: LiveServer) -> None:
    formats = [each for each in RTCRtpReceiver.getCapabilities("audio").codecs if each.name in ("PCMU", "PCMA")]
    assert len(formats) == 2
    peer = Peer(server.url, TONE)
    peer.connection.getTransceivers()[0].setCodecPreferences(formats)
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert_problem(await client.post("/sessions", content=await peer.offer(), headers=SDP), 400, "Opus")
    finally:
        await peer.close()
    assert server.metric("kdtalker_sessions") == 0
