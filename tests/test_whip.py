"""Speech that comes in by WHIP (RFC 9725), from peers of ours and from FFmpeg."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, RefusedError
from benchmarks.rooms import Publisher, Viewer
from server import tls
from tests.conftest import LiveServer
from tests.test_server import assert_problem
from tests.test_viewers import until

pytestmark = pytest.mark.timeout(120)

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


async def heard(server: LiveServer, packets: int, within: float = 30) -> dict[str, object]:
    """The only call's figures, once so many packets of its microphone have come."""
    async with asyncio.timeout(within), httpx.AsyncClient(base_url=server.url) as client:
        while True:
            calls = (await client.get("/sessions")).json()["calls"]
            if calls and calls[0]["state"] == "live" and calls[0]["microphone"]["frames"] >= packets:
                return calls[0]
            await asyncio.sleep(0.1)


async def test_a_publishers_microphone_is_heard_and_its_call_ends_by_delete(server: LiveServer) -> None:
    async with Publisher(server.url, "lobby", silence(1)) as publisher:
        sound = publisher.answer[publisher.answer.index("m=audio") :]
        assert "a=recvonly" in sound
        assert publisher.location.startswith("/whip/lobby/")
        assert publisher.tag.strip('"')
        call = await heard(server, 20)
        assert call["frames"] == 0, "nobody looks, nothing is rendered"
        answer = await publisher.http.delete(publisher.location)
        assert answer.status_code == 204
        assert (await publisher.http.delete(publisher.location)).status_code == 404
    assert server.metric("kdtalker_sessions") == 0


async def test_candidates_may_come_later(server: LiveServer) -> None:
    publisher = Publisher(server.url, "lobby", silence(1))
    offer = (await publisher.offer()).splitlines(keepends=True)
    late = [line for line in offer if line.startswith(("a=candidate", "a=end-of-candidates"))]
    assert late
    await publisher.post("".join(line for line in offer if line not in late))
    credentials = "".join(line for line in offer if line.startswith(("a=ice-ufrag", "a=ice-pwd")))
    fragment = f"{credentials}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n{''.join(late)}"
    try:
        assert_problem(await publisher.trickle(fragment, '"another"'), 412, "ETag")
        without = await publisher.http.patch(publisher.location, content=fragment, headers=FRAGMENT)
        assert_problem(without, 428, "If-Match")
        wrong = await publisher.http.patch(publisher.location, content=fragment, headers={"If-Match": publisher.tag})
        assert_problem(wrong, 415, "trickle-ice-sdpfrag")
        restart = fragment.replace("a=ice-ufrag:", "a=ice-ufrag:new")
        assert_problem(await publisher.trickle(restart, "*"), 422, "restart")
        for nonsense in ("", "no sdp", credentials + "a=candidate:x udp y\r\n", credentials + late[0] * 100):
            assert_problem(await publisher.trickle(nonsense), 400, "The fragment")
        assert (await publisher.trickle(fragment)).status_code == 204
        await heard(server, 5)
    finally:
        await publisher.http.delete(publisher.location)
        await publisher.close()


async def test_a_room_has_one_publisher(server: LiveServer) -> None:
    async with Publisher(server.url, "lobby", silence(1)):
        with pytest.raises(RefusedError) as refused:
            async with Publisher(server.url, "lobby", silence(1)):
                pass
        assert_problem(refused.value.answer, 409, "lobby")
    async with Publisher(server.url, "lobby", silence(1)):
        pass


async def test_a_lost_publisher_comes_back_to_its_room_and_its_viewers(server: LiveServer) -> None:
    gone = Publisher(server.url, "lobby", silence(1), tidy=False)
    async with gone, Viewer(server.url, "lobby") as viewer:
        await until(lambda: viewer.frames > 3)
        await gone.close()
        async with asyncio.timeout(20):
            while (await gone_or_back(server)) != "reconnecting":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        with pytest.raises(RefusedError) as refused:
            async with Publisher(server.url, "lobby", silence(1), query="?avatar=astronaut"):
                pass
        assert_problem(refused.value.answer, 409, "lobby")
        async with Publisher(server.url, "lobby", silence(1)) as back:
            assert back.location == gone.location
            frames = viewer.frames
            await until(lambda: viewer.frames > frames + 10)
            async with asyncio.timeout(20):
                while (await gone_or_back(server)) != "live":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


