"""How live calls go, measured where a caller is: connecting, latency of sound and picture, skew, smoothness, capacity.

    kdtalker bench live [SPEECH] [--sessions N] [--seconds S] [--require fps>=24,added_p50<=200] [--json FILE]
    kdtalker bench live --url http://other.example/offer --offer-format json

Real peers speak to a real server over real sockets: one started here, or any other that answers an SDP offer over HTTP.
Nothing inside the server is asked. What every figure means is in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import barge_in, figures
from benchmarks.babble import babble
from benchmarks.caller import Caller, CallError, Door, Recording, Voice
from benchmarks.launch import Running, server
from benchmarks.levels import FIGURES, Level, levels
from benchmarks.machine import Usage, machine
from benchmarks.probe import Probe
from engines.media import load_speech
from engines.types import PLAYBACK_RATE, KDTalkerError

PATIENCE = 20.0  # seconds that the first sound and the first picture may take
TRACED = 10.0  # seconds that the server's own figures look back
APART = 0.1  # seconds between the beginnings of calls
TRIALS = 5  # interruptions
MOST = 256  # calls that the search for the capacity goes up to
__all__ = ["Running", "live", "machine", "percentiles", "server"]
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does, rung after rung. `pid`: the server's process, where it is on this machine."""

    door: Door
    voice: Voice
    settle: float
    seconds: float
    levels: Sequence[Level]
    probe: Probe
    probed: int
    codecs: tuple[str, ...] = ()
    pid: int | None = None


def live(argv: list[str]) -> int:
    """Hold calls for some seconds and say what came of them; 1 where a service level was missed."""
    options = _parser().parse_args(argv)
    turned = [level for level in levels(options.require) if level.figure.startswith("barge_in")]
    wanted = [level for level in levels(options.require) if level not in turned]
    trials = options.barge_in if options.barge_in is not None else TRIALS if turned or options.url is None else 0
    if turned and not trials:
        raise KDTalkerError(f"{turned[0]} is measured by interruptions; leave --barge-in 0 out.")
    stop = _stopped_by_ctrl_c()
    count = int(np.ceil((options.settle + options.seconds + PATIENCE) * PLAYBACK_RATE))
    sound = babble(count / PLAYBACK_RATE) if options.speech is None else load_speech(options.speech).playback
    voice = Voice.of(np.resize(sound, count))
    result: dict[str, Any] = {
        "tool": "kdtalker bench live",
        "machine": machine(),
        "settings": {name: str(value) for name, value in vars(options).items() if value not in (None, "", [])},
        "rungs": [],
        "capacity": None,
        "barge_in": None,
    }
    with _target(options) as (door, pid):
        probe = Probe(voice, own=options.url is None, film=options.calibration)
        codecs = (options.codec,) if options.codec else ()
        plan = Plan(door, voice, options.settle, options.seconds, wanted, probe, options.probed, codecs, pid)

        def rung(calls: int) -> bool:
            with asyncio.Runner() as runner:
                report = runner.run(hold(plan, calls, stop))
            result["rungs"].append(report)
            show(report)
            if options.json is not None:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(result, indent=1) + "\n")
            return bool(report["met"])

        if options.capacity:
            result["capacity"] = climb(rung, options.sessions, stop)
            console.print(f"capacity: {result['capacity']} calls")
            met = result["capacity"] > 0
        else:
            met = rung(options.sessions)
        if trials and not stop():
            result["barge_in"] = interrupted = _interrupt(door, trials, turned)
            met = met and interrupted["met"]
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"-> {options.json}")
    return 130 if stop() else 0 if met else 1


def _interrupt(door: Door, trials: int, wanted: Sequence[Level]) -> dict[str, Any]:
    """Interrupt an avatar in a call of its own, and say how soon it was silent."""
    console.print(f"{trials} interruptions ...")
    try:
        with asyncio.Runner() as runner:
            found = runner.run(barge_in.measure(door, trials))
    except CallError as error:
        found = {"trials": trials, "failure": str(error)}
        console.print(f"failed: {error}", markup=False)
    judged, out = [level.judge([found]) for level in wanted], Console(width=170)
    for figure, meaning in (("barge_in_ms", "its mouth was closed"), ("barge_in_sound_ms", "it was silent")):
        if (spread := found.get(figure, {})).get("count"):
            points = " / ".join(f"{spread[point]:.0f}" for point in ("p50", "p95"))
            out.print(f"interrupted, {meaning} after {points} ms (p50 / p95 of {spread['count']})")
    show_levels(judged, out)
    return found | {"levels": judged, "met": "failure" not in found and all(level["met"] for level in judged)}


