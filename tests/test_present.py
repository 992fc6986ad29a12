"""`kdtalker present`: scripts, performances, and what players get by RTMP from nginx and by WHIP through werift."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from engines.cli import enrolled
from engines.talkers import open_talker
from engines.types import FPS, FRAME_SIZE, PLAYBACK_RATE, PLAYBACK_SAMPLES, KDTalkerError
from kdtalker import main
from server.clock import SessionClock
from server.espeak import Espeak
from server.performance import Performance
from server.present import SETTLED
from server.present_outlet import OutletError
from server.present_programme import Programme, Speaker
from server.present_rtmp import RtmpOutlet, without_key
from server.present_script import Said, read_script, script
from server.present_whip import WhipOutlet
from server.settings import Settings
from server.voices import Sound, Voices
from tests.conftest import REPOSITORY, free_port

pytestmark = pytest.mark.timeout(180)

RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
WERIFT = REPOSITORY / ".venv" / "whip" / "node_modules"
TOKEN = "the token of the endpoint"
KEY = "the-key-that-nobody-may-see"


def test_a_script_is_read_as_a_speaker_reads_it() -> None:
    said = script(
        "---\ntitle: never said\n---\n# A *heading*\n\nOne sentence. [Another](http://x.test), isn't it? ![no](a.png)"
        "\n\n```\nnever\n```\n\n- a point\n\n<b>html</b>\n\n---\n\nThe end"
    )
    assert [one.text for one in said] == [
        "A heading",
        "One sentence.",
        "Another, isn't it?",
        "a point",
        "html",
        "The end",
    ]
    pauses = {one.text: one.pause for one in said}
    assert pauses["One sentence."] < pauses["a point"] < pauses["A heading"] < pauses["html"], "which a rule follows"


def test_a_script_that_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(KDTalkerError, match="cannot be read"):
        read_script(tmp_path / "nowhere.md")
    empty = tmp_path / "empty.md"
    empty.write_text("---\n\n```\ncode\n```\n")
    with pytest.raises(KDTalkerError, match="nothing to say"):
        read_script(empty)
    empty.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KDTalkerError, match="UTF-8"):
        read_script(empty)


def tone(seconds: float, rate: int = PLAYBACK_RATE) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def performer() -> Callable[[], Performance]:
    talker = open_talker()
    identity = enrolled(talker, (REPOSITORY / "engines" / "avatars" / "iris.png").read_bytes())
    return lambda: Performance(talker, identity)


def test_a_performance_passes_sound_on_whole_and_says_where_it_ends(performer: Callable[[], Performance]) -> None:
    performance = performer()
    performance.end()  # of nothing
    for part in np.array_split(tone(0.5, 24_000), 7):
        performance.push(part, 24_000)
    performance.end()
    performance.push(tone(0.1), PLAYBACK_RATE)
    performance.end()
    moments = [performance.next(render=tick == 3) for tick in range(30)]
    assert [moment.tick for moment in moments] == list(range(30))
    assert [moment.tick for moment in moments if moment.picture is not None] == [3]
    spoken = [moment.tick for moment in moments if moment.speaks]
    assert spoken == list(range(13 + 3)), "half a second, a tenth, each in whole ticks"
    assert [moment.tick for moment in moments if moment.ends] == [12, 15]
    sound = np.concatenate([moment.playback for moment in moments]) / 32767
    assert np.abs(sound[: PLAYBACK_RATE // 2 - 50] - tone(0.5)[:-50]).max() < 0.02, "resampled, and in place"
    assert not sound[16 * PLAYBACK_SAMPLES :].any()


def test_a_performance_that_is_cleared_is_silent_at_once_and_goes_on(performer: Callable[[], Performance]) -> None:
    performance = performer()
    performance.push(tone(2), PLAYBACK_RATE)
    performance.end()
    assert all(performance.next(render=False).speaks for _ in range(10))
    performance.clear()
    assert performance.waiting == 0
    after = [performance.next(render=False) for _ in range(20)]
    assert not any(moment.speaks or moment.ends or moment.playback.any() for moment in after)
    performance.push(tone(0.2), PLAYBACK_RATE)
    performance.end()
    again = [performance.next(render=False) for _ in range(20)]
    assert sum(moment.speaks for moment in again) == 5
    assert sum(moment.ends for moment in again) == 1


def test_sound_that_comes_late_leaves_a_hole_and_loses_nothing(performer: Callable[[], Performance]) -> None:
    performance = performer()
    performance.push(tone(0.06), PLAYBACK_RATE)
    assert not any(performance.next(render=False).speaks for _ in range(5)), "too little to begin with"
    performance.push(tone(0.06), PLAYBACK_RATE)
    heard = [performance.next(render=False) for _ in range(15)]
    performance.end()
    heard += [performance.next(render=False) for _ in range(15)]
    assert sum(moment.speaks for moment in heard) == 3
    assert sum(moment.ends for moment in heard) <= 1


class Hoarse(Espeak):
    """A voice of somebody's own that fails at every other sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def speak(self, text: str, voice: str) -> AsyncIterator[Sound]:
        self.asked += 1
        if self.asked % 2 == 0:
            raise ConnectionError("no throat")
        async for sound in super().speak(text, voice):
            yield sound


