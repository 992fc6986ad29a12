"""Calls that others watch (WHEP): what a viewer gets, and what many of them cost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, Peer, RefusedError
from benchmarks.rooms import Publisher, Viewer
from server.renditions import MOST, Key, shared
from tests.conftest import LiveServer, start_server, stop_server
from tests.test_server import SDP, assert_problem

pytestmark = pytest.mark.timeout(280)

MANY = 30
WANTED = {512: 9, 384: 4, 256: 1}  # viewers by pixels


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


async def until(condition: Callable[[], bool], within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def audience(server: LiveServer) -> dict[str, object]:
    """What the only call says of its viewers."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        (call,) = (await client.get("/sessions")).json()["calls"]
        assert "watch" not in call, "the list opens no call to others"
        return call["viewers"]


async def test_a_call_is_watched_until_it_ends(server: LiveServer) -> None:
    threads = server.metric("kdtalker_threads")
    async with Peer(server.url, silence(1)) as peer:
        await peer.pictures(3, within=60)
        async with Viewer(server.url, peer.room) as viewer, Viewer(server.url, peer.room, tidy=False) as staying:
            assert viewer.answer.count("a=sendonly") == 2
            await until(lambda: min(viewer.frames, viewer.sounds, staying.frames) > 10)
            assert viewer.size == 512
            seen = await audience(server)
            assert seen["count"] == 2
            assert [(one["pixels"], one["viewers"]) for one in seen["renditions"]] == [(512, 2)]
            assert (await viewer.http.delete(viewer.location)).status_code == 204
            assert (await viewer.http.delete(viewer.location)).status_code == 404
            assert (await audience(server))["count"] == 1
            frames = staying.frames
            await until(lambda: staying.frames > frames + 10)
            closed = asyncio.Event()
            staying.connection.on("connectionstatechange", closed.set)
            assert (await peer._http.delete(peer.location)).status_code == 204
            await asyncio.wait_for(closed.wait(), 20)
    assert server.metric("kdtalker_viewers") == server.metric("kdtalker_renditions") == 0
    assert server.metric("kdtalker_threads") == threads


async def test_a_viewer_without_vp8_gets_h264_from_an_encoder_more(server: LiveServer) -> None:
    async with Publisher(server.url, "lobby", silence(1)):
        viewers = Viewer(server.url, "lobby"), Viewer(server.url, "lobby", codec="H264")
        async with viewers[0] as usual, viewers[1] as other:
            await until(lambda: min(usual.frames, other.frames) > 10)
            assert "VP8" not in other.answer
            seen = await audience(server)
            assert [(one["codec"], one["viewers"]) for one in seen["renditions"]] == [("h264", 1), ("vp8", 1)]


def test_however_many_formats_and_sizes_are_wanted_there_are_three_renditions() -> None:
    wanted = Counter({Key(codec, pixels): count for codec in ("vp8", "h264") for pixels, count in WANTED.items()})
    stands = shared(wanted)
    assert set(stands) == set(wanted)
    assert len(set(stands.values())) == MOST
    assert all(one.codec == key.codec and one.pixels <= key.pixels for key, one in stands.items())
    assert stands[Key("vp8", 256)] == Key("vp8", 256), "who can carry no more stays where it is"
    few = Counter({Key("vp8", 512): 9, Key("vp8", 384): 1, Key("h264", 512): 1})
    assert shared(few) == {key: key for key in few}


async def test_a_viewer_that_goes_without_a_word_is_let_go(server: LiveServer) -> None:
    async with Publisher(server.url, "lobby", silence(1)):
        async with Viewer(server.url, "lobby", tidy=False) as viewer:
            await until(lambda: viewer.frames > 3)
        await until(lambda: not server.metric("kdtalker_viewers"))
        async with Viewer(server.url, "lobby") as viewer:
            await until(lambda: viewer.frames > 3)


