"""Calls from a program: `client.AvatarClient` against a running server, and the examples as a person runs them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import av
import httpx
import numpy as np
import pytest

from client import AvatarClient, AvatarError, Event, Speech, State, Stream, Subtitle, open_sound
from client.events import event_of
from tests.browser import write_wave
from tests.conftest import REPOSITORY, LiveServer, free_port

pytestmark = pytest.mark.timeout(120)

Item = TypeVar("Item")


@pytest.fixture(scope="module")
def wav(speak: Callable[[str], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wave(tmp_path_factory.mktemp("client") / "speech.wav", speak("Good morning."))


async def test_a_call_from_its_beginning_to_its_end(server: LiveServer, wav: Path) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with asyncio.timeout(60), AvatarClient(server.url, avatar="astronaut", microphone=open_sound(wav)) as call:
        begun = await anext(call.events)
        assert isinstance(begun, State)
        assert begun.controls["emotion"] == "neutral"
        assert (await call.stats())["avatar"] == "astronaut"

        picture = await anext(call.video)
        assert (picture.width, picture.height) == (512, 512)
        assert picture.to_ndarray(format="rgb24").std() > 20, "a face, not a plain picture"
        heard = [sound.to_ndarray() async for sound in taken(call.audio, 100)]
        assert {sound.shape[1] // 2 for sound in heard} == {960}
        assert np.abs(np.concatenate(heard, axis=1)).max() > 1000, "the microphone comes back"
        assert abs(await call.picture_offset()) < 0.5, "both began in the same half second"

        assert (await call.control(emotion="happy", mouth_scale=1.2))["emotion"] == "happy"
        with pytest.raises(AvatarError, match="emotion"):
            await call.control(emotion="bored")

        assert call.reason == ""
        async with httpx.AsyncClient() as another:
            assert (await another.delete(f"{server.url}{call.location}")).status_code == 204
        rest = [event async for event in call.events]
        assert isinstance(rest[-1], State)
        assert rest[-1].state == "ended"
        assert [type(frame) async for frame in call.video][-1:] in ([av.VideoFrame], [])
        assert call.reason == "deleted"
        with pytest.raises(AvatarError, match="The call is over: deleted"):
            await call.control(emotion="sad")
        with pytest.raises(AvatarError, match="no such session") as gone:
            await call.interrupt()
        assert gone.value.status == 404
    await left_by(threads, tasks)
    assert server.metric("kdtalker_sessions") == 0


async def test_sound_files_are_spoken_and_interrupted(server: LiveServer, wav: Path, tmp_path: Path) -> None:
    long = write_wave(tmp_path / "long.wav", np.zeros(15 * 48_000, np.int16))
    async with asyncio.timeout(60), AvatarClient(server.url) as call:
        first = await call.play(await asyncio.to_thread(wav.read_bytes))
        second, third = [await call.play(long) for _ in range(2)]
        assert not (await call.spoken(first)).interrupted
        await call.interrupt()
        assert (await call.spoken(second)).interrupted
        assert (await call.spoken(third)).interrupted, "the one that had not begun, too"
        with pytest.raises(AvatarError, match="sound") as unreadable:
            await call.play(b"no sound")
    assert (unreadable.value.status, unreadable.value.reason) == (422, "unreadable")


async def test_texts_are_spoken_by_a_voice_that_is_chosen(server: LiveServer) -> None:
    async with asyncio.timeout(60), AvatarClient(server.url, mode="speak") as call:
        begun = await anext(call.events)
        assert isinstance(begun, State)
        assert begun.mode == call.mode == "speak"
        names = [voice["name"] for voice in await call.voices()]
        await call.choose_voice(names[-1])
        with pytest.raises(AvatarError, match="no voice"):
            await call.choose_voice("nobody's")
        long = "One sentence that is said. " + "Another one that nobody will ever hear to its end. " * 5
        number = await call.speak(long)
        async for event in call.events:
            if isinstance(event, Subtitle) and event.id == number:
                break
        assert event.who == "avatar"
        await call.interrupt()
        report = await call.spoken(number)
        assert report.interrupted
        assert f"{report.said} {report.unsaid}".split() == long.split()
        assert (await call.spoken(await call.speak("Short.", voice=names[0]))).said == "Short."
        await call.change_mode("push")
        assert call.mode == "push"
        with pytest.raises(AvatarError, match="language model"):
            await call.change_mode("agent")


async def test_pushed_sound_is_said_by_the_avatar_or_heard_by_it(server: LiveServer) -> None:
    tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)).astype(np.int16)
    async with asyncio.timeout(60), AvatarClient(server.url, mode="push", rate=16_000) as call:
        assert await call.push(np.tile(tone, 20)) == 20.0
        assert (await begun_or_over(call)).state == "begun"
        await call.interrupt()
        assert (await begun_or_over(call)).state == "stopped"
        assert await call.push(tone.tobytes()) == 1.0, "the next segment"
        await call.end_push()
        assert (await begun_or_over(call)).state == "begun"
        ended = await begun_or_over(call)
        assert (ended.state, ended.seconds) == ("ended", 1.0)
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(60), AvatarClient(server.url, mode="mirror", rate=16_000) as call:
        async for _ in taken(call.video, 2):
            pass
        begun = clock()
        assert await call.push(tone) == 1.0
        assert clock() - begun > 0.9, "a microphone takes its time"
        loud = [np.abs(sound.to_ndarray()).max() > 4000 async for sound in taken(call.audio, 60)]
        assert sum(loud) > 20
        pushing = asyncio.create_task(call.push(np.tile(tone, 20)))
        await asyncio.sleep(0.3)
        await call.interrupt()
        assert 0 < await pushing < 19
    async with asyncio.timeout(60), AvatarClient(server.url) as call:
        with pytest.raises(AvatarError, match="mode='push'"):
            await call.push(tone)


async def test_refusals_are_told_in_words(server: LiveServer, wav: Path, tmp_path: Path) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()

    async def refused(url: str = server.url, **options: object) -> AvatarError:
        with pytest.raises(AvatarError) as error:
            async with AvatarClient(url, **options):  # type: ignore[arg-type]
                pytest.fail("this call should not have begun")
        return error.value

    unknown = await refused(avatar="nobody", microphone=open_sound(wav))
    assert (str(unknown), unknown.status) == ("There is no avatar 'nobody'.", 404)
    assert "rate must be one of" in str(await refused(rate=8000))
    agent = await refused(mode="agent")
    assert (agent.status, agent.reason) == (422, "mode")
    assert "language model" in str(agent)
    nowhere = f"http://127.0.0.1:{free_port()}"
    gone = await refused(nowhere, microphone=open_sound(wav))
    assert str(gone).startswith(f"{nowhere} cannot be reached")
    assert gone.status is None
    async with AvatarClient(server.url), AvatarClient(server.url):
        full = await refused()
        assert (full.status, full.reason, full.retry_after) == (503, "full", 3)
    with pytest.raises(AvatarError, match="neither a readable file nor a microphone"):
        open_sound(tmp_path / "missing.wav")
    await left_by(threads, tasks)
    assert server.metric("kdtalker_sessions") == 0


async def test_what_nobody_reads_is_left_out_oldest_first() -> None:
    stream: Stream[int] = Stream(2)
    for number in range(5):
        stream.put(number)
    assert await anext(stream) == 3
    stream.end()
    assert [number async for number in stream] == [4]
    assert stream.dropped == 3


def test_events_of_other_servers_are_told_too() -> None:
    event = event_of({"type": "speech", "state": "begun", "seconds": 2.5, "more": 1})
    assert event == Speech(
        type="speech", members={"state": "begun", "seconds": 2.5, "more": 1}, state="begun", seconds=2.5
    )
    assert event_of({"type": "new", "x": 1}) == Event(type="new", members={"x": 1})


def test_examples_are_whole() -> None:
    shown = {path.stem for path in (REPOSITORY / "examples").glob("*.py")}
    tests = " ".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert {name for name in shown if not re.search(rf"\b{name}\b", tests)} == set(), "an example that nothing runs"


def run(name: str, *arguments: str, sound: bytes | None = None) -> str:
    """What an example prints, which is run as its first lines say; `sound` goes to its standard input."""
    command = [sys.executable, "-W", "error", str(REPOSITORY / "examples" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, input=sound, env=environment, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_example_mirror(server: LiveServer, wav: Path) -> None:
    assert "25 pictures" in run("mirror.py", server.url, str(wav))


def test_example_play_file(server: LiveServer, wav: Path) -> None:
    assert run("play_file.py", server.url, str(wav)).endswith("spoken\n")


def test_example_push_pcm(server: LiveServer) -> None:
    assert run("push_pcm.py", server.url, sound=bytes(2 * 24_000)) == "1.0 s\n"


def test_example_speak_text(server: LiveServer) -> None:
    assert run("speak_text.py", server.url, "Good morning.") == "Good morning.\n"


def test_example_whip_whep(server: LiveServer, wav: Path) -> None:
    seen = re.fullmatch(r"(\d+) pictures\n", run("whip_whep.py", server.url, "lobby", str(wav)))
    assert seen is not None
    assert int(seen[1]) > 5


def test_example_save_mp4(server: LiveServer, wav: Path, tmp_path: Path) -> None:
    run("save_mp4.py", server.url, str(wav), str(tmp_path / "out.mp4"))
    with av.open(str(tmp_path / "out.mp4")) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec.name, audio.codec.name, video.width) == ("h264", "aac", 512)
        assert video.duration is not None
        assert audio.duration is not None
        lengths = float(video.duration * video.time_base), float(audio.duration * audio.time_base)
        assert min(lengths) > 0.5
        assert abs(lengths[0] - lengths[1]) < 0.5
        frames = [frame.to_ndarray() for frame in file.decode(audio)]
    assert np.abs(np.concatenate(frames, axis=1)).max() > 0.05, "the voice is in the film"


async def taken(stream: Stream[Item], count: int) -> AsyncIterator[Item]:
    for _ in range(count):
        yield await anext(stream)


async def begun_or_over(call: AvatarClient) -> Speech:
    """The next event that says of something that it is spoken, or no more."""
    async for event in call.events:
        if isinstance(event, Speech) and event.state != "queued":
            return event
    raise AssertionError(call.reason)


async def left_by(threads: set[threading.Thread], tasks: set[asyncio.Task[object]]) -> None:
    """Fail on threads and tasks that were not there before; decoders' threads end a moment after their call."""
    await asyncio.get_running_loop().shutdown_default_executor()  # the loop's own, which resolves names
    deadline = time.monotonic() + 10
    while left := [*set(threading.enumerate()) - threads, *asyncio.all_tasks() - tasks]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)
