"""The process that prepares photos: what it gives back, and what becomes of calls and of it when it breaks."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from benchmarks.peer import PACKET, RATE, Peer
from engines.types import PortraitError
from server.enrolment import Enroller
from tests.conftest import LiveServer
from tests.test_server import PORTRAIT

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def enroller() -> Iterator[Enroller]:
    enroller = Enroller("embedded")
    yield enroller
    enroller.stop()
    assert not multiprocessing.active_children()


def worker() -> int:
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    return child.pid


def test_a_photo_becomes_a_face_elsewhere(enroller: Enroller) -> None:
    made = enroller.enrol(PORTRAIT.read_bytes())
    assert made.identity.crop.shape == (512, 512, 3)
    assert made.picture[:2] == b"\xff\xd8"
    assert worker() != os.getpid()
    with pytest.raises(PortraitError) as refused:
        enroller.enrol(b"no picture")
    assert refused.value.reason == "unreadable"


def test_a_process_that_dies_costs_one_photo_at_most(enroller: Enroller) -> None:
    enroller.enrol(PORTRAIT.read_bytes())
    (child,) = multiprocessing.active_children()
    child.kill()
    child.join()  # on a full machine even the end of a process takes its time
    enroller.enrol(PORTRAIT.read_bytes())
    os.kill(worker(), signal.SIGSTOP)  # so that the photo is still in its hands when it dies
    pid = worker()
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(PortraitError):
        enroller.enrol(PORTRAIT.read_bytes())
    enroller.enrol(PORTRAIT.read_bytes())


async def test_sound_keeps_coming_while_twenty_photos_are_prepared(server: LiveServer) -> None:
    photo = PORTRAIT.read_bytes()
    async with Peer(server.url, np.zeros(RATE, np.int16)) as peer, httpx.AsyncClient(base_url=server.url) as client:
        await peer.pictures(3, within=30)
        begun = time.monotonic()
        for _ in range(20):
            answer = await client.post("/avatars", files={"photo": ("me.jpg", photo, "image/jpeg")}, timeout=60)
            assert answer.status_code == 201, answer.text
        seconds = time.monotonic() - begun
        await asyncio.sleep(0.5)
        seen = [stamp for moment, stamp in peer.received.timestamps["audio"] if moment >= begun]
    assert {b - a for a, b in itertools.pairwise(seen)} == {PACKET}
    assert len(seen) >= 0.95 * seconds * RATE / PACKET