def climb(rung: Callable[[int], bool], first: int, stop: Callable[[], bool]) -> int:
    """The most calls at once that meet every level: doubled until one breaks, then halved in between."""
    good, bad = 0, MOST + 1
    calls = first
    while good + 1 < bad and not stop():
        if rung(calls) and not stop():
            good = calls
        else:
            bad = calls
        calls = 2 * calls if bad > MOST else (good + bad) // 2
        if calls > MOST or calls == 0:
            break
    return good


async def hold(plan: Plan, count: int, stop: Callable[[], bool]) -> dict[str, Any]:
    """Hold `count` calls at once, hang up, and find out what they were like."""
    failures: list[str] = []
    recordings: list[Recording] = []
    asked: list[Any] = []
    usage = Usage(plan.pid)
    console.print(f"{count} calls, {plan.seconds:g} s each ...")
    async with AsyncExitStack() as stack:
        callers: list[Caller] = []
        for _ in range(count):
            try:
                callers.append(await stack.enter_async_context(Caller(plan.door, plan.voice, plan.codecs)))
            except CallError as error:
                failures.append(str(error))
            await asyncio.sleep(APART)
        expected = [(caller, kind) for caller in callers for kind in ("audio", "video")[: 1 + caller.sees]]
        came = await asyncio.gather(*(caller.first(kind, PATIENCE) for caller, kind in expected))
        failures += [f"no {kind} came" for (_, kind), there in zip(expected, came, strict=True) if not there]
        await _pause(plan.settle, stop)
        follow = asyncio.create_task(usage.follow())
        begin = time.monotonic()
        await _pause(plan.seconds, stop)
        end = time.monotonic()
        used = usage.report(max(1, len(callers)))
        follow.cancel()
        with suppress(asyncio.CancelledError):
            await follow
        asked = [await caller.get("stats") for caller in callers]
        recordings = [caller.recording() for caller in callers]
    console.print("hung up; looking at what came")
    calls = []
    for number, recording in enumerate(recordings):
        heard_at = figures.hear(recording, plan.voice)
        seen_at = plan.probe.see(recording) if number < plan.probed else None
        found = figures.call(recording, begin, end) | figures.delays(recording, heard_at, seen_at, begin, end)
        says = asked[number]
        lately = figures.delays(recording, heard_at, seen_at, max(begin, end - TRACED), end)
        stages = says.get("stages_ms") if isinstance(says, dict) else None
        gap = figures.agreement(lately, stages)
        calls.append(found | {"server_says": says, "outside_less_trace_ms": gap})
    judged = [level.judge(calls) for level in plan.levels]
    return {
        "sessions": count,
        "seconds": round(end - begin, 2),
        "failures": failures,
        "calls": calls,
        "calibration": plan.probe.source,
        "usage": used,
        "levels": judged,
        "met": not failures and all(level["met"] for level in judged),
    }


def show(report: dict[str, Any]) -> None:
    """One rung as a table, a call a line."""
    table = Table(
        title=f"{report['sessions']} calls, {report['seconds']} s, mouth calibrated on {report['calibration']}"
    )
    columns = ("connect", "fps", "interval p50/p99", "sound added p50/p95/p99", "picture added p50/p95/p99")
    for heading in (*columns, "skew received, aligned", "freezes", "gaps", "kbit/s"):
        table.add_column(heading, justify="right")
    for call in report["calls"]:
        table.add_row(
            _text(call["connect_ms"].get("picture")),
            _text(call["fps"]),
            _points(call, "interval_ms", "p50", "p99"),
            _points(call, "sound_added_ms", "p50", "p95", "p99"),
            _points(call, "picture_added_ms", "p50", "p95", "p99"),
            f"{_points(call, 'skew_received_ms', 'p50')}, {_points(call, 'skew_aligned_ms', 'p50')}",
            _text(call["freezes"]["count"]),
            _text(call["sound_gaps"]),
            f"{call['video_kbps']:.0f} + {call['audio_kbps']:.0f}",
        )
    out = Console(width=170)
    out.print(table)
    out.print(" ".join(f"{name} {value}" for name, value in report["usage"].items()))
    _show_stages(report["calls"], out)
    for failure in sorted(set(report["failures"])):
        out.print(f"failed: {failure} ({report['failures'].count(failure)} calls)", markup=False)
    show_levels(report["levels"], out)


