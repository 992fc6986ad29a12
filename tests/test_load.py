"""What is given up, in which order, when the machine falls behind, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, Peer, RefusedError
from server.load import PATIENCE, STEPS, Governor, cores, has_picture
from server.metrics import Metrics
from tests.conftest import start_server, stop_server
from tests.test_server import assert_problem

pytestmark = pytest.mark.timeout(180)


class Day:
    """Seconds of a governor's life, one look each."""

    def __init__(self, cores: float = 2) -> None:
        self.metrics = Metrics()
        self.governor = Governor(self.metrics, cores)
        self.second = 0

    def look(self, count: int, missed: int, used: float = 0.5, calls: int = 1) -> list[str]:
        """So many seconds, each with `missed` of 25 pictures; the effort after each of them."""
        efforts = []
        for _ in range(count):
            self.second += 1
            self.governor.look(self.second, 1, calls, 25 - missed, missed, used)
            efforts.append(self.governor.effort.name)
        return efforts


def test_the_steps_go_from_newcomers_to_denoising_to_size_to_rate() -> None:
    assert [step.open for step in STEPS] == [True, False, False, False, False, False]
    assert [step.brief for step in STEPS] == [False, False, True, True, True, True]
    assert [step.pixels for step in STEPS] == [512, 512, 512, 384, 256, 256]
    assert [step.rate for step in STEPS] == [25, 25, 25, 25, 25, 20]
    day = Day()
    taken = [name for name in dict.fromkeys(day.look(20, missed=5)) if name != "full"]
    assert taken == [step.name for step in STEPS[1:]]
    assert day.governor.effort is STEPS[-1]


def test_one_bad_second_changes_nothing() -> None:
    day = Day()
    for _ in range(10):
        assert set(day.look(1, missed=10) + day.look(5, missed=0)) == {"full"}


def test_pictures_that_do_not_come_at_all_are_missed_too() -> None:
    day = Day()
    for _ in range(3):
        day.governor.look(1, 1, 1, shown=0, missed=0, used=0)
    assert day.governor.effort is not STEPS[0]
    idle = Day()
    for _ in range(3):
        idle.governor.look(1, 1, 0, shown=0, missed=0, used=0)
    assert idle.governor.effort is STEPS[0], "without calls nothing is expected"


def test_calm_gives_back_a_step_at_a_time() -> None:
    day = Day()
    day.look(20, missed=5)
    calm = list(dict.fromkeys(day.look(100, missed=0)))
    assert calm == [step.name for step in reversed(STEPS)]
    moved = {sample.labels["event"] for metric in day.metrics.registry.collect() for sample in metric.samples
             if sample.name == "kdtalker_events_total"}  # fmt: skip
    assert moved == {f"effort: {step.name}" for step in STEPS}


def test_a_busy_machine_is_not_calm() -> None:
    day = Day()
    day.look(4, missed=5)
    down = day.governor.effort
    day.look(100, missed=0, used=1.9)
    assert day.governor.effort is down


def test_a_step_up_that_was_too_soon_is_tried_later() -> None:
    day = Day()
    day.look(2, missed=5)
    waits = []
    for _ in range(3):
        begun = day.second
        while day.governor.effort is not STEPS[0]:
            day.look(1, missed=0)
        waits.append(day.second - begun)
        day.look(2, missed=5)
    assert waits[0] >= PATIENCE
    assert waits == sorted(waits)
    assert waits[2] >= 2 * waits[1] - 2


def test_room_is_what_calls_are_measured_to_cost() -> None:
    day = Day(cores=2)
    assert day.governor.places(0) == 3
    day.look(50, missed=0, used=0.5, calls=1)
    assert day.governor.places(2) == 1
    assert day.governor.places(3) == 0
    day.look(50, missed=0, used=0.8, calls=1)
    assert day.governor.places(1) == 1
    assert day.governor.places(2) == 0
    day.look(50, missed=0, used=2, calls=1)
    assert day.governor.places(0) == 1, "one call is always tried"


def test_what_others_measured_holds_until_a_call_is_measured_here() -> None:
    day = Day(cores=4)
    assert day.governor.cost is None
    day.governor.expect(1.2)
    assert day.governor.places(0) == 3
    assert day.governor.cost is None, "what was heard is not handed on"
    day.look(50, missed=0, used=0.5, calls=1)
    day.governor.expect(1.2)
    assert day.governor.cost == pytest.approx(0.5, abs=0.01)
    assert day.governor.places(0) == 7


@pytest.mark.parametrize("rate", range(1, 26))
def test_a_rate_is_so_many_ticks_of_every_second_evenly(rate: int) -> None:
    ticks = [tick for tick in range(1000, 1100) if has_picture(tick, rate)]
    assert len(ticks) == 4 * rate
    apart = {later - earlier for earlier, later in pairwise(ticks)}
    assert max(apart) - min(apart) <= 1


def test_no_effort_is_more_than_the_rate_that_was_set() -> None:
    governor = Governor(Metrics(), 2, rate=10)
    rates = []
    for second in range(30):
        rates.append(governor.effort.rate)
        governor.look(second, 1, 1, shown=1, missed=9, used=1)
    assert set(rates) == {10}
    assert governor.effort.pixels == 256, "and every step was taken"


def test_a_machine_has_cores() -> None:
    assert 0 < cores() <= (os.cpu_count() or 1)


@contextmanager
def squeezed(pid: int, rivals: int) -> Iterator[None]:
    """One CPU for a process and for so many others that always want it."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(rivals)]
    try:
        for each in busy:
            os.sched_setaffinity(each.pid, {0})
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {0})
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot tie processes to a CPU")
async def test_a_server_that_falls_behind_refuses_newcomers_and_sends_smaller_pictures(tmp_path: Path) -> None:
    own = start_server(tmp_path, load_shedding=True, max_sessions=4)
    try:
        async with Peer(own.url, np.zeros(RATE, np.int16)) as peer, httpx.AsyncClient(base_url=own.url) as client:
            await peer.pictures(3, within=30)
            with squeezed(own.process.pid, rivals=3):
                async with asyncio.timeout(90):
                    while own.metric("kdtalker_effort") < 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.5)
                with pytest.raises(RefusedError) as refused:
                    async with Peer(own.url):
                        pass
                assert_problem(refused.value.answer, 503, "no room")
                assert refused.value.answer.json()["reason"] == "busy"
                assert int(refused.value.answer.headers["retry-after"]) > 0
                assert_problem(await client.get("/readyz"), 503, "no room")
            await peer.pictures(10, within=60)
            assert peer.received.pictures[-1][1].shape[0] in (256, 384)
            assert (await peer.stats())["effort"] in [step.name for step in STEPS[1:]]
            assert own.metric('kdtalker_events_total{event="effort: no newcomers"}') >= 1
    finally:
        stop_server(own)
