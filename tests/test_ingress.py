"""The front of a cluster, before two servers: where new calls go, and that later words find them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.peer import RATE, Peer, RefusedError
from benchmarks.rooms import Publisher, Viewer
from server.exposition import merged
from server.ingress import owner_of
from server.placement import Phase
from tests.conftest import PORTRAIT, free_port
from tests.front import Front, fronted

SOUND = np.zeros(RATE, np.int16)


async def ask(url: str, method: str = "GET", **given: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.request(method, url, **given)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with fronted(tmp_path_factory, "aaaa0001", "bbbb0002") as front:
        yield front


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/sessions/a-1", "a-1"),
        ("/sessions/a-1/audio", "a-1"),
        ("/recordings/a-1", "a-1"),
        ("/whip/studio/a-1", "a-1"),
        ("/whep/studio/a-1", "a-1"),
        ("/whip/studio", None),
        ("/sessions", None),
        ("/avatars/a-1/picture", None),
        ("/", None),
    ],
)
def test_what_a_request_is_about_is_in_its_path(path: str, name: str | None) -> None:
    assert owner_of(path) == name


async def test_calls_go_where_most_places_are_and_stay_there(front: Front) -> None:
    await front.open("aaaa0001", 1)
    await front.open("bbbb0002", 2)
    async with AsyncExitStack() as calls:
        one = await calls.enter_async_context(Peer(front.url, SOUND))
        await front.open("bbbb0002", 1, calls=1)  # as a worker tells of its call
        two = await calls.enter_async_context(Peer(front.url, SOUND))
        await asyncio.gather(one.pictures(10, 30), two.pictures(10, 30))
        owners = [peer.location.removeprefix("/sessions/").partition("-")[0] for peer in (one, two)]
        assert owners == ["bbbb0002", "aaaa0001"]
        for peer, owner in zip((one, two), owners, strict=True):
            name = peer.location.removeprefix("/sessions/")
            direct = (await ask(f"{front.servers[owner].url}/sessions/{name}/stats")).json()
            assert (await peer.stats())["id"] == direct["id"] == name
            assert peer.room.startswith(f"{owner}-")
        labels = {call["label"] for call in (await ask(f"{front.url}/sessions")).json()["calls"]}
        assert len(labels) == 2
        page = (await ask(f"{front.url}/metrics")).text
        assert 'kdtalker_sessions{worker="aaaa0001"} 1.0' in page
        assert page.count("# TYPE kdtalker_sessions gauge") == 1
    for server in front.servers.values():
        assert server.metric("kdtalker_sessions") == 0


async def test_the_channel_a_new_connection_and_a_recording_find_their_call(front: Front) -> None:
    await front.open("aaaa0001", 0)
    await front.open("bbbb0002", 2)
    async with Peer(front.url, SOUND, tidy=False) as first:
        await first.pictures(5, 30)
        async with connect(f"{front.url.replace('http', 'ws')}{first.location}/audio") as channel:
            assert '"live"' in str(await channel.recv())
            await channel.send('{"type": "pose", "mouth_scale": 0.75}')
            deadline = time.monotonic() + 10
            while (await first.stats())["controls"]["mouth_scale"] != 0.75:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        await first.record()
        async with Peer(front.url, SOUND, lost=first) as second:
            await second.pictures(5, 30)
            headers = {"Session-Token": first.token}
            stopped = await ask(method="DELETE", url=f"{front.url}{first.location}/recording", headers=headers)
            assert stopped.status_code == 200
    assert (await ask(f"{front.url}{first.location}/stats")).json()["reason"] == "ended"


async def test_publishers_and_viewers_come_to_the_worker_that_has_their_room(front: Front) -> None:
    await front.open("bbbb0002", 0)
    await front.open("aaaa0001", 2)
    async with Publisher(front.url, "studio", SOUND) as publisher:
        assert publisher.location.startswith("/whip/studio/aaaa0001-")
        await front.open("bbbb0002", 2)
        await front.open("aaaa0001", 1)
        with pytest.raises(RefusedError) as refused:  # nobody has told the directory of the room yet
            async with Publisher(front.url, "studio", SOUND):
                pass
        assert refused.value.answer.status_code == 409
        await front.say("aaaa0001", rooms=("studio",))
        async with Peer(front.url, SOUND) as newcomer, Viewer(front.url, "studio") as viewer:
            assert newcomer.location.startswith("/sessions/bbbb0002-")
            assert viewer.location.startswith("/whep/studio/aaaa0001-")
            async with Viewer(front.url, newcomer.room) as other:
                assert other.location.startswith(f"/whep/{newcomer.room}/bbbb0002-"), "its name tells whose it is"
            trickled = await viewer.trickle("", viewer.tag)
            assert trickled.status_code == 400, "the worker reads the fragment"
            deadline = time.monotonic() + 30
            while not viewer.frames:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    await front.say("aaaa0001", rooms=())
    assert (await ask(f"{front.url}{publisher.location}", "DELETE")).status_code == 404


async def test_a_full_worker_is_passed_over_and_a_full_cluster_says_so(front: Front) -> None:
    await front.open("aaaa0001", 9)  # more than it has
    await front.open("bbbb0002", 0)
    async with Peer(front.url), Peer(front.url):
        await front.open("bbbb0002", 1)
        async with Peer(front.url) as third:
            assert third.location.startswith("/sessions/bbbb0002-")
            await front.open("bbbb0002", 0)
            with pytest.raises(RefusedError) as refused:
                async with Peer(front.url):
                    pass
    assert refused.value.answer.status_code == 503
    assert refused.value.answer.json()["reason"] == "full"
    assert "Retry-After" in refused.value.answer.headers


async def test_what_no_worker_has_is_not_found(front: Front) -> None:
    for path in (
        "/sessions/cccc0003-x/stats",
        "/sessions/x/stats",
        "/recordings/cccc0003-x",
        "/sessions/aaaa0001-x/stats",
    ):
        answer = await ask(f"{front.url}{path}")
        assert answer.status_code == 404
        assert "reason" not in answer.json(), "it was never there, or its worker died: a page calls anew"
    answer = await ask(
        method="POST", url=f"{front.url}/whep/nowhere", content="v=0", headers={"Content-Type": "application/sdp"}
    )
    assert answer.status_code == 404


async def test_a_channel_of_no_call_is_refused(front: Front) -> None:
    for name in ("aaaa0001-x", "cccc0003-x"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{front.url.replace('http', 'ws')}/sessions/{name}/audio")
        assert refused.value.response.status_code == 404


async def test_a_worker_that_is_gone_is_passed_over(front: Front) -> None:
    await front.say("aaaa0001", url=f"http://127.0.0.1:{free_port()}", phase=Phase.OPEN, places=9)
    await front.open("bbbb0002", 1)
    assert (await ask(f"{front.url}/avatars")).json()["default"]
    assert (await ask(f"{front.url}/sessions/aaaa0001-x/stats")).status_code == 404
    async with Peer(front.url) as peer:
        assert peer.location.startswith("/sessions/bbbb0002-")
    await front.open("aaaa0001", 2)


async def test_a_worker_that_is_silent_is_given_up_once_it_is_known_to_be_dead(front: Front) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        await front.say("aaaa0001", url="http://{}:{}".format(*silent.getsockname()), phase=Phase.OPEN, places=9)
        await front.open("bbbb0002", 1)
        asking = [asyncio.create_task(ask(f"{front.url}/{path}")) for path in ("sessions/aaaa0001-x/stats", "voices")]
        done, _ = await asyncio.wait(asking, timeout=1)
        assert not done
        await front.say("aaaa0001", phase=Phase.STARTING)
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [404, 200]
    await front.open("aaaa0001", 2)


async def test_the_page_photos_and_probes_come_from_any_worker(front: Front) -> None:
    await front.open("aaaa0001", 2)
    await front.open("bbbb0002", 1)
    assert "<title>" in (await ask(front.url)).text
    assert (await ask(f"{front.url}/readyz")).text == "ready\n"
    picture = (await ask(f"{front.url}/avatars/iris/picture")).content
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (512, 512, 3)
    sent = await ask(method="POST", url=f"{front.url}/avatars", files={"photo": PORTRAIT.read_bytes()})
    assert sent.status_code == 201
    foreign = await ask(method="POST", url=f"{front.url}/avatars", headers={"Origin": "https://elsewhere.example"})
    assert foreign.status_code == 403, "the worker sees the page's own host and origin"


def test_figures_of_several_servers_are_one_page() -> None:
    page = '# HELP calls_total Calls, "all" of them\n# TYPE calls_total counter\ncalls_total{kind="a\\"b"} 2.0\n'
    assert merged({"one": page, "two": page}).splitlines() == [
        '# HELP calls_total Calls, "all" of them',
        "# TYPE calls_total counter",
        'calls_total{worker="one",kind="a\\"b"} 2.0',
        'calls_total{worker="two",kind="a\\"b"} 2.0',
    ]
