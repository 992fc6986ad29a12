"""Recordings: the file by itself, on disks that fill up, and of calls on a running server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from benchmarks.peer import Peer
from engines.types import FPS, FRAME_SIZE, PLAYBACK_RATE, PLAYBACK_SAMPLES
from server.recording import DISK_FULL, STOPPED, TOO_LARGE, TOO_LONG, TOO_SLOW, Bounds, Recording
from server.recordings import NoRoomError, Recordings
from server.settings import Settings
from tests.conftest import LiveServer, start_server, stop_server
from tests.test_control import channel

pytestmark = pytest.mark.timeout(120)

STILL = np.full((FRAME_SIZE, FRAME_SIZE, 3), 90, np.uint8)
WIDE = Bounds(3600, 1 << 30, 0)
DELAY = 5  # ticks that a picture comes after its sound


def read(file: Path | bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (n,) in seconds and mean brightness (n,) of the pictures, and the sound f32 (samples,) from 0 s on."""
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    times, light, sound = [], [], []
    with av.open(source) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
        try:
            for frame in container.decode(video=0, audio=0):
                if isinstance(frame, av.VideoFrame):
                    times.append(float(frame.pts * frame.time_base))
                    light.append(frame.to_ndarray(format="gray8").mean())
                else:
                    if not sound:
                        assert frame.pts == 0, "sound begins with the file"
                    sound.append(frame.to_ndarray()[0])
        except av.error.InvalidDataError:
            pass  # the last packet of a file that was cut off
    return np.array(times), np.array(light), np.concatenate(sound)


def tone(ticks: int = 1) -> np.ndarray:
    turns = np.arange(ticks * PLAYBACK_SAMPLES) * 1000 / PLAYBACK_RATE
    return np.round(9000 * np.sin(2 * np.pi * turns)).astype(np.int16)


async def film(recording: Recording, ticks: range, marks: tuple[int, ...] = (), missing: range = range(0)) -> None:
    """Feed a recording as a call does, as fast as it takes it: at every mark a white picture and a tone."""
    pictures = {tick: np.full_like(STILL, 250 if tick in marks else 40) for tick in ticks if tick not in missing}
    for tick in range(ticks.start, ticks.stop + DELAY):
        if tick in ticks:
            recording.sound(tick, tone() if tick in marks else np.zeros(PLAYBACK_SAMPLES, np.int16))
        if (picture := pictures.get(tick - DELAY)) is not None:
            recording.picture(tick - DELAY, picture)
        while recording.waiting > 4 and not recording.done:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def onsets(sound: np.ndarray) -> np.ndarray:
    """Seconds at which a sound begins."""
    loud = np.flatnonzero(np.abs(sound) > 0.1)
    return loud[np.diff(loud, prepend=-PLAYBACK_RATE) > PLAYBACK_SAMPLES] / PLAYBACK_RATE


async def recorded(path: Path, bounds: Bounds = WIDE) -> tuple[Recording, list[bool]]:
    ended: list[bool] = []
    recording = Recording(path, STILL, bounds, lambda: ended.append(recording.done), "test")
    return recording, ended


async def test_sound_and_picture_of_a_tick_stand_at_one_time(tmp_path: Path) -> None:
    recording, ended = await recorded(tmp_path / "film.mp4")
    marks = (1020, 1060, 1111)
    await film(recording, range(1000, 1150), marks, missing=range(1070, 1090))
    recording.stop(STOPPED)
    await recording.closed()
    assert ended == [True]
    assert recording.stats() | {"bytes": 0} == {
        "state": "ended",
        "seconds": 6.0,
        "bytes": 0,
        "pictures_left_out": 0,
        "reason": "stopped",
    }
    times, light, sound = read(recording.path)
    assert times == pytest.approx(np.arange(150) / FPS, abs=1e-4), "a tick without a picture repeats the one before"
    flashes = times[light > 200]
    assert flashes == pytest.approx([(mark - 1000) / FPS for mark in marks], abs=1e-4)
    assert onsets(sound) == pytest.approx(flashes, abs=0.002)
    assert len(sound) / PLAYBACK_RATE == pytest.approx(6, abs=1024 / PLAYBACK_RATE)
    assert (recording.path.stat().st_mode & 0o777) == 0o600
    with av.open(str(recording.path)) as container:
        assert "AI avatar" in container.metadata["comment"]


