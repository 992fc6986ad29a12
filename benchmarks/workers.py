"""Threads or processes for the engines: calls paced as in life, on one interpreter and on several."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.live import machine, percentiles
from engines.pipeline import Talk, Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import SPEECH_SAMPLES, TICK_SECONDS, Identity

PORTRAIT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"


def workers(argv: list[str]) -> int:
    """Let calls run for some seconds on threads, then on processes, and print how late their pictures are, as JSON.

    The process that owns the calls wakes every 5 ms meanwhile, as one that sends sound does: how late it wakes
    is what the engines do to the sound.
    """
    parser = argparse.ArgumentParser(prog="kdtalker bench workers", description=workers.__doc__)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(argv)
    count = os.cpu_count() or 1
    report = {
        name: run(options.calls, options.seconds, count)
        for name, run in (("threads", on_threads), ("processes", on_processes))
    }
    print(json.dumps(machine() | {"calls": options.calls, "workers": count} | report, indent=2))
    return 0


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


def on_threads(calls: int, seconds: float, count: int) -> dict[str, Any]:
    cv2.setNumThreads(1)
    talker, identity = engines()
    shares = split(calls, count)
    late: list[list[float]] = [[] for _ in shares]
    begin = time.monotonic() + 2

    def work(number: int) -> None:
        late[number] = perform(talker, identity, shares[number], seconds, begin)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    waking = wake(begin, seconds)
    for thread in threads:
        thread.join()
    return result([value for part in late for value in part], waking)


def on_processes(calls: int, seconds: float, count: int) -> dict[str, Any]:
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
    waking = wake(begin, seconds)
    late = [value for line in lines for value in line.recv()]
    for process in processes:
        process.join()
    return result(late, waking)


def _process(line: Connection, calls: int, seconds: float) -> None:
    cv2.setNumThreads(1)
    talker, identity = engines()
    line.send("ready")
    line.send(perform(talker, identity, calls, seconds, line.recv()))


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


def result(late: list[float], waking: list[float]) -> dict[str, Any]:

    return {
        "pictures": len(late),
        "ready_after_cut_ms": percentiles(1000 * np.array(late)),
        "sound_wakes_late_ms": percentiles(1000 * np.array(waking)),
    }
