"""A performance on the clock, for frameworks that take pictures and sound as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from engines.types import TICK_SECONDS
from server.clock import SessionClock
from server.performance import Moment, Performance

BEHIND = 1.0  # seconds; who is later than that goes on from now instead of hurrying after


async def live(performance: Performance) -> AsyncIterator[Moment]:
    """The ticks of a performance, 25 a second, each as soon as it is computed; without a picture where there is no
    time for one. What is pushed, ended or cleared meanwhile is heard from the next tick on.
    """
    loop = asyncio.get_running_loop()
    clock = SessionClock(time.monotonic(), TICK_SECONDS)
    tick = 0
    with ThreadPoolExecutor(1, "performance") as engines:
        while True:
            await clock.until(clock.start(tick))
            if (late := clock.late(tick)) > BEHIND:
                clock = replace(clock, origin=clock.origin + late)
            yield await loop.run_in_executor(engines, partial(performance.next, render=clock.late(tick) < TICK_SECONDS))
            tick += 1
