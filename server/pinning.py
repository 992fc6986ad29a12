"""Cores of one's own: processes of one machine agree on who runs where, so that what each measures is its own."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import tempfile
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Where the processes of this user mark the cores they took."""
    return Path(tempfile.gettempdir()) / f"kdtalker-cores-{os.getuid()}"


class Pin:
    """The cores that this process runs on. They are free again when `release` is called or the process ends."""

    def __init__(self, cores: frozenset[int], marks: list[IO[bytes]]) -> None:
        self.cores = cores
        self._marks = marks

    def release(self) -> None:
        for mark in self._marks:
            mark.close()


def take(count: float) -> Pin | None:
    """Keep every thread of this process to `count` cores, rounded up, that no other process took.

    Where too few are left it shares; where the system cannot pin (not Linux) None.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    place = folder()
    place.mkdir(mode=0o700, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))
    wanted = min(math.ceil(count), len(allowed))
    marks: dict[int, IO[bytes]] = {}
    for core in allowed:
        mark = (place / str(core)).open("wb")
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            mark.close()
            continue
        marks[core] = mark
        if len(marks) == wanted:
            break
    cores = set(marks)
    if len(cores) < wanted:
        logger.warning("%d of %d cores are shared with other workers of this machine", wanted - len(cores), wanted)
        shared = [core for core in allowed if core not in cores]
        first = os.getpid() % max(1, len(shared))
        cores.update((shared[first:] + shared[:first])[: wanted - len(cores)])
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
    return Pin(frozenset(cores), list(marks.values()))
