"""Whose turn it is: bounded worker threads run the engines for every call, earliest deadline first.

Above this file nobody touches a `Talker` or a `Talk`; calls hold a `Lease` and await results. Sound of several calls
that waits while every worker is busy is taken at once: its windows are rows of one batch.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engines.controls import DEFAULT, Controls
from engines.mark import marked
from engines.pipeline import TOGETHER, Heard, Talk, Talker
from engines.renderer import Staged
from engines.types import ByteArray, FloatArray, Identity, KDTalkerError, MotionTick
from server.metrics import Metrics

HUNG = 5.0  # seconds in a job after which its worker is given up
REPLACED = 16  # workers that may be given up; what hangs more often is not worth more threads

logger = logging.getLogger(__name__)


class HungError(KDTalkerError):
    """An engine did not come back."""


@dataclass(order=True, slots=True)
class _Job:
    deadline: float
    number: int  # jobs of equal deadline run in the order they came
    stage: str = field(compare=False)
    work: Callable[[], Any] | Heard = field(compare=False)  # sound can be heard together with other calls'
    lease: Lease = field(compare=False)
    done: asyncio.Future[Any] = field(compare=False)
    turn: _Turn | None = field(default=None, compare=False)  # once a worker has taken it


@dataclass(slots=True)
class _Turn:
    """What a worker does at once: one job, or the sound of several calls."""

    jobs: list[_Job]
    begun: float
    abandoned: bool = False

    def work(self, talker: Talker) -> list[Any]:
        """The jobs' results."""
        heard = [job.work for job in self.jobs if isinstance(job.work, Heard)]
        if heard:
            return list(talker.listen_together(heard))
        return [job.work() for job in self.jobs if callable(job.work)]


class Lease:
    """One call's right to the engines. Its jobs run one after another, in the order they were asked for."""

    def __init__(self, batcher: Batcher, identity: Identity) -> None:
        self._batcher = batcher
        self._identity = identity
        self._talk: Talk | None = None
        self._staged: Staged | None = None  # of `_look`; made and used by the lease's jobs, which run one at a time
        self._look = ("", "")
        self.jobs: deque[_Job] = deque()  # the first one is in the heap or running
        self.released = False

    async def begin(self, seed: int, deadline: float, controls: Controls = DEFAULT) -> None:
        """Start the call's state; the same seed, controls and sound give the same frames."""
        work = partial(self._batcher.talker.begin, self._identity, seed, controls)
        self._talk = await self._batcher.run(self, "begin", deadline, work)

    async def listen(
        self,
        pcm: FloatArray,
        deadline: float,
        controls: Controls | None = None,
        *,
        brief: bool = False,
        hushed: bool = False,
    ) -> list[MotionTick]:
        """Sound f32 (samples,) at 16 kHz -> the motion of every frame that became due; see `Talker.listen`.

        `hushed`: sound from before is taken back first, see `Talker.hush`.
        """
        assert self._talk is not None, "begin first"
        talker = self._batcher.talker
        if hushed:
            await self._batcher.run(self, "hush", deadline, partial(talker.hush, self._talk))
        heard = Heard(self._talk, pcm, controls, brief)
        ready: list[MotionTick] = await self._batcher.run(self, "listen", deadline, heard)
        return ready

    async def render(self, motion: FloatArray, deadline: float, controls: Controls = DEFAULT) -> ByteArray:
        """Motion f32 (70,) -> u8 (height, width, 3) RGB, in the view, before the background and with the sign that
        `controls` ask for.

        512 x 512 where that is the crop; sides are even.
        """
        picture: ByteArray = await self._batcher.run(self, "render", deadline, partial(self._show, motion, controls))
        return picture

    def _show(self, motion: FloatArray, controls: Controls) -> ByteArray:
        look = controls.view, controls.background
        if self._staged is None or look != self._look:
            self._staged, self._look = self._batcher.talker.renderer.staged(self._identity, *look), look
        picture = self._staged(motion)
        return marked(picture) if controls.mark else picture

    def release(self) -> None:
        """Give up: jobs that wait are forgotten, the result of one that runs is dropped."""
        self._batcher.release(self)
        self._talk = self._staged = None


