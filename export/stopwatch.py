"""How long something took, by the clock and by the processors."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds since it was made: elapsed, and of all processors together, which other programs do not lengthen."""

    def __init__(self) -> None:
        self._elapsed, self._busy = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._elapsed, time.process_time() - self._busy
