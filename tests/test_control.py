"""The control channel of a running server's calls: what it changes, what it refuses, and when it ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.peer import Peer
from engines.controls import BACKGROUNDS, DEFAULT, EMOTIONS, GAZES, VIEWS
from engines.portrait.landmarks import FaceLandmarker
from tests.conftest import REPOSITORY, LiveServer, free_port, start_server, stop_server

pytestmark = pytest.mark.timeout(180)

CORNERS, EYES, NOSE = (61, 291), (33, 263), 4  # of the face mesh


class Channel:
    """One end of a control channel that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def receive(self) -> dict[str, Any]:
        """The next event that is not about whose turn it is."""
        while (event := await self.next())["type"] == "turn":
            pass
        return event

    async def next(self, within: float = 10) -> dict[str, Any]:
        async with asyncio.timeout(within):
            event: dict[str, Any] = json.loads(await self.socket.recv())
        return event

    async def ask(self, message: object) -> dict[str, Any]:
        """The event that answers `message`, which is sent as it is when it is text or bytes."""
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        return await self.receive()


@asynccontextmanager
async def channel(peer: Peer, query: str = "") -> AsyncIterator[tuple[Channel, dict[str, Any]]]:
    """A channel to a call and the event it began with."""
    async with connect(f"{peer.url.replace('http', 'ws', 1)}{peer.location}/audio{query}") as socket:
        opened = Channel(socket)
        yield opened, await opened.receive()


