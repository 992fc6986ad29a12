"""The clock of a call, driven by hand."""

from dataclasses import dataclass, field

import pytest

from server.clock import AHEAD, SessionClock


@dataclass
class Hand:
    """Time that moves only when somebody sleeps."""

    time: float = 100.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def clock(hand: Hand) -> SessionClock:
    return SessionClock(origin=100.0, delay=0.196, now=hand.now, sleep=hand.sleep)


def test_ticks_do_not_accumulate_rounding(clock: SessionClock) -> None:
    assert clock.start(0) == 100.0
    assert clock.start(90_000) == 100.0 + 3600.0
    assert clock.cut(4) == clock.start(5)


def test_due_is_one_fixed_delay_after_the_tick_begins(clock: SessionClock) -> None:
    for tick in (0, 1, 1000):
        assert clock.due(tick) - clock.start(tick) == pytest.approx(0.196)


def test_a_picture_leaves_before_its_sound_and_by_less_than_is_noticed(clock: SessionClock) -> None:
    assert 0 < clock.due(7) - clock.showing(7) < 0.020


async def test_until_sleeps_what_is_left(clock: SessionClock, hand: Hand) -> None:
    await clock.until(clock.showing(0))
    assert hand.slept == [pytest.approx(0.196 - AHEAD)]
    assert clock.late(0) == pytest.approx(0.0)


async def test_a_past_moment_yields_once_and_does_not_wait(clock: SessionClock, hand: Hand) -> None:
    hand.time += 10
    await clock.until(clock.due(3))
    assert hand.slept == [0.0]
    assert clock.late(3) == pytest.approx(10 + AHEAD - 0.196 - 0.12)