async def gone_or_back(server: LiveServer) -> str:
    """The state of the only call."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        (call,) = (await client.get("/sessions")).json()["calls"]
    return str(call["state"])


async def test_only_who_speaks_may_publish(server: LiveServer) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        publisher = Publisher(server.url, "lobby", silence(1))
        offer = await publisher.offer()
        listener = offer.replace("a=sendonly", "a=recvonly")
        assert_problem(await client.post("/whip/lobby", content=listener, headers=SDP), 400, "sendonly")
        pictures = offer.replace("m=audio", "m=video")
        assert_problem(await client.post("/whip/lobby", content=pictures, headers=SDP), 400, "audio")
        await publisher.close()
    assert server.metric("kdtalker_sessions") == 0


def test_what_the_protocol_asks_of_the_addresses(http: httpx.Client) -> None:
    asked = http.options("/whip/lobby")
    assert asked.status_code == 204
    assert asked.headers["accept-post"] == "application/sdp"
    assert http.options("/whip/lobby/x").headers["accept-patch"] == "application/trickle-ice-sdpfrag"
    for method in ("GET", "PUT"):
        refused = http.request(method, "/whip/lobby")
        assert_problem(refused, 405, "POST")
        assert refused.headers["allow"] == "OPTIONS, POST"
        assert_problem(http.request(method, "/whip/lobby/x"), 405, "PATCH")
    assert http.head("/whip/lobby").status_code == 405
    assert_problem(http.post("/whip/lobby/x", content=b"v=0", headers=SDP), 405, "PATCH")
    assert_problem(http.post("/whip/lobby", content=b"{}"), 415, "application/sdp")
    assert_problem(http.post("/whip/lobby", content=b"v=0", headers=SDP | {"Accept": "text/html"}), 406, "sdp")
    assert_problem(http.post("/whip/lobby", content=b"v=0", headers=SDP), 400, "The offer")
    assert_problem(http.post("/whip/lobby?avatar=nobody", content=b"v=0", headers=SDP), 404, "nobody")
    assert_problem(http.post("/whip/a.b", content=b"v=0", headers=SDP), 422, "room")
    assert_problem(http.patch("/whip/lobby/x", content=b"", headers=FRAGMENT), 404, "no such")
    assert_problem(http.delete("/whip/lobby/x"), 404, "no such")


@pytest.mark.parametrize("pictures", [False, True])
async def test_ffmpeg_can_publish(server: LiveServer, pictures: bool, tmp_path: Path) -> None:
    if "whip" not in av.formats_available:
        pytest.skip("PyAV's FFmpeg here has no WHIP muxer")
    call = asyncio.create_task(heard(server, 50))
    own = tls.self_made(tmp_path, ("ffmpeg",))
    # Built with GnuTLS it makes itself a certificate on P-224, which OpenSSL at this end does not speak.
    options = {"cert_file": str(own.chain), "key_file": str(own.key)}
    await asyncio.to_thread(publish_by_ffmpeg, f"{server.url}/whip/ffmpeg", options, pictures, call.done)
    assert (await call)["microphone"]["lost"] == 0
    assert server.metric("kdtalker_sessions") == 0, "FFmpeg sends DELETE when it is done"


def publish_by_ffmpeg(url: str, options: dict[str, str], pictures: bool, enough: Callable[[], bool]) -> None:
    """A tone, and grey pictures beside it where FFmpeg is to have `pictures`, until there is `enough`."""
    with av.open(url, "w", format="whip", options=options) as container:
        sound = container.add_stream("libopus", rate=RATE, layout="stereo")
        sound.bit_rate = 64_000
        picture = container.add_stream("libx264", rate=25) if pictures else None
        if picture is not None:
            picture.width = picture.height = 128
            picture.pix_fmt = "yuv420p"
            picture.options = {"profile": "baseline", "tune": "zerolatency", "preset": "ultrafast"}
        for number in range(1500):
            samples = np.zeros((1, 2 * 960), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 960 * number, Fraction(1, RATE)
            container.mux(sound.encode(frame))
            if picture is not None and number % 2 == 0:
                grey = av.VideoFrame.from_ndarray(np.full((128, 128, 3), number % 255, np.uint8), format="rgb24")
                grey.pts, grey.time_base = number // 2, Fraction(1, 25)
                container.mux(picture.encode(grey))
            if enough():
                return
            time.sleep(0.02)
