"""Debian's Chromium with a WAV file for a microphone, and a page that notes what must not happen on it."""

from __future__ import annotations

import os
import shutil
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, Response

RATE = 48_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    # What a browser does on its own account, and cannot do without a network:
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
ALLOW = "--use-fake-ui-for-media-stream"
# Keeps the page's connections within reach, for their statistics and for cutting them.
NOTE_PEERS = """
window.peers = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...given) { super(...given); window.peers.push(this); }
};
"""


def left_out(reason: str) -> NoReturn:
    """Leave a browser test out; where CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def playwright() -> Iterator[Playwright]:
    if find_spec("playwright") is None:
        left_out("playwright is not installed, so no browser can be driven")
    for program in ("chromium", "espeak-ng"):
        if shutil.which(program) is None:
            left_out(f"{program} is not installed (Debian: apt install {program})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        yield driver


def launch(driver: Playwright, *flags: str) -> Browser:
    return driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *flags])


def write_wave(path: Path, sound: np.ndarray) -> Path:
    """i16 (samples,) at 48 kHz -> a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(sound.astype("<i2").tobytes())
    return path


def write_film(path: Path, picture: np.ndarray) -> Path:
    """u8 (h, w, 3) BGR -> a Y4M file of 640 x 480, in which the picture stands still."""
    side = 480
    frame = np.full((side, 640, 3), 120, np.uint8)
    frame[:, 80 : 80 + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    planes = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes()
    path.write_bytes(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420jpeg\n" + 5 * (b"FRAME\n" + planes))
    return path


@dataclass
class Visit:
    """A page and what happened on it. `refusals`: statuses that the test brings about on purpose."""

    page: Page
    origin: str
    refusals: set[int] = field(default_factory=set)
    sessions: list[str] = field(default_factory=list)  # addresses of the calls it made
    complaints: list[str] = field(default_factory=list)

    def open(self) -> Page:
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("response", self._answered)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(NOTE_PEERS)
        self.page.goto(self.origin)
        self.page.wait_for_selector("body[data-state=idle]")
        return self.page

    def call(self) -> None:
        """Press Start and wait for the live picture."""
        self.page.click("#call")
        self.page.wait_for_selector("video.shown", timeout=60_000)

    def state(self, state: str, timeout: float = 30) -> None:
        self.page.wait_for_selector(f"body[data-state={state}]", timeout=1000 * timeout)

    def until(self, condition: str | Callable[[], bool], seconds: float = 30) -> None:
        """Wait until a JavaScript expression or a Python function is true.

        Playwright's own wait evaluates strings inside the page, whose content policy forbids it.
        """
        deadline = time.monotonic() + seconds
        while not (self.page.evaluate(condition) if isinstance(condition, str) else condition()):
            assert time.monotonic() < deadline, f"still waiting after {seconds} s: {condition}"
            self.page.wait_for_timeout(100)  # unlike time.sleep, it lets events in

    def _requested(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "blob:")):
            self.complaints.append(f"a request went to {url}")

    def _answered(self, response: Response) -> None:
        if response.status == 201 and urlsplit(response.url).path == "/sessions":
            self.sessions.append(self.origin + response.headers["location"])

    def _said(self, message: ConsoleMessage) -> None:
        # a request's refusal, and a WebSocket's
        told = [f"{words} {status}" for words in ("status of", "response code:") for status in self.refusals]
        expected = any(f"{each} " in f"{message.text} " for each in told)
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(message.text)


@contextmanager
def visit(browser: Browser, origin: str, **options: object) -> Iterator[Visit]:
    """A fresh visitor; leaving the block fails on errors in the console and on requests to anybody else."""
    context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
    visitor = Visit(context.new_page(), origin)
    try:
        yield visitor
    finally:
        context.close()
    assert not visitor.complaints, visitor.complaints
