"""Which worker a call goes to, and how many workers there should be.

Nothing here waits, asks or keeps time: records in, decisions out. The cluster and the simulation of it
(`benchmarks/fleet.py`) decide by this same code.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a worker is at. Only an open one is given calls."""

    STARTING = "starting"  # until its engines are warm; one that is being restarted too
    OPEN = "open"
    DRAINING = "draining"  # its calls go on, and it leaves with the last of them


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as it last described itself.

    `url`: of its private port, "" until there is one. `places`: calls that it could take beside its `calls`.
    `rooms`: names of the rooms of its calls that their publishers chose.
    """

    name: str
    node: str = ""
    url: str = ""
    phase: Phase = Phase.STARTING
    calls: int = 0
    places: int = 0
    rooms: tuple[str, ...] = ()

    @property
    def free(self) -> int:
        """Calls that may be sent here."""
        return self.places if self.phase is Phase.OPEN else 0


Rank = tuple[int, int, str]


def rank(worker: WorkerState) -> Rank:
    """Sorts workers: most free places first, then fewest calls, then by name."""
    return -worker.free, worker.calls, worker.name


class Directory:
    """Workers by name and by headroom: `best` and `put` take logarithmic time, for fleets of thousands."""

    def __init__(self, workers: Iterable[WorkerState] = ()) -> None:
        self._workers: dict[str, WorkerState] = {}
        self._ranks: list[Rank] = []  # a heap; entries that are out of date are passed over
        for worker in workers:
            self.put(worker)

    def __iter__(self) -> Iterator[WorkerState]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def find(self, name: str) -> WorkerState | None:
        return self._workers.get(name)

    def in_room(self, room: str) -> WorkerState | None:
        """The worker of the call that is in this room."""
        return next((worker for worker in self._workers.values() if room in worker.rooms), None)

    def put(self, worker: WorkerState) -> None:
        """Add a worker, or what is now known about it."""
        if self._workers.get(worker.name) == worker:
            return
        self._workers[worker.name] = worker
        if worker.free:
            heapq.heappush(self._ranks, rank(worker))
        if len(self._ranks) > 4 * len(self._workers) + 64:
            self._ranks = [rank(each) for each in self._workers.values() if each.free]
            heapq.heapify(self._ranks)

    def drop(self, name: str) -> None:
        self._workers.pop(name, None)

    def best(self, but: Collection[str] = ()) -> WorkerState | None:
        """The open worker with most headroom, those named in `but` left out; None where all are full."""
        aside: list[Rank] = []
        found = None
        while self._ranks and found is None:
            first = self._ranks[0]
            worker = self._workers.get(first[2])
            if worker is None or not worker.free or rank(worker) != first:
                heapq.heappop(self._ranks)
            elif worker.name in but:
                aside.append(heapq.heappop(self._ranks))
            else:
                found = worker
        for entry in aside:
            heapq.heappush(self._ranks, entry)
        return found


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many workers there may be, and how many free places are kept ready for whoever comes next.

    `calm`: seconds for which there must have been too many workers before the first of them goes.
    """

    minimum: int = 1
    maximum: int = 1
    spare: int = 1
    calm: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError("a cluster has at least one worker, and its maximum is not below its minimum")


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers in numbers: how many start, are open and drain; of the open ones their calls and free places."""

    starting: int
    open: int
    calls: int
    free: int
    draining: int = 0

    @property
    def size(self) -> float:
        """Calls that one worker carries, as far as that is known; at least 1."""
        return max(1.0, (self.calls + self.free) / self.open) if self.open else 1.0


def fleet(workers: Iterable[WorkerState]) -> Fleet:
    starting = opened = calls = free = draining = 0
    for worker in workers:
        if worker.phase is Phase.STARTING:
            starting += 1
        elif worker.phase is Phase.OPEN:
            opened, calls, free = opened + 1, calls + worker.calls, free + worker.free
        else:
            draining += 1
    return Fleet(starting, opened, calls, free, draining)


def missing(now: Fleet, bounds: Bounds) -> int:
    """Workers that should be started; those that drain still need their cores, and count for the maximum."""
    staying = now.starting + now.open
    ready = now.free + now.starting * now.size
    wanted = math.ceil((bounds.spare - ready) / now.size) if ready < bounds.spare else 0
    wanted = max(wanted, bounds.minimum - staying)
    return max(0, min(wanted, bounds.maximum - staying - now.draining))


def surplus(now: Fleet, bounds: Bounds) -> int:
    """Workers that could be spared: without them the spare places, and half a worker's more, would still be free."""
    if now.starting:
        return 0
    kept = bounds.spare + now.size / 2
    return max(0, min(math.floor((now.free - kept) / now.size), now.open - bounds.minimum))


def emptiest(workers: Iterable[WorkerState], count: int) -> list[str]:
    """Names of the `count` open workers that would end the fewest calls by leaving; the one named last goes first."""
    opened = [worker for worker in workers if worker.phase is Phase.OPEN]
    return [each.name for each in sorted(sorted(opened, key=lambda each: each.name, reverse=True), key=_calls)[:count]]


def _calls(worker: WorkerState) -> int:
    return worker.calls


class Scaler:
    """How many workers to start or to drain; remembers only since when there have been too many."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._since: float | None = None

    def look(self, now: float, state: Fleet) -> int:
        """Workers to start, or below zero to drain, at `now` seconds."""
        if wanted := missing(state, self._bounds):
            self._since = None
            return wanted
        spared = surplus(state, self._bounds)
        if not spared:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._bounds.calm:
            self._since = None
            return -spared
        return 0
