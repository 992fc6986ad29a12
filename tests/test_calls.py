"""The life of a call: lost and found again, drained, ended; always by one path, and nothing is left."""

from __future__ import annotations

import asyncio
import secrets
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, Peer, RefusedError
from server.session import seed_of
from tests.conftest import LiveServer, start_server, stop_server
from tests.test_server import assert_problem

pytestmark = pytest.mark.timeout(120)

SDP = {"Content-Type": "application/sdp"}
ENDED = 'kdtalker_sessions_ended_total{reason="%s"}'
LEFT = ("process_open_fds", "kdtalker_event_loop_tasks", "kdtalker_threads")


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


async def until(peer: Peer, state: str, within: float = 20) -> None:
    async with asyncio.timeout(within):
        while (await peer.stats())["state"] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def test_two_calls_with_one_avatar_do_not_move_alike() -> None:
    names = {secrets.token_urlsafe(12) for _ in range(1000)}
    assert len({seed_of(name) for name in names}) == len(names) == 1000


async def test_a_lost_caller_comes_back_to_the_same_call(server: LiveServer) -> None:
    before = {name: server.metric(name) for name in LEFT}
    ended = server.metric("kdtalker_sessions")
    async with Peer(server.url, silence(1), tidy=False) as lost:
        await lost.pictures(3, within=30)
        frames = (await lost.stats())["frames"]
        lost.vanish()
        await until(lost, "reconnecting")
        assert server.metric("kdtalker_sessions") == ended + 1, "its place is kept"
        async with Peer(server.url, silence(1), lost=lost) as found:
            await found.pictures(10, within=30)
            await until(found, "live")
            stats = await found.stats()
            assert stats["id"] == lost.location.rpartition("/")[2]
            assert stats["frames"] > frames
    await asyncio.sleep(0.5)
    assert server.metric("kdtalker_sessions") == 0
    assert {name: server.metric(name) for name in LEFT} == before


async def test_a_new_connection_takes_the_place_of_one_that_stands(server: LiveServer) -> None:
    async with Peer(server.url, silence(1), tidy=False) as first:
        await first.pictures(3, within=30)
        closed = asyncio.Event()
        first.connection.on("connectionstatechange", closed.set)
        async with Peer(server.url, silence(1), lost=first) as second:
            await asyncio.wait_for(closed.wait(), 10)
            await second.pictures(10, within=30)


async def test_only_who_has_the_token_takes_a_call_over(server: LiveServer) -> None:
    async with Peer(server.url) as peer, httpx.AsyncClient(base_url=server.url) as client:
        await peer.pictures(1, within=30)
        for headers in (SDP, SDP | {"Session-Token": "guessed"}, SDP | {"Session-Token": "\u00e9"}):
            raw = {name: value.encode() for name, value in headers.items()}
            answer = await client.post(peer.location, content="v=0", headers=raw)
            assert_problem(answer, 403, "token")
        own = SDP | {"Session-Token": peer.token}
        assert_problem(await client.post(peer.location, content="v=0", headers=own), 400, "offer")
        assert_problem(await client.post("/sessions/none", content="v=0", headers=own), 404, "no such session")
        await peer.pictures(5, within=30)
        assert peer.token not in (await client.get(f"{peer.location}/stats")).text


async def test_a_caller_that_does_not_come_back_is_given_up(server: LiveServer) -> None:
    before = server.metric(ENDED % "peer lost")
    async with Peer(server.url, silence(1), tidy=False) as peer:
        await peer.pictures(3, within=30)
    async with asyncio.timeout(20):
        while server.metric("kdtalker_sessions"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert server.metric(ENDED % "peer lost") == before + 1
    with pytest.raises(RefusedError) as refused:
        async with Peer(server.url, lost=peer):
            pass
    assert_problem(refused.value.answer, 404, "no such session")


async def test_sigterm_lets_running_calls_finish_and_nobody_in(tmp_path: Path) -> None:
    own = start_server(tmp_path, drain=60)
    try:
        async with Peer(own.url, silence(1)) as peer, httpx.AsyncClient(base_url=own.url) as client:
            await peer.pictures(3, within=30)
            own.process.send_signal(signal.SIGTERM)
            await peer.pictures(25, within=30)
            assert_problem(await client.get("/readyz"), 503, "about to stop")
            with pytest.raises(RefusedError) as refused:
                async with Peer(own.url):
                    pass
            assert refused.value.answer.json()["reason"] == "draining"
            await peer.pictures(5, within=30)
        await asyncio.to_thread(own.process.wait, 20)
        assert "Traceback" not in own.log.read_text()
    finally:
        if own.process.poll() is None:
            stop_server(own)


async def test_the_time_to_finish_has_an_end(tmp_path: Path) -> None:
    own = start_server(tmp_path, drain=1)
    async with Peer(own.url, silence(1), tidy=False) as peer:
        await peer.pictures(3, within=30)
        await asyncio.to_thread(stop_server, own)
    assert "server stopped" in own.log.read_text()
