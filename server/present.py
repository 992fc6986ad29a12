"""A live performance on the clock, to an outlet that may go away and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial

from server.clock import SessionClock
from server.performance import Moment, Performance
from server.present_outlet import Outlet, OutletError

AHEAD = 0.25  # seconds from a tick's turn to be computed to its release: what a busy machine may lose without a trace
BEHIND = 1.0  # seconds; who is later than that goes on from now instead of hurrying after
SETTLED = 2.0  # seconds; who closes before that does not want the stream at all
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds between attempts to come back


class Publisher:
    """`make` gives an outlet that is not open yet, a new one for each connection.

    An outlet that takes nothing at the beginning, or closes at once, is an error; one that is lost later is tried
    again for `patience` seconds, and meanwhile the performance stands still. `told` hears in words what happens.
    """

    def __init__(
        self, performance: Performance, make: Callable[[], Outlet], patience: float, told: Callable[[str], None]
    ) -> None:
        self.left_out = 0  # pictures, on all connections
        self._performance, self._make, self._patience, self._told = performance, make, patience, told
        self._outlet: Outlet | None = None

    async def run(self, shown: Callable[[Moment], bool]) -> None:
        """Publish until `shown`, which is called for every tick, returns True. Raises OutletError."""
        with ThreadPoolExecutor(1, "performance") as engines:
            try:
                await self._open()
                begun = time.monotonic()
                while (failure := await self._stream(engines, shown)) is not None:
                    if time.monotonic() - begun < SETTLED:
                        raise OutletError(failure)
                    self._told(f"lost: {failure}; trying again")
                    await self._open_again(failure)
                    self._told("back")
                outlet = self._outlet
            finally:
                await asyncio.shield(self._close())
        if outlet is not None and outlet.failure is not None:
            raise OutletError(outlet.failure)

    async def _stream(self, engines: ThreadPoolExecutor, shown: Callable[[Moment], bool]) -> str | None:
        """Ticks on one connection: why it broke, or None where all is shown."""
        outlet = self._outlet
        assert outlet is not None, "open first"
        loop = asyncio.get_running_loop()
        clock = SessionClock(time.monotonic(), AHEAD)
        outlet.begin(clock)
        tick = 0
        while outlet.failure is None:
            await clock.until(clock.start(tick))
            if (late := clock.late(tick)) > BEHIND:
                clock = replace(clock, origin=clock.origin + late)
                outlet.begin(clock)
            moment = await loop.run_in_executor(engines, partial(self._performance.next, render=clock.late(tick) < 0))
            self.left_out += moment.picture is None
            outlet.put(tick, moment.playback, moment.picture)
            tick += 1
            if shown(moment):
                return None
        return outlet.failure

    async def _open(self) -> None:
        self._outlet = self._make()
        await self._outlet.open()

    async def _open_again(self, failure: str) -> None:
        deadline, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            await self._close()
            left = deadline - time.monotonic()
            if left <= 0:
                raise OutletError(f"{failure}, and it did not come back within {self._patience:.0f} s")
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return await self._open()
            except OutletError as error:
                failure = str(error)

    async def _close(self) -> None:
        if self._outlet is not None:
            outlet, self._outlet = self._outlet, None
            self.left_out += outlet.left_out
            with suppress(OutletError):
                await outlet.close()
