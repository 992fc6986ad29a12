"""Which worker a call goes to, and when workers come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.placement import Bounds, Directory, Fleet, Phase, Scaler, WorkerState, emptiest, fleet, rank


def worker(name: str, places: int, calls: int = 0, phase: Phase = Phase.OPEN) -> WorkerState:
    return WorkerState(name, phase=phase, calls=calls, places=places)


def best(directory: Directory, *but: str) -> str | None:
    found = directory.best(but)
    return found.name if found else None


def test_most_headroom_is_best_then_fewest_calls_then_the_name() -> None:
    assert best(Directory([worker("a", 1), worker("b", 3), worker("c", 2)])) == "b"
    assert best(Directory([worker("a", 2, calls=2), worker("b", 2, calls=1)])) == "b"
    assert best(Directory([worker("b", 2), worker("a", 2)])) == "a"


def test_full_starting_and_draining_workers_are_left_out() -> None:
    closed = [worker("a", 0, calls=4), worker("b", 9, phase=Phase.DRAINING), worker("c", 9, phase=Phase.STARTING)]
    directory = Directory(closed)
    assert best(directory) is None
    directory.put(worker("d", 1))
    assert best(directory) == "d"
    assert best(directory, "d") is None
    assert best(directory) == "d", "leaving one out once forgets nothing"
    directory.drop("d")
    assert best(directory) is None


def test_calls_are_spread_evenly() -> None:
    directory = Directory(worker(name, 4) for name in "abc")
    for _ in range(12):
        chosen = directory.best()
        assert chosen is not None
        directory.put(replace(chosen, calls=chosen.calls + 1, places=chosen.places - 1))
        calls = [each.calls for each in directory]
        assert max(calls) - min(calls) <= 1
    assert directory.best() is None


def test_a_room_has_one_worker() -> None:
    directory = Directory([worker("a", 1), replace(worker("b", 0), rooms=("studio",))])
    found = directory.in_room("studio")
    assert found is not None
    assert found.name == "b"
    assert directory.in_room("elsewhere") is None


STATES = st.builds(
    WorkerState,
    st.sampled_from("abcdefgh"),
    phase=st.sampled_from(Phase),
    calls=st.integers(0, 5),
    places=st.integers(0, 5),
)


@given(st.lists(STATES, max_size=300), st.sets(st.sampled_from("abcdefgh")))
def test_the_heap_finds_what_a_search_finds(said: list[WorkerState], but: set[str]) -> None:
    directory = Directory()
    for state in said:
        directory.put(state)
    last = {state.name: state for state in said}
    able = sorted((state for state in last.values() if state.free and state.name not in but), key=rank)
    assert directory.best(but) == (able[0] if able else None)


@pytest.mark.parametrize(
    ("state", "started"),
    [
        (Fleet(starting=0, open=0, calls=0, free=0), 1),  # the minimum
        (Fleet(starting=1, open=0, calls=0, free=0), 0),  # it is on its way
        (Fleet(starting=0, open=1, calls=3, free=1), 0),
        (Fleet(starting=0, open=1, calls=4, free=0), 1),
        (Fleet(starting=1, open=1, calls=4, free=0), 0),
        (Fleet(starting=0, open=3, calls=12, free=0), 0),  # the maximum
        (Fleet(starting=0, open=2, calls=8, free=0, draining=1), 0),  # which a draining one still takes up
    ],
)
def test_one_is_started_when_no_place_is_left(state: Fleet, started: int) -> None:
    assert Scaler(Bounds(1, 3)).look(0, state) == started


def test_many_are_started_at_once_where_many_places_are_to_be_kept() -> None:
    assert Scaler(Bounds(1, 1000, spare=100)).look(0, Fleet(starting=2, open=100, calls=390, free=10)) == 21


def test_one_goes_after_a_calm_and_never_the_last() -> None:
    scaler = Scaler(Bounds(1, 3, spare=1, calm=60))
    idle, busy = Fleet(starting=0, open=3, calls=1, free=11), Fleet(starting=0, open=3, calls=9, free=3)
    assert [scaler.look(now, idle) for now in (0, 59)] == [0, 0]
    assert scaler.look(59.5, busy) == 0, "the calm begins anew"
    assert [scaler.look(now, idle) for now in (60, 119, 120)] == [0, 0, -2], "all that can be spared at once"
    alone = Fleet(starting=0, open=1, calls=0, free=40)
    assert [scaler.look(now, alone) for now in (200, 300)] == [0, 0]


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 200),
    st.integers(0, 200),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_what_goes_is_not_missed(starting: int, opened: int, calls: int, free: int, minimum: int, spare: int) -> None:
    state = Fleet(starting, opened, calls if opened else 0, free if opened else 0)
    scaler = Scaler(Bounds(minimum, 60, spare, calm=0))
    scaler.look(0, state)
    change = scaler.look(1, state)
    assert starting + opened + change <= max(60, starting + opened)
    if change < 0:
        left = Fleet(0, opened + change, state.calls, state.free + round(change * state.size))
        assert scaler.look(2, left) <= 0


def test_the_emptiest_go_and_draining_ones_do_not_count() -> None:
    workers = [worker("a", 2, calls=2), worker("b", 4), worker("c", 4), worker("d", 4, phase=Phase.DRAINING)]
    assert emptiest(workers, 2) == ["c", "b"]
    assert fleet(workers) == Fleet(starting=0, open=3, calls=2, free=10, draining=1)


def test_bounds_make_sense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bounds(0, 1)
    with pytest.raises(ValueError, match="not below"):
        Bounds(3, 2)