async def test_a_sentence_that_a_voice_fails_at_is_said_by_another(performer: Callable[[], Performance]) -> None:
    voices, programme, performance = Voices([Hoarse(), Espeak()]), Programme(), performer()
    told: list[str] = []
    try:
        speaker = await Speaker.called("en-us+f3", voices)
        await programme.read(
            [Said(text, 0.1) for text in ("One.", "Two.", "Three.")], speaker, performance, told.append
        )
        with pytest.raises(KDTalkerError, match="no voice 'nobody'"):
            await Speaker.called("nobody", voices)
    finally:
        await voices.close()
    assert len(told) == 1
    assert "no throat" in told[0]
    assert programme.complete
    assert programme.waiting == 3
    assert abs(programme.total - performance.waiting) < 0.02
    over = [programme.shown(performance.next(render=False)) for _ in range(round(programme.total * FPS) + 3 * FPS)]
    assert programme.waiting == 0
    assert over[-1]
    assert not over[round(programme.total * FPS)], "the face comes to rest first"


@dataclass
class Played:
    """What a player saw: seconds and mean brightness of every picture, and sound with the second it begins at."""

    pictures: list[tuple[float, float]] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    sound: list[tuple[float, np.ndarray]] = field(default_factory=list)
    codecs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nginx:
    url: str
    start: Callable[[], None]
    stop: Callable[[], None]

    def play(self, into: Played, name: str = KEY) -> threading.Thread:
        """A player of its own, from when the stream is there to its end."""

        def play() -> None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(av.FFmpegError), av.open(f"{self.url}/{name}", timeout=(10, 1.5)) as container:
                    into.codecs = tuple(stream.codec_context.name for stream in container.streams)
                    for frame in container.decode():
                        if isinstance(frame, av.VideoFrame):
                            into.pictures.append((frame.time, float(frame.to_ndarray(format="gray").mean())))
                            into.sizes.add((frame.width, frame.height))
                        else:
                            into.sound.append((frame.time, frame.to_ndarray()[0].copy()))
                if into.pictures:
                    return
                time.sleep(0.05)

        thread = threading.Thread(target=play)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx that takes RTMP, on a port of its own."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not RTMP_MODULE.exists():
        pytest.skip("nginx cannot take RTMP here (Debian: apt install nginx-light libnginx-mod-rtmp)")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"load_module {RTMP_MODULE}; daemon off; master_process off; pid {folder}/pid;\n"
        f"error_log {folder}/error.log; events {{}}\n"
        f"rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n"
    )
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [program, "-p", str(folder), "-c", str(configuration)]
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop() -> None:
        running[-1].terminate()
        running[-1].wait(timeout=10)

    start()
    yield Nginx(f"rtmp://127.0.0.1:{port}/live", start, stop)
    stop()


