"""The bad network of the fault tests, held against its own counters."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from benchmarks.impairment import HELD, QUEUE, Impairment, Line, Relay, only_candidate, with_candidate

STEP = 0.02  # seconds between datagrams
MANY = 5000


def sent(impairment: Impairment, seed: int = 1, size: int = 4) -> tuple[Line, list[tuple[float, int]]]:
    """MANY numbered datagrams through a line: (moment of arrival, number) of those that come."""
    line, arrivals = Line(seed, impairment), []

    def arrive(now: float) -> None:
        while (moment := line.next_arrival) is not None and moment <= now:
            arrivals.extend((moment, int.from_bytes(datagram[:4], "big")) for datagram in line.take(moment))

    for number in range(MANY):
        arrive(number * STEP)
        line.put(number * STEP, number.to_bytes(4, "big").ljust(size, b"-"))
    arrive(float("inf"))
    return line, arrivals


def test_a_clean_line_passes_everything_at_once() -> None:
    line, arrivals = sent(Impairment())
    assert arrivals == [(number * STEP, number) for number in range(MANY)]
    assert line.counts == {"received": MANY, "delivered": MANY, "overtaken": 0}


def test_a_line_loses_its_share_and_counts_it() -> None:
    line, arrivals = sent(Impairment(loss=0.2))
    assert line.counts["lost"] == pytest.approx(0.2 * MANY, rel=0.1)
    assert line.counts["lost"] + line.counts["delivered"] == line.counts["received"] == MANY
    assert len(arrivals) == line.counts["delivered"]
    assert sent(Impairment(loss=0.2))[1] == arrivals, "the seed decides"
    assert sent(Impairment(loss=0.2), seed=2)[1] != arrivals
    late = sent(Impairment(loss=0.2, delay=0.1, jitter=0.1))[1]
    assert [number for _, number in late] == [number for _, number in arrivals], "the same ones are lost"


def test_delay_and_jitter_stay_in_their_bounds_and_keep_the_order() -> None:
    line, arrivals = sent(Impairment(delay=0.05, jitter=0.3))
    assert [number for _, number in arrivals] == list(range(MANY))
    travels = [moment - number * STEP for moment, number in arrivals]
    assert min(travels) >= 0.05
    assert 0.30 < max(travels) <= 0.35
    assert line.counts["overtaken"] == 0


def test_a_line_reorders_its_share() -> None:
    line, arrivals = sent(Impairment(delay=0.01, reordering=0.1))
    backwards = sum(b < a for (_, a), (_, b) in itertools.pairwise(arrivals))
    assert 0.05 * MANY < backwards <= line.counts["overtaken"] < 0.15 * MANY
    assert max(moment - number * STEP for moment, number in arrivals) == pytest.approx(0.01 + HELD)
    assert sorted(number for _, number in arrivals) == list(range(MANY))


def test_a_throttled_line_drops_what_would_wait_too_long() -> None:
    rate = 200_000
    line, arrivals = sent(Impairment(rate=rate), size=1000)  # offered: 400 kbit/s
    seconds = arrivals[-1][0] - arrivals[0][0]
    assert 8000 * (len(arrivals) - 1) / seconds == pytest.approx(rate, rel=0.01)
    assert line.counts["overflowed"] == pytest.approx(MANY / 2, rel=0.02)
    assert line.counts["overflowed"] + line.counts["delivered"] == MANY
    assert max(moment - number * STEP for moment, number in arrivals) <= QUEUE + 1e-6


async def test_a_relay_leads_both_ways_and_lets_no_stranger_in() -> None:
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        for end in (caller, server, stranger):
            end.bind(("127.0.0.1", 0))
            end.setblocking(False)
        async with Relay(seed=3, up=Impairment(jitter=0.01), down=Impairment(loss=0.5)) as relay:
            to_caller = await relay.facing_server(caller.getsockname())
            to_server = await relay.facing_caller(server.getsockname())
            await loop.sock_sendto(stranger, b"?", to_server)
            for number in range(100):
                await loop.sock_sendto(caller, bytes([number]), to_server)
                await loop.sock_sendto(server, bytes([number]), to_caller)
            async with asyncio.timeout(10):
                there = [(await loop.sock_recvfrom(server, 9))[0][0] for _ in range(100)]
                while relay.down.counts["received"] < 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                back = [(await loop.sock_recvfrom(caller, 9))[0][0] for _ in range(relay.down.counts["delivered"])]
            assert there == list(range(100))
            assert back == sorted(back)
            assert 25 < relay.down.counts["lost"] == 100 - len(back)
            assert relay.strangers == 1
            assert relay.up.counts == {"received": 100, "delivered": 100, "overtaken": 0}


def test_only_the_relays_address_is_left_in_a_description() -> None:
    host = "a=candidate:1 1 udp 2130706431 192.0.2.2 5000 typ host"
    sdp = "\r\n".join(["v=0", "m=audio", host.replace("192.0.2.2", "2001:db8::1"), host, "m=video", host, ""])
    assert only_candidate(sdp) == ("192.0.2.2", 5000)
    moved = with_candidate(sdp, ("192.0.2.9", 7000))
    assert [line for line in moved.splitlines() if "candidate" in line] == [
        "a=candidate:1 1 udp 2130706431 192.0.2.9 7000 typ host"
    ]
    with pytest.raises(ValueError, match="no IPv4 host candidate"):
        only_candidate("v=0\r\n")