def show_levels(judged: Sequence[dict[str, Any]], out: Console) -> None:
    for level in judged:
        out.print(f"{'met   ' if level['met'] else 'MISSED'} {level['level']}: worst {_text(level['worst'])}")


def _show_stages(calls: Sequence[dict[str, Any]], out: Console) -> None:
    """Where a picture's time went by the server's own account, of the first call that has one."""
    for call in calls:
        stages = call["server_says"].get("stages_ms") if isinstance(call["server_says"], dict) else None
        if not stages:
            continue
        table = Table(title="The server's own account of a picture, ms from one moment to the next")
        table.add_column("until it was")
        for point in ("p50", "p95", "p99"):
            table.add_column(point, justify="right")
        for stage, spread in stages.items():
            table.add_row(stage, *(f"{value:.1f}" for value in spread.values()))
        out.print(table)
        if gap := call["outside_less_trace_ms"]:
            out.print(f"seen outside less that: {gap['p50']:+.1f} ms (p50), {gap['p95']:+.1f} ms (p95)")
        return


def _points(call: dict[str, Any], figure: str, *names: str) -> str:
    spread = call.get(figure, {})
    return " / ".join(f"{spread[name]:.0f}" for name in names) if spread.get("count") else "-"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


async def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stop() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110  # a signal handler sets no event
        await asyncio.sleep(min(0.1, left))


def _stopped_by_ctrl_c() -> Callable[[], bool]:
    """Whether Ctrl-C was pressed: it ends the rung and keeps what was measured; pressed again, it ends everything."""
    pressed: list[int] = []

    def press(number: int, _: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with suppress(ValueError):  # not the main thread: whoever runs it there stops it there
        signal.signal(signal.SIGINT, press)
    return lambda: bool(pressed)


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[tuple[Door, int | None]]:
    """Where the calls go: the server named, or one that is started here and ended afterwards."""
    if options.url is not None:
        headers = dict(header.split(":", 1) for header in options.header)
        yield Door(options.url, options.offer_format, options.offer_extra, headers), options.pid
        return
    if options.caller_cores:
        os.sched_setaffinity(0, options.caller_cores)
    settings: dict[str, object] = {"workers": len(options.server_cores)} if options.server_cores else {}
    calls = MOST if options.capacity else options.sessions
    with server(calls, cores=options.server_cores, rate_limit=0, **settings) as running:
        yield Door(f"{running.url}/sessions"), running.process.pid


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<20} {meaning}" for name, (_, meaning) in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="kdtalker bench live",
        description=live.__doc__,
        epilog=f"figures for --require (each holds for every call):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("speech", type=Path, nargs="?", help="what the callers say; default: a synthetic voice")
    parser.add_argument("--sessions", type=int, default=1, help="calls at once; default: 1")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each call; default: 20")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before that, not measured; default: 3")
    parser.add_argument("--require", default="", metavar="LEVELS", help="such as fps>=24,added_p50<=200")
    parser.add_argument("--capacity", action="store_true", help="double the calls until a level breaks, then search")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, raw samples too")
    parser.add_argument("--probed", type=int, default=1, help="calls whose mouth is looked at; default: 1")
    parser.add_argument(
        "--barge-in",
        type=int,
        metavar="TRIALS",
        help="times that the avatar is interrupted, in a call after the others; default: 5, 0 with --url",
    )
    parser.add_argument("--codec", choices=["VP8", "H264"], help="the only format of pictures that is offered")
    parser.add_argument("--server-cores", type=_numbers, default=[], help="such as 0,1: the server runs on these alone")
    parser.add_argument("--caller-cores", type=_numbers, default=[], help="such as 2,3: the callers run on these alone")
    other = parser.add_argument_group("another server than one that is started here")
    other.add_argument("--url", help="where it takes offers")
    other.add_argument("--offer-format", choices=["sdp", "json"], default="sdp", help="default: sdp")
    other.add_argument(
        "--offer-extra", type=json.loads, default={}, metavar="JSON", help="members added to a JSON offer"
    )
    other.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with every request")
    other.add_argument("--pid", type=int, help="its process, where it is on this machine, to see what it uses")
    other.add_argument(
        "--calibration", type=Path, metavar="FILM", help="the same words spoken by it, mouth and sound in sync"
    )
    return parser


def percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{point}": round(float(np.percentile(values, point)), 2) for point in (50, 95, 99)} if len(values) else {}


if __name__ == "__main__":
    sys.exit(live(sys.argv[1:]))
