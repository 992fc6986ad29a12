"""What tests share: the data folder, a voice, and a real server in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import httpx
import numpy as np
import pytest

from tests.browser import ALLOW, RATE, Visit, launch, playwright, visit, write_film, write_wave

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

# Whoever names one of these keeps time: calls a server, or has a connection of its own.
CALLS = {"LiveServer", "Peer", "Publisher", "Visit", "server", "browser", "RTCPeerConnection", "start_server"}
REPOSITORY = Path(__file__).resolve().parent.parent
PORTRAIT = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"
SENTENCE = "Good morning. We are happy to be here, and we will now open and close our mouths all the time."
SILENCE = 6  # seconds after the sentence, before it is spoken again
START = 120  # seconds that a server may take on a busy machine


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups for two processes: calls, which keep time, one after another; and what only computes, beside them."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        module = item.getparent(pytest.Module)
        known = {*getattr(item, "fixturenames", ()), *(vars(module.obj) if module else ())}
        item.add_marker(pytest.mark.xdist_group("calls" if CALLS & known else "computing"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whoever computes beside calls stands back for them."""
    group = item.get_closest_marker("xdist_group")
    if "PYTEST_XDIST_WORKER" in os.environ and group and group.args == ("computing",):
        os.setpriority(os.PRIO_PROCESS, 0, 10)


def data_folder() -> Path:
    """KDTALKER_DATA, or `../shared/data` beside the repository, there or not."""
    return Path(os.environ.get("KDTALKER_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"there is no data folder at {folder}; KDTALKER_DATA names another")
    return folder


@pytest.fixture(scope="session")
def speak(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], np.ndarray]:
    """A function from English text to speech, i16 (samples,) at 48 kHz."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed, so there is no voice to speak with")
    folder = tmp_path_factory.mktemp("speech")

    def speech(text: str) -> np.ndarray:
        path = folder / "speech.wav"
        subprocess.run(["espeak-ng", "-w", str(path), text], check=True)
        resampler = av.AudioResampler("s16", "mono", 48_000)
        with av.open(str(path)) as file:
            frames = [*file.decode(audio=0), None]
            parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
        return np.concatenate(parts)

    return speech


@dataclass(frozen=True)
class LiveServer:
    """A running server: where it is, its process and its log."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        """One number of `/metrics`, by its full name with labels; 0 where it is not there yet."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_server(folder: Path, **settings: object) -> LiveServer:
    """Start `kdtalker serve` and wait until it takes calls; `settings` are those of `server.settings`."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
    environment["KDTALKER_HOST"] = "127.0.0.1"
    settings = {"drain": 0, "load_shedding": False} | settings
    environment |= {f"KDTALKER_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "KDTALKER_CACHE": str(folder.parent / "cache")}
    log = folder / "server.log"
    command = [sys.executable, "-m", "kdtalker", "serve", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
    scheme = "https" if {"self_signed", "tls_cert"} & settings.keys() else "http"
    server = LiveServer(f"{scheme}://127.0.0.1:{port}", process, log)
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # whose certificate it is does not matter here
            if httpx.get(f"{server.url}/readyz", verify=False).status_code == 200:
                return server
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    process.wait()
    pytest.fail(f"the server did not come up:\n{log.read_text()[-4000:]}")


def stop_server(server: LiveServer) -> None:
    """SIGTERM, as a service manager does; a server that does not leave by itself fails the tests."""
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        pytest.fail(f"the server did not stop:\n{server.log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server that most tests share: two calls at most, and quick to notice a lost peer."""
    live = start_server(tmp_path_factory.mktemp("server"), max_sessions=2, retry_after=3, lost_after=2, grace=4)
    yield live
    stop_server(live)


@pytest.fixture(scope="module")
def quiet(server: LiveServer) -> Iterator[None]:
    """Afterwards nothing of all that is left in the server, and its log has no traceback of ours."""
    yield
    deadline = time.monotonic() + 30
    while server.metric("kdtalker_sessions") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.metric("kdtalker_sessions") == 0
    assert server.metric('kdtalker_refused_total{status="500"}') == 0
    assert not [line for line in server.log.read_text().splitlines() if " ERROR " in line]


@pytest.fixture(scope="module")
def driver() -> Iterator[Playwright]:
    # Closed after this file: while it is open, its event loop is in the way of asynchronous tests.
    with playwright() as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium(driver: Playwright, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A browser whose microphone says a sentence, is silent, and says it again; its camera sees a face."""
    speak = request.getfixturevalue("speak")  # by now, so that `driver` is the one to say what is missing
    folder = request.getfixturevalue("tmp_path_factory").mktemp("microphone")
    sound = np.concatenate([speak(SENTENCE), np.zeros(SILENCE * RATE, np.int16)])
    path = write_wave(folder / "voice.wav", sound)
    camera = write_film(folder / "camera.y4m", cv2.imread(str(PORTRAIT)))
    files = f"--use-file-for-fake-audio-capture={path}", f"--use-file-for-fake-video-capture={camera}"
    browser = launch(driver, ALLOW, *files)
    yield browser
    browser.close()


@pytest.fixture
def visitor(chromium: Browser, server: LiveServer) -> Iterator[Visit]:
    with visit(chromium, server.url) as visitor:
        yield visitor