async def test_flash_and_beep_come_out_of_an_rtmp_server_together(nginx: Nginx) -> None:
    size = (192, 128)
    outlet = RtmpOutlet(f"{nginx.url}/flash", size, 500_000)
    await outlet.open()
    played = Played()
    player = nginx.play(played, "flash")
    outlet.begin(clock := SessionClock(time.monotonic(), 0.2))
    beep = np.round(32767 * tone(0.2)).astype(np.int16)
    events = (60, 85, 110)
    for tick in range(130):
        await clock.until(clock.start(tick))
        since = next((tick - event for event in events if 0 <= tick - event < 5), None)
        sound = np.zeros(PLAYBACK_SAMPLES, np.int16) if since is None else np.split(beep, 5)[since]
        outlet.put(tick, sound, np.full((size[1], size[0], 3), 16 if since is None else 235, np.uint8))
    await outlet.close()
    assert outlet.failure is None
    await asyncio.to_thread(player.join)
    assert played.sizes == {size}
    assert set(played.codecs) == {"h264", "aac"}
    times = np.array([when for when, _ in played.pictures])
    assert np.abs(np.diff(times) - 1 / FPS).max() < 0.0011, "RTMP counts milliseconds"
    bright = np.array([level > 128 for _, level in played.pictures])
    flashes = times[1:][bright[1:] & ~bright[:-1]]
    loud = [(when, np.abs(part) > 0.05) for when, part in played.sound]
    starts = [when + np.argmax(part) / PLAYBACK_RATE for when, part in loud if part.any()]
    beeps = [when for when, before in zip(starts, [-1.0, *starts], strict=False) if when - before > 0.3]
    assert len(flashes) >= 2, "the player was there for most of it"
    for flash in flashes:
        assert min(abs(flash - beep) for beep in beeps) < 0.03


def presenting(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdtalker", "present", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.md"
    path.write_text("# Hello\n\nThis is a talk. It is a short one.\n")
    return path


def test_a_script_is_presented_by_rtmp_and_a_server_that_was_away_is_found_again(nginx: Nginx, talk: Path) -> None:
    talk.write_text("# Hello\n\n" + 3 * "This is a talk. It is a short one. ")
    process = presenting("--to", f"{nginx.url}/{KEY}", "--script", str(talk), "--patience", "40")
    before, after = Played(), Played()
    player = nginx.play(before)
    deadline = time.monotonic() + 90
    # A server that closes within `SETTLED` seconds of stream does not want it.
    while time.monotonic() < deadline and process.poll() is None:
        if len(before.pictures) >= 10 and before.pictures[-1][0] > SETTLED + 1:
            break
        time.sleep(0.05)
    nginx.stop()
    player.join()
    nginx.start()
    player = nginx.play(after)
    out, _ = process.communicate(timeout=90)
    player.join()
    assert process.returncode == 0, out
    assert KEY not in out
    assert "lost: " in out
    assert "back" in out
    assert "spoken" in out
    for played in (before, after):
        assert len(played.pictures) >= 10
        assert played.sizes == {(FRAME_SIZE, FRAME_SIZE)}
        ticks = np.array([when for when, _ in played.pictures]) * FPS
        steps = np.diff(ticks)
        assert steps.min() > 0.97
        assert np.abs(steps - np.round(steps)).max() < 0.03, "each picture at its tick, a tick may lack one"
    assert max(np.abs(part).max() for _, part in before.sound + after.sound) > 0.05, "it speaks"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", f"rtmp://127.0.0.1:1/live/{KEY}"], "rtmp://127.0.0.1:1/live: it takes no connections"),
        (["--to", "http://127.0.0.1:1/whip"], "http://127.0.0.1:1/whip: it does not answer"),
        (["--to", "ftp://somewhere.test"], "rtmp://"),
        (["--to", "rtmp://127.0.0.1:1/a/b", "--voice", "nobody"], "There is no voice 'nobody'"),
        (["--to", "rtmp://127.0.0.1:1/a/b", "--avatar", "nobody"], "There is no avatar 'nobody'"),
    ],
)
def test_what_cannot_be_is_said_in_words(
    talk: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["present", *arguments, "--script", str(talk)]) == 1
    out = capsys.readouterr().err
    assert told in " ".join(out.split())
    assert KEY not in out


