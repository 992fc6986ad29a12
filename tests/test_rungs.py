"""Which size of picture a viewer gets, by what its receiver reports."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.rungs import LONGEST_PATIENCE, PATIENCE, PAUSE, SIZES, Choice, rate, sizes

RATES = [rate(1_200_000, pixels) for pixels in SIZES]


class Line:
    """Seconds of a viewer's life, one look each; it is sent what its rung has, or half of it for an easy picture."""

    def __init__(self) -> None:
        self.choice = Choice(RATES, 0)
        self.second = 0

    def look(self, seconds: int, lost: float = 0.0, room: float | None = None, easy: bool = False) -> list[int]:
        """The rung after each second on a line that loses so much, and has `room` for so many bits a second."""
        rungs = []
        for _ in range(seconds):
            self.second += 1
            sent = RATES[self.choice.rung] * (0.5 if easy else 1.0)
            carried = None if room is None else min(room, 1.5 * sent)
            rungs.append(self.choice.look(self.second, lost, carried, sent))
        return rungs

    def changes(self, rungs: list[int], before: int = 0) -> list[int]:
        """The seconds, from 1, in which the rung changed."""
        return [number + 1 for number, (a, b) in enumerate(pairwise([before, *rungs])) if a != b]


def test_rates_go_with_the_area() -> None:
    assert RATES == [1_200_000, 675_000, 300_000]
    assert rate(600_000, 256, 256) == 600_000
    assert [sizes(largest) for largest in (512, 384, 256)] == [(512, 384, 256), (384, 256), (256,)]


@pytest.mark.parametrize("room", [None, 5e6])
def test_a_good_line_keeps_the_best(room: float | None) -> None:
    assert set(Line().look(100, room=room)) == {0}


def test_an_easy_picture_is_no_poor_line() -> None:
    assert set(Line().look(100, room=5e6, easy=True)) == {0}, "the estimate stays below the rung's own rate"


def test_a_lossy_line_goes_down_a_step_at_a_time() -> None:
    line = Line()
    rungs = line.look(30, lost=0.2)
    assert rungs[-1] == len(SIZES) - 1
    first, second = line.changes(rungs)
    assert first >= PAUSE
    assert second - first >= PAUSE


def test_a_narrow_line_goes_straight_to_what_fits() -> None:
    assert set(Line().look(12, room=400_000)) == {0, 2}


def test_a_little_loss_changes_nothing() -> None:
    assert set(Line().look(100, lost=0.05)) == {0}


def test_a_line_that_got_better_goes_up_again_and_not_at_once() -> None:
    line = Line()
    assert line.look(30, lost=0.2)[-1] == 2
    rungs = line.look(100, room=5e6)
    assert rungs[-1] == 0
    first, second = line.changes(rungs, 2)
    assert first >= PATIENCE
    assert second - first >= PATIENCE


def test_what_did_not_work_is_tried_less_and_less_often() -> None:
    line = Line()
    rungs = line.look(2000, room=500_000)
    tried = [second for second, (a, b) in enumerate(pairwise(rungs)) if b < a]
    pauses = [b - a for a, b in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= LONGEST_PATIENCE
    assert all(b - a >= PAUSE for a, b in pairwise(line.changes(rungs)))
