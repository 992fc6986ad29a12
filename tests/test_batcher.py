"""Whose turn it is: deadlines, order within a call, and what becomes of work nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from engines.pipeline import Heard, Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import Identity, MotionTick
from server.batcher import Batcher
from server.metrics import Metrics
from tests.test_server import PORTRAIT


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    return talker.renderer.enrol(prepare(PORTRAIT.read_bytes()))


@pytest.fixture
def one_worker(talker: Talker) -> Iterator[Batcher]:
    batcher = Batcher(talker, 1, Metrics())
    yield batcher
    batcher.close()


async def occupied(batcher: Batcher, identity: Identity, opened: threading.Event) -> asyncio.Task[object]:
    """Keep the worker busy until `opened`, so that what is asked for meanwhile has to queue."""
    started = threading.Event()

    def hold() -> None:
        started.set()
        opened.wait(10)

    task = asyncio.ensure_future(batcher.run(batcher.lease(identity), "test", 0.0, hold))
    while not started.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return task


async def test_the_earliest_deadline_goes_first(one_worker: Batcher, identity: Identity) -> None:
    opened, done = threading.Event(), []
    first = await occupied(one_worker, identity, opened)
    jobs = [
        asyncio.ensure_future(
            one_worker.run(one_worker.lease(identity), "test", deadline, lambda d=deadline: done.append(d))
        )
        for deadline in (5.0, 1.0, 3.0)
    ]
    await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(first, *jobs)
    assert done == [1.0, 3.0, 5.0]


async def test_a_calls_jobs_keep_their_order(one_worker: Batcher, identity: Identity) -> None:
    opened, done = threading.Event(), []
    first = await occupied(one_worker, identity, opened)
    lease = one_worker.lease(identity)
    jobs = [
        asyncio.ensure_future(one_worker.run(lease, "test", deadline, lambda d=deadline: done.append(d)))
        for deadline in (5.0, 1.0, 3.0)
    ]
    await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(first, *jobs)
    assert done == [5.0, 1.0, 3.0]


async def test_one_call_never_runs_on_two_workers(talker: Talker, identity: Identity) -> None:
    batcher = Batcher(talker, 3, Metrics())
    lease, running, most = batcher.lease(identity), 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)
        running -= 1

    await asyncio.gather(*(batcher.run(lease, "test", 0.0, work) for _ in range(20)))
    batcher.close()
    assert most == 1


async def test_what_fails_is_told_to_who_asked_and_harms_nobody(one_worker: Batcher, identity: Identity) -> None:
    lease = one_worker.lease(identity)
    with pytest.raises(ZeroDivisionError):
        await one_worker.run(lease, "test", 0.0, lambda: 1 / 0)
    assert await one_worker.run(lease, "test", 0.0, lambda: 7) == 7


async def test_who_leaves_is_not_waited_for(one_worker: Batcher, identity: Identity) -> None:
    opened, done = threading.Event(), []
    first = await occupied(one_worker, identity, opened)
    lease = one_worker.lease(identity)
    waiting = asyncio.ensure_future(one_worker.run(lease, "test", 0.0, lambda: done.append("never")))
    await asyncio.sleep(0)
    lease.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await one_worker.run(lease, "test", 0.0, lambda: done.append("never"))
    opened.set()
    await first
    assert await one_worker.run(one_worker.lease(identity), "test", 0.0, lambda: "next") == "next"
    assert done == []


async def test_sound_that_waited_for_a_worker_is_heard_in_one_batch(
    one_worker: Batcher, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal((3, 16_000)).astype(np.float32)
    taken: list[int] = []
    listen_together = Talker.listen_together

    def counted(talker: Talker, calls: Sequence[Heard]) -> list[list[MotionTick]]:
        taken.append(len(calls))
        return listen_together(talker, calls)

    monkeypatch.setattr(Talker, "listen_together", counted)

    async def motions(held: bool) -> list[np.ndarray]:
        leases = [one_worker.lease(identity) for _ in sound]
        await asyncio.gather(*(lease.begin(seed, 0.0) for seed, lease in enumerate(leases)))
        opened = threading.Event()
        first = await occupied(one_worker, identity, opened) if held else None
        if first is None:
            heard = [await lease.listen(pcm, 0.0) for lease, pcm in zip(leases, sound, strict=True)]
        else:
            listening = [
                asyncio.ensure_future(lease.listen(pcm, 0.0)) for lease, pcm in zip(leases, sound, strict=True)
            ]
            await asyncio.sleep(0)
            opened.set()
            heard = await asyncio.gather(*listening)
            await first
        return [np.stack([tick.motion for tick in ticks]) for ticks in heard]

    together, apart = await motions(True), await motions(False)
    assert taken == [3, 1, 1, 1]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


async def test_the_same_seed_and_sound_give_the_same_motion_and_picture(
    one_worker: Batcher, identity: Identity
) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)

    async def motions(seed: int, step: int) -> np.ndarray:
        lease = one_worker.lease(identity)
        await lease.begin(seed, 0.0)
        ready = [tick for at in range(0, 16_000, step) for tick in await lease.listen(sound[at : at + step], 0.0)]
        assert [tick.tick for tick in ready] == list(range(len(ready)))
        return np.stack([tick.motion for tick in ready])

    together, apart, other = await motions(1, 16_000), await motions(1, 640), await motions(2, 640)
    assert np.allclose(together, apart, atol=1e-4), "a backlog taken at once is the same call"
    assert not np.allclose(together, other, atol=1e-2), "calls do not move alike"
    lease = one_worker.lease(identity)
    picture = await lease.render(together[-1], 0.0)
    assert picture.shape == (512, 512, 3)
    assert picture.dtype == np.uint8


def test_closing_ends_the_threads(talker: Talker) -> None:
    before = threading.active_count()
    batcher = Batcher(talker, 2, Metrics())
    assert threading.active_count() == before + 2
    batcher.close()
    assert threading.active_count() == before
