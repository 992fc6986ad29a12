"""Where a picture's time went: the moments of its way from sound to the network."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from engines.types import FPS

KEPT = 10 * FPS  # pictures that a call remembers
RECENT = 10.0  # seconds after which it forgets them
UNDER_WAY = 4 * FPS  # ticks that have not been sent yet; older ones never will be


@dataclass(frozen=True, slots=True)
class Trace:
    """One picture's moments in monotonic seconds, in this order; nan until it comes.

    arrival: the first sample of its tick came in, or it was cut where it is made here. cut: the tick was whole.
    feature: the sound it listens ahead to was encoded. sampled: its motion was there. rendered, encoded: so was the
    picture. released: its moment to leave. sent: the last of its packets was handed to the network.
    """

    tick: int
    arrival: float
    cut: float
    feature: float = float("nan")
    sampled: float = float("nan")
    rendered: float = float("nan")
    encoded: float = float("nan")
    released: float = float("nan")
    sent: float = float("nan")


MOMENTS = tuple(field.name for field in fields(Trace))[1:]
STAGES = MOMENTS[1:]  # a stage is named for the moment that ends it


class Traces:
    """The traces of one call, written and read on the event loop.

    `lasted(stage, seconds)` is told every stage of a picture once it is sent.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        lasted: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        self._now, self._lasted = now, lasted
        self._under_way: dict[int, Trace] = {}
        self._sent: deque[Trace] = deque(maxlen=KEPT)
        self._featured = 0  # ticks that have one

    def heard(self, tick: int, arrival: float | None) -> None:
        """A tick was cut; `arrival` of its first sample, None where it is silence and begins no trace."""
        if arrival is not None:
            self._under_way[tick] = Trace(tick, arrival, self._now())
        self._under_way.pop(tick - UNDER_WAY, None)

    def understood(self, below: int) -> None:
        """Every tick below this one has its feature."""
        for tick in range(self._featured, below):
            self.mark(tick, "feature")
        self._featured = max(self._featured, below)

    def mark(self, tick: int, moment: str) -> None:
        """That moment of a tick is now; "sent" is the last one."""
        trace = self._under_way.get(tick)
        if trace is None:
            return
        now: dict[str, Any] = {moment: self._now()}
        trace = replace(trace, **now)
        if moment == "sent":
            del self._under_way[tick]
            moments = [getattr(trace, name) for name in MOMENTS]
            if not any(map(math.isnan, moments)):
                self._sent.append(trace)
                for stage, (begun, ended) in zip(STAGES, pairwise(moments), strict=True):
                    self._lasted(stage, ended - begun)
        else:
            self._under_way[tick] = trace

    def snapshot(self) -> dict[str, dict[str, float]] | None:
        """Milliseconds of every stage and in all ("total"), of the pictures sent lately; None without any."""
        while self._sent and self._now() - self._sent[0].sent > RECENT:
            self._sent.popleft()
        if not self._sent:
            return None
        moments = np.array([[getattr(trace, name) for name in MOMENTS] for trace in self._sent])
        lasted = np.column_stack([np.diff(moments, axis=1), moments[:, -1] - moments[:, 0]])
        return {
            stage: {f"p{point}": round(1000 * float(np.percentile(column, point)), 2) for point in (50, 95, 99)}
            for stage, column in zip((*STAGES, "total"), lasted.T, strict=True)
        }
