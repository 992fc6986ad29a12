"""Which pictures an offer gets, in whatever way a browser writes it, and what they are made of."""

from __future__ import annotations

import re

import pytest

from benchmarks.peer import Peer, RefusedError
from tests.conftest import LiveServer
from tests.safari import BASELINE, VP8, Safari
from tests.test_server import assert_problem

pytestmark = pytest.mark.timeout(120)


def video(sdp: str) -> str:
    return sdp.split("m=video")[1]


@pytest.mark.parametrize("first", ["H264", "VP8"])
async def test_vp8_is_chosen_whatever_the_offers_order(server: LiveServer, first: str) -> None:
    async with Peer(server.url, codecs=(first, "VP8", "H264")) as peer:
        await peer.pictures(5, within=30)
        assert "VP8/90000" in video(peer.answer).split("a=rtpmap")[1]


async def test_a_caller_without_vp8_is_sent_h264(server: LiveServer) -> None:
    async with Peer(server.url, codecs=("H264",)) as peer:
        await peer.pictures(5, within=30)
    assert peer.received.pictures[-1][1].std() > 20


async def test_safari_on_ios_gets_vp8_though_it_lists_h264_first(server: LiveServer) -> None:
    async with Safari(server.url) as peer:
        await peer.pictures(5, within=30)
    assert video(peer.answer).split()[2] == str(VP8)
    assert f"a=rtpmap:{VP8} VP8/90000" in peer.answer
    assert peer.received.pictures[-1][1].std() > 20


async def test_safari_without_vp8_gets_the_profile_that_it_is_told(server: LiveServer) -> None:
    async with Safari(server.url, without=("VP8",)) as peer:
        await peer.pictures(5, within=30)
    assert video(peer.answer).split()[2] == str(BASELINE)
    agreed = re.findall(r"a=fmtp:(\d+) .*packetization-mode=(\d).*profile-level-id=(\w+)", peer.answer)
    assert agreed == [(str(BASELINE), "1", "42e01f")]
    # The first packet gathers the parameter sets (STAP-A, RFC 6184, 5.7.1): header, size, then the sequence's.
    first = next(iter(peer.received.starts.values()))
    assert first[0] & 31 == 24
    kind, profile, constraints, level = first[3] & 31, *first[4:7]
    assert (kind, profile, level) == (7, 0x42, 0x1F)
    assert constraints & 0x40, "constrained baseline"
    assert peer.received.pictures[-1][1].std() > 20


async def test_high_profile_alone_is_refused_in_words(server: LiveServer) -> None:
    with pytest.raises(RefusedError) as refused:
        async with Safari(server.url, without=("VP8",), changed=("42e01f", "640c1f")):
            pass
    assert_problem(refused.value.answer, 400, "baseline H.264")