async def test_a_film_waits_for_no_picture_and_can_be_read_while_it_grows(tmp_path: Path) -> None:
    recording, _ = await recorded(tmp_path / "film.mp4")
    await film(recording, range(0, 100), marks=(30,))
    await film(recording, range(100, 400), missing=range(100, 400))  # the peer is lost
    async with asyncio.timeout(20):
        while recording.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    cut_off = recording.path.read_bytes()  # what a server that dies leaves behind
    times, light, sound = read(cut_off)
    assert len(times) >= 300
    assert onsets(sound) == pytest.approx(times[light > 200], abs=0.002)
    await film(recording, range(400, 450), marks=(420,))
    recording.stop(STOPPED)
    await recording.closed()
    times, light, sound = read(recording.path)
    assert len(times) == 450
    assert onsets(sound) == pytest.approx(times[light > 200], abs=0.002)


async def test_a_picture_of_another_shape_gets_bars(tmp_path: Path) -> None:
    recording, _ = await recorded(tmp_path / "film.mp4")
    for tick in range(50):
        recording.sound(tick, tone())
        recording.picture(tick, np.full((300, 600, 3), 250, np.uint8))
        await asyncio.sleep(0.005)
    recording.stop(STOPPED)
    await recording.closed()
    _, light, _ = read(recording.path)
    assert light[-1] == pytest.approx(250 / 2, abs=15), "half of a square is bars"


