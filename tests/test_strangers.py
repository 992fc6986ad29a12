"""What a stranger may send: any request, any SDP, any sound, any message. Nothing breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import av
import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from websockets.asyncio.client import connect

from benchmarks.peer import Peer
from engines.types import SPEECH_SAMPLES
from server.playout import Playout
from server.tracks import mono
from tests.conftest import REPOSITORY, LiveServer

pytestmark = [
    pytest.mark.timeout(280),
    # schemathesis registers what it needs with libraries that are about to rename it
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PORTRAIT = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"
SDP = {"Content-Type": "application/sdp"}
MEANT = {503}  # a full house
unhurried = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


def assert_refused_in_form(answer: httpx.Response) -> None:
    """Success, or a problem in words that is the asker's doing."""
    assert answer.status_code < 500 or answer.status_code in MEANT, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
        assert "Traceback" not in answer.text


# Requests


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def sdp(context: object, value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def document(server: LiveServer) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_whatever_is_asked_is_answered_in_form(
    document: schemathesis.BaseSchema, server: LiveServer, quiet: None
) -> None:
    for operation in [found.ok() for found in document.get_all_operations()]:

        @given(case=operation.as_strategy())
        @settings(unhurried, max_examples=25)
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(base_url=server.url, timeout=60)
            assert answer.status_code < 500 or answer.status_code in MEANT, (case.path, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"], case.path
                assert answer.json()["detail"], case.path

        ask()


# Offers


async def an_offer() -> str:
    peer = Peer("http://127.0.0.1:9")
    try:
        return await peer.offer()
    finally:
        await peer.close()


@pytest.fixture(scope="module")
def offer() -> list[str]:
    return asyncio.run(an_offer()).splitlines(keepends=True)


Change = Callable[[list[str]], list[str]]


def change(kind: int, at: int, to: int, text: str) -> Change:
    """One thing done to an offer: a line left out, doubled, moved, replaced, cut, or with text put into it."""

    def apply(lines: list[str]) -> list[str]:
        if not lines:
            return [text]
        place, target = at % len(lines), to % len(lines)
        line = lines[place]
        match kind:
            case 0:
                return lines[:place] + lines[place + 1 :]
            case 1:
                return [*lines[:place], line, *lines[place:]]
            case 2:
                rest = lines[:place] + lines[place + 1 :]
                return [*rest[:target], line, *rest[target:]]
            case 3:
                return [*lines[:place], text + "\r\n", *lines[place + 1 :]]
            case 4:
                return [*lines[:place], line[: to % (len(line) + 1)], *lines[place + 1 :]]
            case _:
                middle = to % (len(line) + 1)
                return [*lines[:place], line[:middle] + text + line[middle:], *lines[place + 1 :]]

    return apply


changes = some.lists(
    some.builds(
        change,
        some.integers(0, 5),
        some.integers(0, 200),
        some.integers(0, 200),
        some.one_of(
            some.text(max_size=20),
            some.integers(-(2**70), 2**70).map(str),
            some.sampled_from(["\x00", "a=", "m=audio"]),
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(done=changes)
@settings(unhurried, max_examples=120)
def test_a_changed_offer_is_answered_or_refused(
    server: LiveServer, quiet: None, offer: list[str], done: list[Change]
) -> None:
    lines = list(offer)
    for each in done:
        lines = each(lines)
    content = "".join(lines).encode("utf-8", "surrogatepass")
    answer = httpx.post(f"{server.url}/sessions", content=content, headers=SDP, timeout=60)
    assert_refused_in_form(answer)
    if answer.status_code == 201:
        assert httpx.delete(server.url + answer.headers["location"], timeout=30).status_code == 204


# Sound


@given(data=some.data())
@settings(unhurried, max_examples=100)
def test_whatever_a_microphone_sends_a_tick_is_a_tick(data: some.DataObject) -> None:
    playout, now, pts = Playout(), 10.0, 0
    for tick in range(data.draw(some.integers(1, 8))):
        for _ in range(data.draw(some.integers(0, 4))):
            count = data.draw(some.one_of(some.integers(1, 2_000), some.just(960)))
            layout = data.draw(some.sampled_from(["mono", "stereo"]))
            level = data.draw(some.sampled_from([0, 1, 1000, 32_767]))
            samples = np.full((1, count * (2 if layout == "stereo" else 1)), level, np.int16)
            samples[:, ::2] *= -1
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            frame.sample_rate = 48_000
            playout.put(pts, mono(frame), now)
            pts += data.draw(some.one_of(some.just(count), some.integers(-5_000, 200_000), some.just(2**32)))
            now += data.draw(some.floats(0, 0.1))
        sound = playout.take(now).sound
        assert sound.shape == (3 * SPEECH_SAMPLES,), tick
        assert np.isfinite(sound).all()
        now += 0.04


frames = some.one_of(
    some.binary(max_size=200),
    some.integers(0, 32_768).map(lambda count: b"\xff\x7f\x00\x80" * (count // 2)),
    some.just(bytes(640)),
)


@pytest.mark.parametrize("rate", [16_000, 44_100])
async def test_whatever_sound_is_pushed_the_call_goes_on(server: LiveServer, quiet: None, rate: int) -> None:
    pushed: list[bytes] = []

    @given(frame=frames)
    @settings(unhurried, max_examples=150)
    def collect(frame: bytes) -> None:
        pushed.append(frame)

    collect()
    async with Peer(server.url) as peer:
        await peer.pictures(1, within=60)
        address = server.url.replace("http", "ws") + f"{peer.location}/audio?rate={rate}"
        async with connect(address) as channel:
            assert json.loads(await channel.recv())["type"] == "state"
            for frame in pushed:
                await channel.send(frame)
            await channel.send('{"type": "pose"}')
            refused = 0
            async with asyncio.timeout(60):
                while json.loads(await channel.recv())["type"] == "error":
                    refused += 1
            assert refused == sum(len(frame) % 2 for frame in pushed)
        await peer.pictures(5, within=60)


# Messages

values = some.recursive(
    some.one_of(some.none(), some.booleans(), some.integers(), some.floats(), some.text(max_size=10)),
    lambda inner: some.one_of(
        some.lists(inner, max_size=3), some.dictionaries(some.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
names = some.one_of(
    some.sampled_from(["pose_scale", "mouth_scale", "emotion", "gaze", "self", "changes", "type"]),
    some.text(max_size=5),
)
messages = some.one_of(
    values.map(json.dumps),
    some.text(max_size=30),
    some.binary(max_size=30),
    some.dictionaries(names, values, max_size=3).map(lambda given: json.dumps({"type": "pose"} | given)),
    some.sampled_from(
        [
            "[" * 4000,
            '{"type":"pose","pose_scale":1e999}',
            "9" * 4000,
            '{"type":"pose","\\ud800":1}',
            '{"type":"\\ud800"}',
        ]
    ),
)


async def test_whatever_is_said_on_a_control_channel_is_answered(server: LiveServer, quiet: None) -> None:
    said: list[str | bytes] = []

    @given(message=messages)
    @settings(unhurried, max_examples=300)
    def collect(message: str | bytes) -> None:
        said.append(message)

    collect()
    async with Peer(server.url) as peer:
        await peer.pictures(1, within=60)
        async with connect(server.url.replace("http", "ws") + peer.location + "/audio") as channel:
            assert json.loads(await channel.recv())["type"] == "state"
            for message in said:
                await channel.send(message)
                async with asyncio.timeout(30):
                    answer = json.loads(await channel.recv())
                assert answer["type"] in ("pose", "error"), message
        await peer.pictures(1, within=60)  # the call went on