async def test_who_may_not_watch_is_told_why(server: LiveServer) -> None:
    viewer, speaker = Viewer(server.url, "lobby"), Publisher(server.url, "lobby", silence(1))
    offer, spoken = await viewer.offer(), await speaker.offer()
    async with Publisher(server.url, "lobby", silence(1)) as publisher:
        http = publisher.http
        assert_problem(await http.post("/whep/nowhere", content=offer, headers=SDP), 404, "room")
        assert_problem(await http.post("/whep/lobby", content=spoken, headers=SDP), 400, "recvonly")
        assert_problem(await http.post("/whep/lobby", content=offer), 415, "application/sdp")
        assert_problem(await http.post("/whep/lobby", content="v=0\r\ns=-\r\nt=0 0\r\n", headers=SDP), 400, "one")
        assert_problem(await http.get("/whep/lobby"), 405, "POST")
        assert_problem(await http.delete("/whep/lobby/nobody"), 404, "viewer")
        fragment = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
        assert_problem(await http.patch("/whep/lobby/nobody", content="", headers=fragment), 404, "viewer")
        # sound alone will do
        only = offer[: offer.index("m=video")].replace("BUNDLE 0 1", "BUNDLE 0")
        answer = await http.post("/whep/lobby", content=only, headers=SDP)
        assert answer.status_code == 201
        assert "m=video" not in answer.text
        assert (await http.delete(answer.headers["location"])).status_code == 204
    for guest in (viewer, speaker):
        await guest.close()
    assert server.metric("kdtalker_viewers") == 0


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[LiveServer]:
    """A server with so many seats and no more, and with patience: thirty peers share a test's event loop."""
    settings = {"video_bitrate": 200_000, "min_video_bitrate": 100_000, "lost_after": 30, "grace": 30}
    live = start_server(tmp_path, max_viewers=MANY + 2, retry_after=3, **settings)
    yield live
    stop_server(live)


async def test_many_viewers_cost_one_encoder_and_disturb_nobody(hall: LiveServer) -> None:
    server = hall
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(Publisher(server.url, "lobby", silence(1)))
        first = await stack.enter_async_context(Viewer(server.url, "lobby", calm=True))
        await until(lambda: first.frames > 10)
        threads, renditions = server.metric("kdtalker_threads"), server.metric("kdtalker_renditions")
        assert renditions == 1
        others = [Viewer(server.url, "lobby", calm=True, deaf=True) for _ in range(MANY - 1)]
        healthy = [first, *others]
        for viewer in others:
            await stack.enter_async_context(viewer)
        await until(lambda: min(viewer.frames for viewer in healthy) > 3, 120)
        assert server.metric("kdtalker_viewers") == MANY
        assert server.metric("kdtalker_renditions") == renditions
        assert server.metric("kdtalker_threads") == threads
        assert (await audience(server))["renditions"][0]["viewers"] == MANY

        lossy = await stack.enter_async_context(Viewer(server.url, "lobby"))
        await until(lambda: lossy.frames > 3)
        chance = random.Random(6)
        lossy.lose(lambda: chance.random() < 0.2)
        async with asyncio.timeout(100):  # it may lose a key frame more than once, so the server is asked
            while await sizes_seen(server) == {512}:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        assert {viewer.size for viewer in healthy} == {512}
        assert server.metric("kdtalker_renditions") <= 3
        await same_pictures(healthy)

        # However many ask however often, a rendition has a key frame a second at the most.
        loop = asyncio.get_running_loop()
        began, before = loop.time(), len(first.keyframes)
        for _ in range(10):
            await asyncio.gather(*(viewer.ask_for_a_picture() for viewer in healthy))
            await asyncio.sleep(0.2)
        await until(lambda: len(first.keyframes) > before)
        assert len(first.keyframes) - before <= loop.time() - began + 2
        assert {viewer.size for viewer in healthy} == {512}

        async with Viewer(server.url, "lobby"):
            with pytest.raises(RefusedError) as refused:
                async with Viewer(server.url, "lobby"):
                    pass
        assert_problem(refused.value.answer, 503, "seats")
        assert refused.value.answer.headers["retry-after"] == "3"
        assert publisher.connection.connectionState == "connected"
    assert server.metric("kdtalker_viewers") == server.metric("kdtalker_renditions") == 0


async def sizes_seen(server: LiveServer) -> set[int]:
    """Pixels of the pictures that anybody gets."""
    return {one["pixels"] for one in (await audience(server))["renditions"] if one["viewers"]}


async def same_pictures(viewers: list[Viewer], within: float = 60) -> None:
    """Return once all of them got the same number of pictures in two seconds, but for those on the way."""
    async with asyncio.timeout(within):
        while True:
            before = [viewer.frames for viewer in viewers]
            await asyncio.sleep(2)
            counts = [viewer.frames - count for viewer, count in zip(viewers, before, strict=True)]
            if min(counts) > 3 and max(counts) - min(counts) <= 2:
                return
