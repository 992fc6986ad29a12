"""Cores that processes of one machine share out among themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

TAKES = """
import os, sys, threading
from server.pinning import take
waiting = threading.Event()
thread = threading.Thread(target=waiting.wait)
thread.start()
pin = take(float(sys.argv[1]))
seen = {frozenset(os.sched_getaffinity(int(name))) for name in os.listdir("/proc/self/task")}
print(*sorted(pin.cores), len(seen), flush=True)
waiting.set()
sys.stdin.read()
"""


def taken(folder: str, count: float) -> tuple[subprocess.Popen[str], set[int]]:
    """A process that has taken so many cores, and which."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKES, str(count)],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    *cores, sets = map(int, process.stdout.readline().split())
    assert sets == 1, "every thread, those that were there before as well"
    return process, set(cores)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes to cores")
def test_processes_take_cores_of_their_own_and_give_them_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("cores"))
    everything = os.sched_getaffinity(0)
    if len(everything) < 2:
        pytest.skip("one core cannot be shared out")
    one, first = taken(folder, 0.5)
    two, second = taken(folder, 1)
    assert len(first) == len(second) == 1
    assert first != second
    three, rest = taken(folder, len(everything))
    assert rest == everything, "where too few are left they are shared"
    for process in (one, two, three):
        process.communicate()
    four, again = taken(folder, len(everything))
    assert again == everything
    four.communicate()