def shapes(pictures: list[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Width of the mouth and place of the nose's tip (N, 2), in distances of the eyes, of about 15 pictures."""
    widths, noses = [], []
    with FaceLandmarker() as landmarker:
        for _, picture in pictures[:: 1 + len(pictures) // 15]:
            mesh = landmarker.mesh(picture)
            assert mesh is not None, "every picture shows a face"
            unit = np.linalg.norm(mesh[EYES[0]] - mesh[EYES[1]])
            widths.append(np.linalg.norm(mesh[CORNERS[0]] - mesh[CORNERS[1]]) / unit)
            noses.append(mesh[NOSE, :2] / unit)
    return np.array(widths), np.array(noses)


async def seen(peer: Peer, pictures: int) -> list[tuple[float, np.ndarray]]:
    """The next pictures that come."""
    known = len(peer.received.pictures)
    await peer.pictures(pictures, within=60)
    return peer.received.pictures[known:]


async def test_a_channel_says_what_there_is_and_answers_with_what_holds(server: LiveServer) -> None:
    async with Peer(server.url) as peer, channel(peer) as (control, event):
        assert event["type"] == "state"
        assert event["state"] in ("connecting", "live")
        assert event["controls"] == DEFAULT.as_dict()
        assert event["emotions"] == list(EMOTIONS)
        assert event["gazes"] == list(GAZES)
        assert event["views"] == list(VIEWS)
        assert event["backgrounds"] == list(BACKGROUNDS)
        changed = await control.ask({"type": "pose", "pose_scale": 0.5, "emotion": "sad"})
        assert changed == {"type": "pose", **DEFAULT.changed(pose_scale=0.5, emotion="sad").as_dict()}
        assert (await peer.stats())["controls"]["emotion"] == "sad"
        assert (await control.ask({"type": "pose", "emotion": "neutral"}))["pose_scale"] == 0.5


async def test_a_control_changes_what_is_seen(server: LiveServer) -> None:
    """Nobody speaks: the head sways widely until it is held still, and the mouth is as wide as the mood says."""
    async with Peer(server.url) as peer, channel(peer) as (control, _):
        await control.ask({"type": "pose", "pose_scale": 2})
        await seen(peer, 50)
        before = await seen(peer, 120)
        await control.ask({"type": "pose", "pose_scale": 0})
        await seen(peer, 50)
        still = await seen(peer, 20)
        await control.ask({"type": "pose", "emotion": "happy", "emotion_strength": 1})
        await seen(peer, 50)
        after = await seen(peer, 60)
        await control.ask({"type": "pose", "emotion": "neutral"})
        await seen(peer, 50)
        again = await seen(peer, 20)
    (_, nose), (width, _), (smiling, held), (sober, _) = map(shapes, (before, still, after, again))
    assert np.median(smiling) > np.median(width) + 0.04
    assert np.median(sober) == pytest.approx(np.median(width), abs=0.02)
    assert held.std(0).max() < 0.6 * nose.std(0).max()  # what remains is the landmarks' own noise


async def test_view_and_background_change_in_the_call(server: LiveServer) -> None:
    async with Peer(server.url, query="?avatar=astronaut") as peer, channel(peer) as (control, _):
        await seen(peer, 5)
        await control.ask({"type": "pose", "background": "#0000ff"})
        await seen(peer, 40)
        _, picture = (await seen(peer, 1))[-1]
        side = len(picture)  # as large as the line and the machine allow
        red, _, blue = picture[side // 50 : side // 12, side // 50 : side // 12].reshape(-1, 3).mean(0)
        assert blue > 200 > 60 > red
        assert picture[side // 2, side // 2, 0] > 90, "the face is before it"
        await control.ask({"type": "pose", "view": "photo", "background": "original"})
        await seen(peer, 40)
        _, picture = (await seen(peer, 1))[-1]
        side = len(picture)
        assert np.ptp(picture[: side // 5, : side // 5].astype(int)) > 60, (
            "the photo has a flag where the crop is plain"
        )
        await control.ask({"type": "pose", "view": "crop", "background": "#0000ff", "mark": True})
        await seen(peer, 40)
        _, picture = (await seen(peer, 1))[-1]
        side = len(picture)
        sign = picture[side // 25 : side // 11, -side // 5 : -side // 14].reshape(-1, 3).min(1)
        assert np.percentile(sign, 99) > 150, "there is white writing in the upper right corner"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "pose", "view": "side"}, "view must be one of crop, photo, not 'side'"),
        ({"type": "pose", "background": "#12345"}, "background must be one of original, blurred, plain, green"),
        ("no json", "no JSON"),
        ("[" * 4000, "no JSON"),
        ("[]", "JSON object"),
        ("{}", "no message of type null"),
        ('{"type": "sing"}', 'no message of type "sing"'),
        ('{"type": {"a": [1, 2]}}', "no message of type"),
        ({"type": "pose", "pose_scale": 3}, "pose_scale must be a number from 0 to 2, not 3"),
        ('{"type": "pose", "pose_scale": NaN}', "not nan"),
        ({"type": "pose", "pose_scale": 1.5, "emotion": "hungry"}, "emotion must be one of neutral, happy"),
        ({"type": "pose", "volume": 1}, "no control 'volume'"),
        ({"type": "pose", "emotion": "x" * 2000}, "..."),
        ("x" * 31_000, "30000 characters"),
        (b"\x00\x01" * 320, "?rate=16000"),
    ],
)
async def test_bad_messages_are_refused_and_the_call_goes_on(server: LiveServer, message: object, words: str) -> None:
    async with Peer(server.url) as peer, channel(peer) as (control, _):
        event = await control.ask(message)
        assert event["type"] == "error"
        assert words in event["detail"]
        assert len(event["detail"]) < 300
        assert (await control.ask({"type": "pose"})) == {"type": "pose", **DEFAULT.as_dict()}
        await peer.pictures(3, within=30)


async def test_a_frame_beyond_reason_closes_the_channel_and_not_the_call(server: LiveServer) -> None:
    async with Peer(server.url) as peer:
        async with channel(peer) as (control, _):
            with pytest.raises(ConnectionClosed) as closed:
                await control.ask("x" * 100_000)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        async with channel(peer) as (control, _):
            assert (await control.ask({"type": "pose"}))["type"] == "pose"
        await peer.pictures(3, within=30)


async def test_a_channel_to_no_call_is_refused(server: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{server.url.replace('http', 'ws', 1)}/sessions/none/audio"):
            pass
    answer = refused.value.response
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"no such session" in (answer.body or b"")


async def test_the_end_of_a_call_is_told_and_closes_its_channels(server: LiveServer) -> None:
    async with Peer(server.url, tidy=False) as peer, channel(peer) as (control, _):
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.delete(peer.location)).status_code == 204
        event = await control.receive()
        assert (event["type"], event["state"], event["reason"]) == ("state", "ended", "deleted")
        with pytest.raises(ConnectionClosed) as closed:
            await control.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_channels_leave_nothing_behind(server: LiveServer) -> None:
    async with Peer(server.url) as peer:
        await peer.pictures(3, within=30)
        async with channel(peer) as (control, _):
            await control.ask({"type": "pose"})
        await asyncio.sleep(0.2)
        watched = ("process_open_fds", "kdtalker_event_loop_tasks")
        before = {name: server.metric(name) for name in watched}
        for _ in range(10):
            async with channel(peer) as (control, _):
                await control.ask("nonsense")
        await asyncio.sleep(0.2)
        left = {name: server.metric(name) for name in watched}
        assert all(left[name] <= before[name] for name in watched), (before, left)


async def test_calls_begin_with_what_the_settings_say(tmp_path: Path) -> None:
    trained = tmp_path / "trained"  # what `kdtalker train --videos` writes
    trained.mkdir()
    for name in ("keypoints.npz", "life.npz", "audio_encoder.onnx", "window.onnx", "brief.onnx"):
        shutil.copy(REPOSITORY / "engines" / "weights" / "embedded" / name, trained)
    own = start_server(tmp_path, weights=trained, pose_scale=0.4, gaze="fixed", emotion="happy")
    try:
        async with Peer(own.url) as peer, channel(peer) as (_, event):
            assert event["controls"] == DEFAULT.changed(pose_scale=0.4, gaze="fixed", emotion="happy").as_dict()
    finally:
        stop_server(own)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("--pose-scale", "7"), "pose_scale must be a number from 0 to 2, not 7"),
        (("--weights", "nowhere"), "nowhere/keypoints.npz cannot be read"),
    ],
)
def test_settings_that_cannot_be_are_named(setting: tuple[str, str], words: str) -> None:
    command = [sys.executable, "-m", "kdtalker", "serve", "--port", str(free_port()), *setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


async def say(control: Channel, sound: np.ndarray, rate: int) -> None:
    """Push i16 (samples,), 20 ms at a time, as fast as it is spoken."""
    loop = asyncio.get_running_loop()
    begun, packet = loop.time(), rate // 50
    for number, at in enumerate(range(0, len(sound), packet)):
        await asyncio.sleep(begun + number / 50 - loop.time())
        await control.socket.send(sound[at : at + packet].astype("<i2").tobytes())


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
async def test_pushed_sound_is_what_the_avatar_says(server: LiveServer, rate: int) -> None:
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate)
    async with Peer(server.url) as peer:
        await peer.pictures(3, within=30)
        async with channel(peer, f"?rate={rate}") as (control, event):
            assert event["type"] == "state"
            await say(control, tone, rate)
            assert (await control.ask({"type": "pose"}))["type"] == "pose", "controls go beside the sound"
    heard = peer.heard().astype(float)
    loud = np.flatnonzero(np.abs(heard) > 2000)
    assert len(loud), "the tone comes back"
    middle = heard[loud[0] : loud[-1]]
    middle = middle[len(middle) // 2 :][:48_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 48_000 / len(middle) == pytest.approx(440, abs=5)
    assert 0.5 < np.abs(middle).max() / 8000 < 1.3


async def test_one_source_feeds_an_avatar(server: LiveServer) -> None:
    async def refused(peer: Peer, query: str) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as info:
            async with channel(peer, query):
                pass
        answer = info.value.response
        return answer.status_code, json.loads(answer.body or b"{}")["detail"]

    async with Peer(server.url) as peer, channel(peer, "?rate=16000") as (control, _):
        status, detail = await refused(peer, "?rate=48000")
        assert (status, "feeds" in detail) == (409, True)
        assert "half a sample" in (await control.ask(b"abc"))["detail"]
        await control.socket.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    async with channel(peer, "?rate=48000"):
                        break
                except InvalidStatus:
                    await asyncio.sleep(0.1)
        status, detail = await refused(peer, "?rate=11025")
        assert (status, "16000, 24000, 44100, 48000" in detail) == (422, True)
    async with Peer(server.url, np.zeros(48_000, np.int16)) as peer:
        await peer.pictures(3, within=30)
        assert (await refused(peer, "?rate=16000"))[0] == 409
        async with channel(peer):
            pass
