"""The clock of one call: from it alone come ticks, pts and release times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engines.types import TICK_SECONDS

AHEAD = 0.008  # seconds that a picture leaves before its sound


@dataclass(frozen=True, slots=True)
class SessionClock:
    """Tick k begins at `origin + k * 40 ms` and is released `delay` later, both in monotonic seconds.

    The sound of a tick is complete at its `cut`, the beginning of the next one, and released at its `due`. The
    picture is released at `showing`, a little before: sound that comes early is noticed at 45 ms and sound that
    comes late at 125 ms (ITU-R BT.1359), and what is late on a busy machine are pictures. `now` and `sleep` are
    arguments for the sake of tests.
    """

    origin: float
    delay: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def start(self, tick: int) -> float:
        return self.origin + tick * TICK_SECONDS

    def cut(self, tick: int) -> float:
        return self.start(tick + 1)

    def due(self, tick: int) -> float:
        return self.start(tick) + self.delay

    def showing(self, tick: int) -> float:
        return self.due(tick) - AHEAD

    def late(self, tick: int) -> float:
        """Seconds by which `showing(tick)` has passed; negative while it lies ahead."""
        return self.now() - self.showing(tick)

    async def until(self, moment: float) -> None:
        """Return at `moment`, or at once where it has passed, but never without letting others run."""
        await self.sleep(max(0.0, moment - self.now()))