def test_an_address_is_shown_without_its_key() -> None:
    assert without_key("rtmps://a:b@host.test:443/app/key?x=1") == "rtmps://host.test:443/app"


def test_a_server_that_never_answers_is_given_up(talk: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections stand, and nobody reads
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/{KEY}"
        talk.write_text("One two three four five six seven. " * 5)
        process = presenting("--to", url, "--script", str(talk), "--patience", "0")
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 1, out
    assert "stopped reading" in out
    assert KEY not in out
    assert "Traceback" not in out


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A WHIP endpoint that passes on to viewers, on werift."""
    node = shutil.which("node")
    if node is None or not (WERIFT / "werift").is_dir():
        pytest.skip(f"werift is not installed in {WERIFT} (npm install --prefix .venv/whip werift), so there is no SFU")
    port = free_port()
    process = subprocess.Popen(
        [node, str(REPOSITORY / "tests" / "whip_endpoint.cjs"), str(port), TOKEN],
        env=os.environ | {"NODE_PATH": str(WERIFT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=10)


@contextlib.asynccontextmanager
async def viewer(url: str):
    """Decodes what comes; yields the counts of pictures, of their sizes, and the loudest sound."""
    seen: dict[str, object] = {"pictures": 0, "sizes": set(), "loudest": 0}
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tasks = []

    async def look(track) -> None:
        while True:
            frame = await track.recv()
            if track.kind == "video":
                seen["pictures"] += 1
                seen["sizes"].add((frame.width, frame.height))
            else:
                seen["loudest"] = max(seen["loudest"], int(np.abs(frame.to_ndarray()).max()))

    for kind in ("audio", "video"):
        connection.addTransceiver(kind, direction="recvonly")
    connection.on("track", lambda track: tasks.append(asyncio.create_task(look(track))))
    await connection.setLocalDescription(await connection.createOffer())
    async with httpx.AsyncClient(timeout=30) as http:
        headers = {"Content-Type": "application/sdp"}
        answer = await http.post(f"{url}/whep", content=connection.localDescription.sdp, headers=headers)
    assert answer.status_code == 201, answer.text
    await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.close()


async def test_three_viewers_see_a_script_that_is_presented_by_whip(endpoint: str, talk: Path) -> None:
    arguments = ["--to", f"{endpoint}/moved", "--script", str(talk)]
    process = await asyncio.to_thread(presenting, *arguments, KDTALKER_WHIP_TOKEN=TOKEN)
    async with contextlib.AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(viewer(endpoint)) for _ in range(3)]
        out, _ = await asyncio.to_thread(process.communicate, timeout=90)
    assert process.returncode == 0, out
    assert "spoken" in out
    for seen in viewers:
        assert seen["pictures"] >= 2 * FPS
        assert seen["sizes"] == {(FRAME_SIZE, FRAME_SIZE)}
        assert seen["loudest"] > 1000


async def test_an_endpoint_may_refuse(endpoint: str) -> None:
    def outlet(path: str, token: str | None) -> WhipOutlet:
        return WhipOutlet(f"{endpoint}{path}", token, Settings(), 64, 200_000)

    first = outlet("/whip", TOKEN)
    await first.open()
    try:
        for refused, told in (
            (outlet("/whip", None), "401: the token is missing or wrong"),
            (outlet("/whip", TOKEN), "409 Conflict: somebody publishes already"),
            (outlet("/elsewhere", TOKEN), "404"),
        ):
            with pytest.raises(OutletError, match=told):
                await refused.open()
            await refused.close()
    finally:
        await first.close()
    again = outlet("/whip", TOKEN)
    await again.open()  # the first one said that it left
    await again.close()
