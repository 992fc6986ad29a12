"""The HTTP interface of a running server: what it offers, what it refuses and in which words."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, Peer, RefusedError
from tests.conftest import LiveServer, free_port, start_server, stop_server

pytestmark = pytest.mark.timeout(120)

PORTRAIT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"
LEFT = ("process_open_fds", "kdtalker_event_loop_tasks", "kdtalker_threads")
SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert words in problem["detail"], problem
    assert "Traceback" not in answer.text


def test_it_lives_and_is_ready(http: httpx.Client) -> None:
    assert http.get("/healthz").text == "alive\n"
    assert http.get("/readyz").text == "ready\n"


def test_the_avatars_that_ship_have_names_and_faces(http: httpx.Client) -> None:
    listed = http.get("/avatars").json()
    assert listed["default"] in [avatar["id"] for avatar in listed["avatars"]]
    for avatar in listed["avatars"]:
        assert avatar["title"]
        picture = http.get(avatar["picture"])
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content[:2] == b"\xff\xd8"


def test_no_foreign_ice_server_is_named(http: httpx.Client) -> None:
    assert http.get("/ice-servers").json() == {"iceServers": []}


def test_metrics_are_in_prometheus_form(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    for name in ("kdtalker_sessions ", "kdtalker_capacity 2.0", "process_open_fds", "kdtalker_event_loop_tasks"):
        assert name in text


def test_every_answer_carries_the_security_headers(http: httpx.Client) -> None:
    for path in ("/", "/avatars", "/nowhere"):
        headers = http.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "words"),
    [
        ("/sessions", SDP, b"", 400, "The offer"),
        ("/sessions", SDP, b"no sdp at all", 400, "The offer"),
        ("/sessions", SDP, b"\xff\xfe\x00v=0", 400, "The offer"),
        ("/sessions", SDP, b"v=0\r\ns=-\r\nt=0 0\r\n", 400, "one audio and one video"),
        ("/sessions", SDP, b"x" * 70_000, 413, "too large"),
        ("/sessions", {"Content-Type": "application/json"}, b"{}", 415, "application/sdp"),
        ("/sessions?avatar=nobody", SDP, b"v=0", 404, "nobody"),
        ("/sessions?mode=sing", SDP, b"v=0", 422, "mirror"),
        ("/sessions?mode=agent", SDP, b"v=0", 422, "language model"),
        ("/avatars", {"Content-Type": "image/jpeg"}, b"x", 415, "multipart/form-data"),
        ("/avatars", {"Content-Type": "multipart/form-data"}, b"x", 400, ""),
    ],
)
def test_bad_requests_are_refused_in_words(
    http: httpx.Client, path: str, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    assert_problem(http.post(path, content=body, headers=headers), status, words)


@pytest.mark.parametrize("path", ["/sessions/none/stats", "/avatars/none/picture", "/nowhere"])
def test_what_is_not_there_is_404(http: httpx.Client, path: str) -> None:
    assert_problem(http.get(path), 404, "")


def test_ending_what_is_not_there_is_404(http: httpx.Client) -> None:
    assert_problem(http.delete("/sessions/none"), 404, "no such session")


def test_a_wrong_method_is_405(http: httpx.Client) -> None:
    assert_problem(http.put("/sessions"), 405, "")


def test_a_photo_becomes_an_avatar_nobody_else_sees(http: httpx.Client) -> None:
    answer = http.post("/avatars", files={"photo": ("me.jpg", PORTRAIT.read_bytes(), "image/jpeg")})
    assert answer.status_code == 201, answer.text
    avatar = answer.json()
    assert answer.headers["location"] == f"/avatars/{avatar['id']}"
    assert avatar["report"]
    assert http.get(avatar["picture"]).status_code == 200
    assert avatar["id"] not in [listed["id"] for listed in http.get("/avatars").json()["avatars"]]


@pytest.mark.parametrize("photo", [b"no picture", b"", PORTRAIT.read_bytes()[:2000]])
def test_what_is_no_photo_is_refused_with_a_reason(http: httpx.Client, photo: bytes) -> None:
    answer = http.post("/avatars", files={"photo": ("me.jpg", photo, "image/jpeg")})
    assert_problem(answer, 422, "")
    assert answer.json()["reason"] == "unreadable"


def test_a_form_without_a_file_is_refused(http: httpx.Client) -> None:
    answer = http.post("/avatars", files={"photo": (None, "text")})
    assert_problem(answer, 422, "no file")


def test_a_photo_may_not_be_too_large(http: httpx.Client) -> None:
    answer = http.post("/avatars", files={"photo": ("me.jpg", bytes(21 * 1024 * 1024), "image/jpeg")})
    assert_problem(answer, 413, "too large")


async def test_a_full_house_says_when_to_come_back(server: LiveServer) -> None:
    async with Peer(server.url), Peer(server.url):
        with pytest.raises(RefusedError) as refused:
            async with Peer(server.url):
                pass
        assert_problem(refused.value.answer, 503, "taken")
        assert refused.value.answer.headers["retry-after"] == "3"
        async with httpx.AsyncClient() as client:
            assert_problem(await client.get(f"{server.url}/readyz"), 503, "taken")
    async with Peer(server.url):
        pass


async def test_an_offer_without_pictures_is_refused_and_takes_no_place(server: LiveServer) -> None:
    peer = Peer(server.url)
    offer = await peer.offer()
    sound_only = offer[: offer.index("m=video")].replace("BUNDLE 0 1", "BUNDLE 0")
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.post("/sessions", content=sound_only, headers=SDP)
        assert_problem(answer, 400, "one audio and one video")
        unknown = offer.replace("VP8", "VP7").replace("H264", "H265")
        assert_problem(await client.post("/sessions", content=unknown, headers=SDP), 400, "VP8")
    await peer.close()
    assert server.metric("kdtalker_sessions") == 0


async def test_damaged_offers_are_answered_or_refused_and_leave_nothing(server: LiveServer) -> None:
    peer = Peer(server.url)
    good = (await peer.offer()).splitlines(keepends=True)
    await peer.close()
    chance = random.Random(6)
    before = {name: server.metric(name) for name in ("process_open_fds", "kdtalker_threads")}
    answers = Counter[int]()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for _ in range(100):
            lines = list(good)
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(lines))
                lines[place] = damaged(lines, place, chance)
            answer = await client.post("/sessions", content="".join(lines).encode(), headers=SDP)
            answers[answer.status_code] += 1
            if answer.status_code == 201:
                assert (await client.delete(answer.headers["location"])).status_code == 204
    assert set(answers) == {201, 400}
    assert server.metric("kdtalker_sessions") == 0
    assert {name: server.metric(name) for name in before} == before


def damaged(lines: list[str], place: int, chance: random.Random) -> str:
    """A line left out, another one in its place, or the line with other characters in it."""
    match chance.randrange(3):
        case 0:
            return ""
        case 1:
            return chance.choice(lines)
    line = lines[place]
    at = chance.randrange(len(line) + 1)
    return line[:at] + chance.choice(["", "9" * 12, "-1", "é", " ", ":", "/"]) + line[at + chance.randint(0, 5) :]


def test_unusable_settings_are_named() -> None:
    command = [sys.executable, "-m", "kdtalker", "serve", "--port", str(free_port()), "--max-sessions", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "max_sessions" in done.stderr
    assert "Traceback" not in done.stderr


async def test_stopping_the_server_ends_its_calls(tmp_path: Path) -> None:
    own = start_server(tmp_path)
    peer = Peer(own.url, tidy=False)
    async with peer:
        await peer.pictures(1, within=30)
        closed = asyncio.Event()
        peer.connection.on("connectionstatechange", closed.set)
        await asyncio.to_thread(stop_server, own)
        await asyncio.wait_for(closed.wait(), 10)
    log = own.log.read_text()
    assert "server stopped" in log
    assert "Traceback" not in log


async def test_calls_that_come_to_nothing_end_by_themselves(tmp_path: Path) -> None:
    own = start_server(tmp_path, connect_timeout=1, idle_after=3, session_limit=8)
    ended = 'kdtalker_sessions_ended_total{reason="%s"}'
    tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(60 * RATE) / RATE)).astype(np.int16)
    silent, absent, talking = Peer(own.url), Peer(own.url), Peer(own.url, tone)
    left = {name: own.metric(name) for name in LEFT}
    try:
        async with httpx.AsyncClient(base_url=own.url, timeout=30) as client:
            answer = await client.post("/sessions", content=await absent.offer(), headers=SDP)
            assert answer.status_code == 201
            async with asyncio.timeout(20):
                while not own.metric(ended % "never connected"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        async with silent:
            await silent.pictures(1, within=30)
            async with asyncio.timeout(20):
                while not own.metric(ended % "nobody spoke"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        async with talking:
            await talking.pictures(1, within=30)
            async with asyncio.timeout(30):
                while not await asyncio.to_thread(own.metric, ended % "time is up"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        assert own.metric("kdtalker_sessions") == 0
        await absent.close()
        await asyncio.sleep(0.5)
        assert {name: own.metric(name) for name in LEFT} == left
    finally:
        await absent.close()
        stop_server(own)
