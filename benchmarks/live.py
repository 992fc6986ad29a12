"""How live calls go: pictures a second, delay, skew, sound without gaps, and what a call costs the machine.

A real server, started here, and real peers that speak to it over the loopback; measured where a viewer is
and not by the server's own word, except where the line says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.peer import RATE, Peer
from benchmarks.skew import skew
from engines.media import load_speech

SETTLE = 3.0  # seconds of a call that are not measured


def live(argv: list[str]) -> int:
    """Hold calls for some seconds and print what came of them, as JSON."""
    parser = argparse.ArgumentParser(prog="kdtalker bench live", description=live.__doc__)
    parser.add_argument("speech", type=Path, help="what the callers say; repeated where it is too short")
    parser.add_argument("--calls", type=int, default=1, help="calls at once; default: 1")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each call; default: 10")
    options = parser.parse_args(argv)
    speech = load_speech(options.speech).playback
    sound = np.resize(speech, round((options.seconds + SETTLE + 5) * RATE))
    with server(options.calls) as running:
        report = asyncio.run(measure(running, options.calls, options.seconds, sound))
    print(json.dumps(machine() | report, indent=2))
    return 0


@dataclass(frozen=True, slots=True)
class Running:
    """A server under measurement."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def server(calls: int, command: Sequence[str] = ("-m", "kdtalker", "serve"), **settings: object) -> Iterator[Running]:
    """A server for so many calls, up and warm, that sheds no load unless `settings` say so.

    `command`: what the interpreter runs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"load_shedding": False, "host": "127.0.0.1", "log_level": "error"} | settings
    settings |= {"port": port, "max_sessions": calls}
    environment = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
    environment |= {f"KDTALKER_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, *command], env=environment)
    running = Running(f"http://127.0.0.1:{port}", process)
    try:
        while process.poll() is None:
            try:
                if httpx.get(f"{running.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait()


async def measure(running: Running, calls: int, seconds: float, sound: np.ndarray) -> dict[str, Any]:
    pid = running.process.pid
    peers = [Peer(running.url, sound, every=1_000_000) for _ in range(calls)]
    for peer in peers:
        await peer.__aenter__()
    try:
        await asyncio.gather(*(peer.pictures(1, within=60) for peer in peers))
        await asyncio.sleep(SETTLE)
        begin, spent = time.monotonic(), cpu_seconds(pid)
        await asyncio.sleep(seconds)
        end, spent = time.monotonic(), cpu_seconds(pid) - spent
        return {
            "calls": calls,
            "seconds": seconds,
            "server_cores_per_call": round(spent / (end - begin) / calls, 3),
            "each": [await figures(peer, begin, end) for peer in peers],
        }
    finally:
        for peer in peers:
            await peer.__aexit__(None, None, None)


async def figures(peer: Peer, begin: float, end: float) -> dict[str, Any]:
    """One call between two moments."""
    seen = [moment for moment in peer.received.moments if begin <= moment < end]
    sound = [stamp for moment, stamp in peer.received.timestamps["audio"] if begin <= moment < end]
    own = await peer.stats()
    return {
        "pictures_decoded_per_second": round(len(seen) / (end - begin), 2),
        "picture_interval_ms": percentiles(1000 * np.diff(seen)),
        "sound_gaps": sum(b - a != 960 for a, b in pairwise(sound)),
        "picture_behind_sound_ms": skew(peer.received),
        "server_says": {
            name: own[name] for name in ("added_latency_ms", "lateness_ms", "skew_ms", "drops", "microphone")
        },
    }


def percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{point}": round(float(np.percentile(values, point)), 2) for point in (50, 95, 99)} if len(values) else {}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("aiortc", "av", "onnxruntime", "numpy")},
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    sys.exit(live(sys.argv[1:]))
