"""Engines that fail in the middle of calls: the calls go on, with sound, and with pictures once these come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faulty import FaultyEngine, FaultyRenderer, Trouble
from benchmarks.peer import RATE, Peer
from engines.pipeline import Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import Identity
from server.batcher import Batcher
from server.metrics import Metrics
from server.reception import Reception
from server.services import Services
from server.session import Session
from server.settings import Settings
from tests.test_server import PORTRAIT

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    return talker.renderer.enrol(prepare(PORTRAIT.read_bytes()))


@asynccontextmanager
async def calls(
    talker: Talker, identity: Identity, count: int, cache: Path
) -> AsyncIterator[list[tuple[Peer, Session]]]:
    """So many calls with `talker`, each showing pictures."""
    metrics, settings = Metrics(), Settings(cache=cache, load_shedding=False, max_sessions=count, grace=60)
    batcher = Batcher(talker, 2, metrics)
    peers = [Peer("http://nobody.invalid", np.zeros(RATE, np.int16)) for _ in range(count)]
    try:
        async with Reception(batcher, Services(settings), settings, metrics) as reception:
            made = []
            for peer in peers:
                session, answer = await reception.admit(await peer.offer(), "iris", identity)
                await peer.accept(answer)
                made.append((peer, session))
            for peer in peers:
                await peer.pictures(3, within=60)
            yield made
    finally:
        for peer in peers:
            await peer.close()
        batcher.close()


async def sound_goes_on(peer: Peer) -> None:
    before = len(peer.heard())
    async with asyncio.timeout(30):
        while len(peer.heard()) < before + RATE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_renderer_that_raises_costs_pictures_and_no_call(
    talker: Talker, identity: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble()
    faulty = replace(talker, renderer=FaultyRenderer(talker.renderer, trouble))
    async with calls(faulty, identity, 1, tmp_path) as [(peer, session)]:
        trouble.kind = "raise"
        await sound_goes_on(peer)
        assert trouble.met > 1
        assert 1 <= session.stats()["drops"]["render_error"] <= trouble.met
        assert [record.message for record in caplog.records if "rendered" in record.message] == [
            f"session {session.id}: pictures cannot be rendered"
        ], "once, not for every picture"
        trouble.kind = ""
        await peer.pictures(10, within=30)
        assert session.reason is None


async def test_a_renderer_that_hangs_is_given_up_and_others_go_on(
    talker: Talker, identity: Identity, tmp_path: Path
) -> None:
    trouble = Trouble()
    faulty = replace(talker, renderer=FaultyRenderer(talker.renderer, trouble))
    async with calls(faulty, identity, 2, tmp_path) as [(one, first), (other, second)]:
        trouble.kind = "hang"
        while trouble.met < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        trouble.kind = ""
        await asyncio.gather(sound_goes_on(one), sound_goes_on(other))
        await asyncio.gather(one.pictures(10, within=60), other.pictures(10, within=60))
        assert first.stats()["drops"]["render_error"] + second.stats()["drops"]["render_error"] >= 2
        assert first.reason is None
        assert second.reason is None
        trouble.free.set()
    async with asyncio.timeout(20):
        while [each for each in threading.enumerate() if each.name.startswith(("worker", "encoder"))]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_motion_that_fails_begins_anew_at_the_present(talker: Talker, identity: Identity, tmp_path: Path) -> None:
    trouble = Trouble()
    faulty = replace(talker, encoder=FaultyEngine(talker.encoder, trouble))
    async with calls(faulty, identity, 1, tmp_path) as [(peer, session)]:
        trouble.kind = "raise"
        await sound_goes_on(peer)
        assert trouble.met > 1
        trouble.kind = ""
        before = session.stats()["drops"].get("late_before_rendering", 0)
        await peer.pictures(25, within=60)
        late = session.stats()["drops"].get("late_before_rendering", 0) - before
        assert late < 100, "ticks are numbered from where the motion began anew"
        assert session.reason is None
