"""How many workers does it take? Calls come as they do on real days, and `server.placement` decides where they go.

Arrivals are a Poisson process whose rate changes with the hour, lengths of calls are log-normal: both as a telephone
centre saw them (Brown et al., Statistical Analysis of a Telephone Call Center, JASA 100, 2005). Its day has two
peaks, and bursts where they are asked for; their shapes and sizes are assumptions, written below. Ingresses know of
the workers what the last look told them, as in a cluster. What a call costs and how long a worker takes to start are
measured: `--live FILE` takes a run of `kdtalker bench live`. A refused caller does not come back.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from server.ingress import TRIES
from server.load import fitting
from server.placement import Bounds, Directory, Fleet, Phase, Scaler, WorkerState, emptiest
from server.roster import LOOK

HOUR = 3600.0
CORES_A_CALL = 0.52  # one call at 512 pixels on a machine with busy neighbours (docs/server.md)
START = 8.4  # seconds until a worker is open; docs/cluster.md saw 5 to 11
# Of a day, the rate at every full hour by the rate at its peak: little at night, most before noon and in the afternoon.
DAY = (0.18, 0.10, 0.06, 0.04, 0.04, 0.07, 0.16, 0.33, 0.58, 0.82, 0.97, 1.0)
DAY = (*DAY, 0.92, 0.88, 0.90, 0.93, 0.92, 0.85, 0.80, 0.84, 0.86, 0.74, 0.52, 0.32)
BURSTS, BURST_SECONDS, BURST_RATE = 6, 600.0, 2.0  # a day; how long; by how much the rate grows


@dataclass(frozen=True, slots=True)
class Service:
    """What was measured: cores a call, seconds that a worker takes to start. And what a worker is: `cores`."""

    cores_a_call: float = CORES_A_CALL
    start: float = START
    cores: float = 4.0

    @property
    def places(self) -> int:
        return fitting(self.cores, self.cores_a_call)


@dataclass(frozen=True, slots=True)
class Demand:
    """Callers. `load`: at the peak, mean calls by places of the whole fleet; `talk`: mean seconds of a call, whose
    logarithm spreads by `spread`.
    """

    pattern: str
    load: float
    talk: float = 360.0
    spread: float = 1.0
    hours: float = 24.0
    begin: float = 0.0  # hour of the day


@dataclass(frozen=True, slots=True)
class Outcome:
    """`utilisation`: of the places that were paid for, how many had a call, on average. `hour`: worker hours for an
    hour of conversation.
    """

    workers: int
    pattern: str
    elastic: bool
    calls: int
    refused: float
    utilisation: float
    workers_mean: float
    workers_most: int
    hour: float
    offers: float  # workers asked for each call that was taken


def shape(demand: Demand, bursts: list[float], seconds: float) -> float:
    """The rate of arrivals at a time of the simulation, by its peak."""
    if demand.pattern == "steady":
        return 1.0
    hour = (demand.begin + seconds / HOUR) % 24
    before = int(hour)
    rate = DAY[before] + (hour - before) * (DAY[(before + 1) % 24] - DAY[before])
    if demand.pattern == "bursts" and any(0 <= seconds - burst < BURST_SECONDS for burst in bursts):
        rate *= BURST_RATE
    return rate


def arrivals(demand: Demand, rate: float, chance: random.Random) -> Iterator[float]:
    """Seconds of every arrival, by thinning (Lewis and Shedler 1979); `rate`: a second, at the peak."""
    end = demand.hours * HOUR
    bursts = [chance.uniform(0, end) for _ in range(round(BURSTS * demand.hours / 24))]
    most = rate * (BURST_RATE if demand.pattern == "bursts" else 1.0)
    now = 0.0
    while (now := now + chance.expovariate(most)) < end:
        if chance.random() * most < rate * shape(demand, bursts, now):
            yield now


class Simulation:
    """One fleet on one day. Times are seconds of the day; nothing here runs in real time."""

    def __init__(
        self, demand: Demand, service: Service, bounds: Bounds, ingresses: int = 2, seed: int = 0, look: float = LOOK
    ) -> None:
        self._demand, self._service, self._bounds, self._look = demand, service, bounds, look
        self._chance = random.Random(seed)
        self._scaler = Scaler(bounds)
        self._workers: dict[str, WorkerState] = {}
        self._ingresses = [Directory() for _ in range(ingresses)]
        self._changed: list[set[str]] = [set() for _ in range(ingresses)]  # since the last look of each
        self._starting = self._open = self._calls = self._open_calls = self._open_free = 0
        self._events: list[tuple[float, int, str, str]] = []
        self._order, self._names = count(), count()
        self._paid = self._talked = self._since = 0.0
        self._most = self._taken = self._refused = self._offers = 0

    def run(self) -> Outcome:
        for _ in range(self._bounds.minimum):
            self._start(0.0, 0.0)
        self._at(0.0, "look")
        places = self._bounds.maximum * self._service.places
        rate = self._demand.load * places / self._demand.talk
        end = self._demand.hours * HOUR
        while self._events and self._events[0][0] <= 0.0 and self._events[0][2] == "open":
            self._happen(*heapq.heappop(self._events))
        for arrival in arrivals(self._demand, rate, self._chance):
            while self._events and self._events[0][0] <= arrival:
                self._happen(*heapq.heappop(self._events))
            self._spend(arrival)
            self._call(arrival)
        while self._events and self._events[0][0] <= end:
            self._happen(*heapq.heappop(self._events))
        self._spend(end)
        asked = self._taken + self._refused
        return Outcome(
            self._bounds.maximum,
            self._demand.pattern,
            self._bounds.minimum < self._bounds.maximum,
            asked,
            self._refused / max(1, asked),
            self._talked / max(1.0, self._paid * self._service.places),
            self._paid / end,
            self._most,
            self._paid / max(1.0, self._talked),
            self._offers / max(1, self._taken),
        )

    def _call(self, now: float) -> None:
        """An ingress offers the call to workers, best first by what it knows, as `server.ingress` does."""
        number = self._chance.randrange(len(self._ingresses))
        directory = self._ingresses[number]
        tried: set[str] = set()
        for _ in range(TRIES):
            known = directory.best(tried)
            if known is None:
                break
            tried.add(known.name)
            self._offers += 1
            worker = self._workers.get(known.name)
            if worker is None or not worker.free:
                directory.put(replace(known, places=0))
                continue
            self._become(replace(worker, calls=worker.calls + 1, places=worker.places - 1))
            directory.put(replace(known, calls=known.calls + 1, places=max(0, known.places - 1)))
            self._taken += 1
            mu = math.log(self._demand.talk) - self._demand.spread**2 / 2
            self._at(now + self._chance.lognormvariate(mu, self._demand.spread), "end", worker.name)
            return
        self._refused += 1

    def _happen(self, now: float, _: int, kind: str, name: str) -> None:
        self._spend(now)
        if kind == "look":
            self._see(now)
            self._at(now + self._look, "look")
            return
        worker = self._workers[name]
        if kind == "open":
            self._become(replace(worker, phase=Phase.OPEN, places=self._service.places))
        elif worker.phase is Phase.DRAINING and worker.calls == 1:
            self._become(worker, leaves=True)
        else:
            self._become(replace(worker, calls=worker.calls - 1, places=worker.places + 1))

    def _see(self, now: float) -> None:
        """The controller decides; ingresses hear what changed."""
        change = self._scaler.look(now, self._fleet())
        for _ in range(change):
            self._start(now, self._service.start)
        for name in emptiest(self._workers.values(), -change) if change < 0 else ():
            worker = self._workers[name]
            self._become(replace(worker, phase=Phase.DRAINING), leaves=not worker.calls)
        for directory, changed in zip(self._ingresses, self._changed, strict=True):
            for name in changed:
                if name in self._workers:
                    directory.put(self._workers[name])
                else:
                    directory.drop(name)
            changed.clear()

    def _fleet(self) -> Fleet:
        draining = len(self._workers) - self._starting - self._open
        return Fleet(self._starting, self._open, self._open_calls, self._open_free, draining)

    def _start(self, now: float, wait: float) -> None:
        name = f"{next(self._names):08x}"
        self._become(WorkerState(name))
        self._at(now + wait, "open", name)

    def _become(self, state: WorkerState, leaves: bool = False) -> None:
        """A worker is otherwise than before: count it anew."""
        before = self._workers.get(state.name)
        for worker, sign in ((before, -1), (None if leaves else state, 1)):
            if worker is not None:
                self._calls += sign * worker.calls
                self._starting += sign * (worker.phase is Phase.STARTING)
                if worker.phase is Phase.OPEN:
                    self._open += sign
                    self._open_calls += sign * worker.calls
                    self._open_free += sign * worker.free
        if leaves:
            del self._workers[state.name]
        else:
            self._workers[state.name] = state
        self._most = max(self._most, len(self._workers))
        for changed in self._changed:
            changed.add(state.name)

    def _spend(self, now: float) -> None:
        """Workers are paid for from their start to their leaving."""
        self._paid += (now - self._since) * len(self._workers)
        self._talked += (now - self._since) * self._calls
        self._since = now

    def _at(self, when: float, kind: str, name: str = "") -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, name))
