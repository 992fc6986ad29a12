"""Where a picture's time went: moments of each tick, in order, by stage."""

from __future__ import annotations

import math

from server.trace import MOMENTS, RECENT, STAGES, UNDER_WAY, Traces


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_stages_of_a_picture_add_up_to_its_whole_way() -> None:
    clock = Clock()
    told: list[tuple[str, int]] = []
    traces = Traces(clock, lambda stage, seconds: told.append((stage, round(1000 * seconds))))
    assert traces.snapshot() is None
    for tick in range(3):
        clock.now = 100.05 + 0.04 * tick
        traces.heard(tick, arrival=100 + 0.04 * tick)
    clock.now = 100.15
    traces.understood(below=2)
    for moment in ("sampled", "rendered", "encoded", "released", "sent"):
        clock.now += 0.01
        traces.mark(1, moment)
    stages = traces.snapshot()
    assert stages is not None
    assert list(stages) == [*STAGES, "total"]
    medians = {stage: round(points["p50"]) for stage, points in stages.items()}
    rest = dict.fromkeys(("sampled", "rendered", "encoded", "released", "sent"), 10)
    assert dict(told) == {stage: medians[stage] for stage in STAGES}
    assert medians == {"cut": 50, "feature": 60, **rest, "total": 160}
    assert sum(medians.values()) == 2 * medians["total"]
    clock.now += RECENT + 1
    assert traces.snapshot() is None, "figures of long ago say nothing about now"


def test_what_was_never_sent_or_never_heard_has_no_trace_and_is_forgotten() -> None:
    traces = Traces()
    traces.heard(0, arrival=None)
    for moment in MOMENTS[2:]:
        traces.mark(0, moment)
    assert traces.snapshot() is None, "silence from nowhere has no way through the server"
    for tick in range(10 * UNDER_WAY):
        traces.heard(tick, arrival=1.0)
    assert len(traces._under_way) == UNDER_WAY
    traces.mark(0, "sent")
    assert traces.snapshot() is None


def test_a_moment_that_was_left_out_does_not_spoil_the_others() -> None:
    traces = Traces()
    for tick in range(2):
        traces.heard(tick, arrival=1.0)
        for moment in MOMENTS[2:] if tick else MOMENTS[3:]:
            traces.mark(tick, moment)
    stages = traces.snapshot()
    assert stages is not None
    assert not any(math.isnan(value) for points in stages.values() for value in points.values())