async def test_what_the_machine_cannot_take_is_left_out_and_counted(tmp_path: Path) -> None:
    recording, _ = await recorded(tmp_path / "film.mp4")
    for tick in range(100):  # all at once: the thread has no chance
        recording.sound(tick, tone())
        recording.picture(tick, STILL)
    recording.stop(STOPPED)
    await recording.closed()
    assert recording.left_out > 50
    times, _, _ = read(recording.path)
    assert len(times) >= 100 - FPS

    hopeless, _ = await recorded(tmp_path / "hopeless.mp4")
    for tick in range(100_000):
        hopeless.sound(tick, tone())
        if hopeless.reason is not None:
            break
    await hopeless.closed()
    assert hopeless.reason == TOO_SLOW


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (Bounds(2, 1 << 30, 0), TOO_LONG),
        (Bounds(60, 20_000, 0), TOO_LARGE),
        (Bounds(60, 1 << 30, 1 << 62), DISK_FULL),
    ],
)
async def test_a_recording_has_limits(tmp_path: Path, bounds: Bounds, reason: str) -> None:
    recording, ended = await recorded(tmp_path / "film.mp4", bounds)
    noise = np.random.default_rng(0)
    for tick in range(300):
        recording.sound(tick, noise.integers(-9000, 9000, PLAYBACK_SAMPLES, np.int16))
        recording.picture(tick, STILL)
        await asyncio.sleep(0.002)
    await recording.closed()
    assert (recording.reason, ended) == (reason, [True])
    assert recording.stats()["seconds"] <= bounds.seconds + 1, "ticks without pictures come in as one"
    if reason != DISK_FULL:
        assert len(read(recording.path)[0]) == recording.stats()["seconds"] * FPS


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 1 MB; needs root, and a kernel that lets it mount."""
    folder = tmp_path_factory.mktemp("small_disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def recordings_in(folder: Path) -> list[Path]:
    return list(folder.glob("*.mp4"))


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def noisy(recording: Recording, ticks: int) -> None:
    """What no encoder makes small."""
    chance = np.random.default_rng(1)
    pictures = [chance.integers(0, 255, STILL.shape, np.uint8) for _ in range(4)]
    for tick in range(ticks):
        if recording.done:
            return
        recording.sound(tick, tone())
        recording.picture(tick, pictures[tick % 4])
        while recording.waiting > 4 and not recording.done:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", ["file system", "file size"])
async def test_a_full_disk_ends_the_file_and_spares_what_is_in_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "file system":
        folder = request.getfixturevalue("small_disk")
        recording, ended = await recorded(folder / "film.mp4")
        await noisy(recording, 1000)
        assert shutil.disk_usage(folder).free < 65_536
        await recording.closed()
    else:
        with largest_file(1 << 20):
            recording, ended = await recorded(tmp_path / "film.mp4")
            await noisy(recording, 1000)
            await recording.closed()
    assert (recording.reason, ended) == (DISK_FULL, [True])
    times, _, _ = read(recording.path)
    assert len(times) >= FPS, "what was written before can be played"
    recording.path.unlink()


async def test_recordings_are_their_owners_and_go_in_time(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    old, young = folder / "old.mp4", folder / "young.mp4"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    settings = Settings(record_folder=folder, keep_recordings=0.2, record_total=10_000, record_free=0)
    shelf = Recordings(settings)
    shelf.open()
    assert (old.exists(), young.exists()) == (False, True), "a crashed server's are deleted once their time is over"
    shelved = shelf.begin(STILL, "ann", "call", lambda: None)
    await noisy(shelved.recording, 50)
    shelved.recording.stop(STOPPED)
    await shelved.recording.closed()
    assert shelf.find(shelved.name, "ann") is shelved
    assert shelf.find(shelved.name, "bob") is None
    assert not await shelf.remove(shelved.name, "bob")
    with pytest.raises(NoRoomError, match="as many recordings"):
        shelf.begin(STILL, "bob", "call", lambda: None)
    async with asyncio.timeout(10):
        while shelved.recording.path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert shelf.find(shelved.name, "ann") is None
    running = shelf.begin(STILL, "ann", "call", lambda: None)
    await shelf.close()
    assert (running.recording.done, running.recording.path.exists()) == (True, False)


async def test_a_call_is_recorded_on_request_across_a_new_connection(server: LiveServer) -> None:
    sound = np.tile(np.concatenate([tone(5), np.zeros(20 * PLAYBACK_SAMPLES, np.int16)]), 60)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http, Peer(server.url, sound, tidy=False) as lost:
        address = f"{lost.location}/recording"
        right = {"Session-Token": lost.token}
        for refused in (await http.post(address), await http.delete(address)):
            assert refused.status_code == 403
        assert (await http.delete(address, headers=right)).status_code == 404
        await lost.pictures(3, within=30)
        begun = await http.post(address, headers=right)
        assert begun.status_code == 201, begun.text
        place = begun.headers["location"]
        assert (await http.post(address, headers=right)).status_code == 409
        assert (await http.get(place)).status_code == 409
        async with channel(lost) as (control, _):
            await lost.pictures(50, within=30)
            lost.vanish()
            async with asyncio.timeout(20):
                while (await lost.stats())["state"] != "reconnecting":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            async with Peer(server.url, sound, lost=lost) as peer:
                await peer.pictures(50, within=30)
                stopped = await http.delete(address, headers=right)
                await peer.pictures(3, within=30)
                event = await control.receive()
        assert event == {"type": "recording", **stopped.json()}
        assert (event["state"], event["reason"]) == ("ended", "stopped")
        answer = await http.get(place)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
        assert len(answer.content) == event["bytes"]
        part = await http.get(place, headers={"Range": "bytes=0-99"})
        assert (part.status_code, len(part.content)) == (206, 100)
        times, light, heard = read(answer.content)
        assert len(times) == round(event["seconds"] * FPS) > 150
        assert np.diff(times) == pytest.approx(np.full(len(times) - 1, 1 / FPS), abs=1e-4)
        assert len(heard) / PLAYBACK_RATE == pytest.approx(event["seconds"], abs=0.05)
        assert len(onsets(heard)) >= 2
        assert light.std() > 0, "pictures of the call"
        assert (await http.delete(place)).status_code == 204
        assert (await http.get(place)).status_code == 404


async def test_a_full_disk_ends_the_recording_and_not_the_call(small_disk: Path, tmp_path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(small_disk / "left")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 150_000))
    own = start_server(tmp_path, record_folder=small_disk, record_free=0)
    try:
        async with httpx.AsyncClient(base_url=own.url, timeout=30) as http, Peer(own.url) as peer:
            await peer.pictures(3, within=30)
            async with channel(peer) as (control, _):
                begun = await http.post(f"{peer.location}/recording", headers={"Session-Token": peer.token})
                async with asyncio.timeout(60):
                    while not (await peer.stats())["recording"]["reason"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                event = await control.receive()
            assert (event["type"], event["state"], event["reason"]) == ("recording", "ended", "disk full")
            await peer.pictures(50, within=30)
            stats = await peer.stats()
            assert (stats["state"], stats["recording"]["reason"]) == ("live", "disk full")
            answer = await http.get(begun.headers["location"])
            assert answer.status_code == 200
            assert len(read(answer.content)[0]) >= FPS
        assert own.metric('kdtalker_events_total{event="recording: disk full"}') == 1
        assert recordings_in(small_disk)
    finally:
        stop_server(own)
        filler.unlink()
    assert not recordings_in(small_disk), "nothing is kept beyond the server's life"
    assert "Traceback" not in own.log.read_text()