class Batcher:
    """The workers and the heap of jobs. `workers`: one a GPU; on a CPU as many as cores."""

    def __init__(self, talker: Talker, workers: int, metrics: Metrics) -> None:
        self.talker = talker
        self._metrics = metrics
        self._heap: list[_Job] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._workers, self._abandoned, self._idle = workers, 0, 0
        self._threads: list[threading.Thread] = []
        for _ in range(workers):
            self._hire()

    def lease(self, identity: Identity) -> Lease:
        return Lease(self, identity)

    async def run(self, lease: Lease, stage: str, deadline: float, work: Callable[[], Any] | Heard) -> Any:
        """Run `work` on a worker for `lease`; what it raises is raised here. Cancelled if the lease ends first.

        Raises HungError where it takes longer than HUNG; its worker is replaced.
        """
        if self._abandoned >= REPLACED + self._workers:
            raise HungError("every worker hangs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._changed:
            if lease.released or self._closed:
                future.cancel()
            else:
                job = _Job(deadline, next(self._numbers), stage, work, lease, future)
                lease.jobs.append(job)
                if len(lease.jobs) == 1:
                    self._offer(job)
                watch = loop.call_later(HUNG, self._look_after, job)
                future.add_done_callback(lambda _: watch.cancel())
        return await future

    def release(self, lease: Lease) -> None:
        with self._changed:
            lease.released = True
            waiting = list(lease.jobs)
            self._heap = [job for job in self._heap if job.lease is not lease]
            heapq.heapify(self._heap)
            lease.jobs.clear()
        for job in waiting:
            job.done.cancel()

    def close(self) -> None:
        """Stop the workers after the job each of them is in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5 if not self._abandoned else 0.1)

    def _hire(self) -> None:
        thread = threading.Thread(target=self._run, name=f"worker-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look_after(self, job: _Job) -> None:
        """Give up a worker that does not come back from `job`; runs on the event loop."""
        if job.done.done():
            return
        now, turn = time.perf_counter(), job.turn
        if turn is None or now - turn.begun < HUNG:
            left = HUNG if turn is None else turn.begun + HUNG - now
            watch = job.done.get_loop().call_later(left + 0.01, self._look_after, job)
            job.done.add_done_callback(lambda _: watch.cancel())
            return
        if not turn.abandoned:
            turn.abandoned = True
            self._abandoned += 1
            logger.error("%s hangs; its worker is given up", job.stage)
            if self._abandoned <= REPLACED:
                self._hire()
        self._metrics.errors.labels(job.stage).inc()
        self._finish(job)
        job.done.set_exception(HungError(f"{job.stage} took longer than {HUNG:.0f} s"))

    def _offer(self, job: _Job) -> None:
        heapq.heappush(self._heap, job)
        self._changed.notify()

    def _take(self) -> _Turn | None:
        with self._changed:
            self._idle += 1
            while not self._heap and not self._closed:
                self._changed.wait()
            self._idle -= 1
            if self._closed:
                return None
            turn = _Turn([heapq.heappop(self._heap)], time.perf_counter())
            # What an idle worker would begin at once is left to it.
            while (
                isinstance(turn.jobs[0].work, Heard)
                and len(turn.jobs) < TOGETHER[-1]
                and len(self._heap) > self._idle
                and isinstance(self._heap[0].work, Heard)
            ):
                turn.jobs.append(heapq.heappop(self._heap))
            for job in turn.jobs:
                job.turn = turn
            return turn

    def _run(self) -> None:
        while (turn := self._take()) is not None:
            for job in [job for job in turn.jobs if job.done.cancelled()]:
                turn.jobs.remove(job)
                self._finish(job)
            if not turn.jobs:
                continue
            results: list[Any] = [None] * len(turn.jobs)
            error = None
            try:
                results = turn.work(self.talker)
            except Exception as caught:  # it belongs to the calls that asked, not to this thread
                error = caught
            seconds = (time.perf_counter() - turn.begun) / len(turn.jobs)
            if turn.abandoned:
                return  # somebody else stands here now
            for job, result in zip(turn.jobs, results, strict=True):
                self._finish(job)
                job.done.get_loop().call_soon_threadsafe(self._report, job, seconds, result, error)

    def _finish(self, job: _Job) -> None:
        """Let the call's next job have its turn."""
        with self._changed:
            if job.lease.jobs and job.lease.jobs[0] is job:
                job.lease.jobs.popleft()
                if job.lease.jobs:
                    self._offer(job.lease.jobs[0])

    def _report(self, job: _Job, seconds: float, result: Any, error: Exception | None) -> None:
        self._metrics.stages.labels(job.stage).observe(seconds)
        if error is not None:
            self._metrics.errors.labels(job.stage).inc()
        if job.done.done():
            return  # the call left while this was being computed
        if error is not None:
            job.done.set_exception(error)
        else:
            job.done.set_result(result)
