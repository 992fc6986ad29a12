"""Threads or processes for the engines: calls paced as in life, on one interpreter and on several."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.live import machine, percentiles
from engines.pipeline import Talk, Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import SPEECH_SAMPLES, TICK_SECONDS, Identity

Outcome = dict[str, Any]
MARGIN = 0.2  # by which processes have to be better at p95 to be worth an interpreter and engines for every core
PORTRAIT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"


def workers(argv: list[str]) -> int:
    """Let calls run for some seconds on threads and on processes, by turns; print how late their pictures are, as a
    table that decides between the two and as JSON.

    The process that owns the calls wakes every 5 ms meanwhile, as one that sends sound does: how late it wakes
    is what the engines do to the sound.
    """
    parser = argparse.ArgumentParser(prog="kdtalker bench workers", description=workers.__doc__)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; default: 3")
    options = parser.parse_args(argv)
    count = os.cpu_count() or 1
    ways = {"threads": on_threads, "processes": on_processes}
    rounds = [{name: run(options.calls, options.seconds, count) for name, run in ways.items()}
              for _ in range(options.rounds)]  # fmt: skip
    Console().print(table(rounds))
    print(verdict(rounds))
    print(json.dumps(machine() | {"calls": options.calls, "workers": count, "rounds": rounds}, indent=2))
    return 0


COLUMNS = ("pictures", "ready after the cut, ms", "sound wakes late, ms", "of a core a call", "memory, MB")


def table(rounds: Sequence[Mapping[str, Outcome]]) -> Table:
    """Every round's figures; times as p50 / p95 / p99."""
    shown = Table("round", *COLUMNS)
    for number, each in enumerate(rounds, 1):
        for name, outcome in each.items():
            shown.add_row(f"{number} {name}", *cells(outcome))
    return shown


def cells(outcome: Outcome) -> tuple[str, ...]:
    def three(values: Mapping[str, float]) -> str:
        return " / ".join(f"{value:.1f}" for value in values.values())

    return (
        str(outcome["pictures"]),
        three(outcome["ready_after_cut_ms"]),
        three(outcome["sound_wakes_late_ms"]),
        f"{outcome['cores_a_call']:.2f}",
        f"{outcome['memory_mb']:.0f}",
    )


def verdict(rounds: Sequence[Mapping[str, Outcome]]) -> str:
    """Processes are worth their memory where they are better by `MARGIN` in every round, in pictures or in sound."""
    better = [
        what
        for what in ("ready_after_cut_ms", "sound_wakes_late_ms")
        if all(each["processes"][what]["p95"] < (1 - MARGIN) * each["threads"][what]["p95"] for each in rounds)
    ]
    if not better:
        return f"threads: processes are not {MARGIN:.0%} better at p95 in every round, neither in pictures nor in sound"
    return f"processes: {MARGIN:.0%} better or more at p95 in every round, in {' and in '.join(better)}"


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def perform(talker: Talker, identity: Identity, calls: int, seconds: float, begin: float) -> list[float]:
    """Tick by tick, what each of `calls` needs; returns how late every picture was ready, after its tick's cut."""
    talks: list[Talk] = [talker.begin(identity, seed) for seed in range(calls)]
    noise = 0.1 * np.random.default_rng(0).standard_normal(SPEECH_SAMPLES).astype(np.float32)
    late: list[float] = []
    for tick in range(round(seconds / TICK_SECONDS)):
        cut = begin + tick * TICK_SECONDS
        time.sleep(max(0.0, cut - time.monotonic()))
        for talk in talks:
            for motion in talker.listen(talk, noise):
                talker.render([identity], motion.motion[None])
                late.append(time.monotonic() - cut)
    return late


def on_threads(calls: int, seconds: float, count: int) -> Outcome:
    cv2.setNumThreads(1)
    talker, identity = engines()
    shares = split(calls, count)
    late: list[list[float]] = [[] for _ in shares]
    begin = time.monotonic() + 2

    def work(number: int) -> None:
        late[number] = perform(talker, identity, shares[number], seconds, begin)

    used = time.process_time()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    waking = wake(begin, seconds)
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    return result([value for part in late for value in part], waking, used / seconds / calls, resident())


def on_processes(calls: int, seconds: float, count: int) -> Outcome:
    context = multiprocessing.get_context("spawn")
    lines, processes = [], []
    for share in split(calls, count):
        line, other = context.Pipe()
        processes.append(context.Process(target=_process, args=(other, share, seconds), daemon=True))
        processes[-1].start()
        lines.append(line)
    for line in lines:
        line.recv()
    begin = time.monotonic() + 2
    for line in lines:
        line.send(begin)
    used = time.process_time()
    waking = wake(begin, seconds)
    used = time.process_time() - used
    memory, late = resident(), list[float]()
    for line in lines:
        own, theirs, size = line.recv()
        late, used, memory = late + own, used + theirs, memory + size
    for process in processes:
        process.join()
    return result(late, waking, used / seconds / calls, memory)


def _process(line: Connection, calls: int, seconds: float) -> None:
    cv2.setNumThreads(1)
    talker, identity = engines()
    line.send("ready")
    begin, used = line.recv(), time.process_time()
    late = perform(talker, identity, calls, seconds, begin)
    line.send((late, time.process_time() - used, resident()))


def engines() -> tuple[Talker, Identity]:
    talker = open_talker()
    talker.warm()
    return talker, talker.renderer.enrol(prepare(PORTRAIT.read_bytes()))


def split(calls: int, count: int) -> list[int]:
    return [calls // count + (number < calls % count) for number in range(count)]


def wake(begin: float, seconds: float) -> list[float]:
    """How late this thread wakes, asked for every 5 ms."""
    late, moment = [], begin
    while moment < begin + seconds:
        time.sleep(max(0.0, moment - time.monotonic()))
        late.append(time.monotonic() - moment)
        moment = max(moment + 0.005, time.monotonic())
    return late


def result(late: list[float], waking: list[float], cores: float, memory: float) -> Outcome:
    return {
        "pictures": len(late),
        "cores_a_call": round(cores, 3),
        "memory_mb": round(memory),
        "ready_after_cut_ms": percentiles(1000 * np.array(late)),
        "sound_wakes_late_ms": percentiles(1000 * np.array(waking)),
    }
