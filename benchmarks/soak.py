"""Calls over a long time and in bad ones: what they leave behind, what faults do to them, and how the clock holds."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import conditions
from benchmarks.faults import DISK, ENGINE, MICROPHONE, NETWORK, PORTRAIT, VANISHED, dyed, enrolled, suffer, table
from benchmarks.launch import Running, server
from benchmarks.machine import machine
from benchmarks.peer import RATE, Peer
from engines.media import load_speech
from engines.portrait.prepare import digest_of

SETTLED = 50  # cycles after which nothing may grow
ALLOWED = 5e6  # bytes of memory that it may, all the same
EVERY = 25  # cycles between two looks
FIGURES = ("kdtalker_event_loop_tasks", "kdtalker_threads")
PARTS = ("cycles", "photos", "faults", "clock")


def soak(argv: list[str]) -> int:
    """Calls that come and go, calls beside photos, calls that suffer; a table, and all of it as JSON. Linux.

    Connect and disconnect, every fifth peer without a goodbye; prepare photos during a call; bring every fault about;
    measure the skew of sound and pictures in bad conditions and for long.
    """
    parser = argparse.ArgumentParser(prog="kdtalker bench soak", description=soak.__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="default: all of them")
    parser.add_argument("--speech", type=Path, help="what the callers say; default: a tone")
    parser.add_argument("--cycles", type=int, default=200, help="calls, one after another; default: 200, at least 2")
    parser.add_argument("--photos", type=int, default=20, help="prepared during one call; default: 20")
    parser.add_argument("--seconds", type=float, default=20.0, help="that each fault and condition lasts; default: 20")
    parser.add_argument("--minutes", type=float, default=10.0, help="that the long calls of `clock` last; default: 10")
    parser.add_argument("--calls", type=int, default=os.cpu_count() or 1, help="at once, of these; default: the cores")
    options = parser.parse_args(argv)
    if options.cycles < 2:
        parser.error("two cycles are needed to compare")
    report: dict[str, Any] = machine()
    well = True
    for part in options.parts or PARTS:
        if part == "cycles":
            with server(4, lost_after=1, grace=1, rate_limit=0) as running:
                report[part] = asyncio.run(cycled(running, options.cycles))
            well &= report[part]["nothing_left"]
        elif part == "photos":
            with server(1, rate_limit=0) as running:
                report[part] = asyncio.run(photographed(running.url, options.photos))
        elif part == "clock":
            told = speech(options.speech)
            rows = asyncio.run(conditions.clock(told, options.seconds, options.minutes, options.calls))
            print(table([conditions.cells(row) for row in rows]), file=sys.stderr)
            report[part] = rows
            well &= all(conditions.kept(row) for row in rows)
        else:
            rows = asyncio.run(matrix(options.seconds, speech(options.speech)))
            print(
                table([{name: cell for name, cell in row.items() if name != "broken"} for row in rows]), file=sys.stderr
            )
            report[part] = rows
            well &= not any(row["broken"] for row in rows)
    print(json.dumps(report, indent=2))
    return 0 if well else 1


async def cycled(running: Running, cycles: int) -> dict[str, Any]:
    settled: dict[str, float] = {}
    first = min(SETTLED, cycles // 2)
    memory: dict[int, float] = {}
    for cycle in range(1, cycles + 1):
        await call(running.url, vanish=cycle % 5 == 0)
        if cycle == first:
            settled = await left(running)
        if cycle % EVERY == 0:
            memory[cycle] = round(resident(running.process.pid) / 1e6, 1)
    end = await left(running)
    counts = [name for name in end if name != "memory"]
    grown = end["memory"] - settled["memory"]
    return {
        "cycles": cycles,
        f"after_{first}": settled,
        "at_the_end": end,
        "memory_mb": memory,
        "grown_mb": round(grown / 1e6, 2),
        "nothing_left": all(end[name] == settled[name] for name in counts) and grown <= ALLOWED,
    }


async def call(url: str, vanish: bool) -> None:
    async with Peer(url, np.zeros(RATE, np.int16), tidy=not vanish) as peer:
        await peer.pictures(1, within=60)
        if vanish:
            peer.vanish()


async def left(running: Running) -> dict[str, float]:
    """What the server holds once every call is over."""
    async with httpx.AsyncClient(base_url=running.url) as client:
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            figures = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
            if not figures["kdtalker_sessions"]:
                break
            await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    return held(running.process.pid) | {name.removeprefix("kdtalker_"): figures[name] for name in FIGURES}


def held(pid: int) -> dict[str, float]:
    """What the system says of a process (Linux): memory in bytes, open files, sockets, and UDP sockets among them."""
    folder = Path(f"/proc/{pid}")
    files = [str(entry.readlink()) for entry in (folder / "fd").iterdir()]
    sockets = {name[8:-1] for name in files if name.startswith("socket:")}
    tables = [(folder / "net" / name).read_text().splitlines()[1:] for name in ("udp", "udp6")]
    udp = sum(line.split()[9] in sockets for lines in tables for line in lines)
    return {
        "memory": resident(pid),
        "files": len(files),
        "sockets": len(sockets),
        "udp_sockets": udp,
    }


def resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * float(next(line for line in status if line.startswith("VmRSS")).split()[1])


async def photographed(url: str, photos: int) -> dict[str, Any]:
    """The sound of a call meanwhile: gaps in its timestamps, and the times between its packets' arrivals."""
    async with Peer(url, np.zeros(RATE, np.int16)) as peer, httpx.AsyncClient(base_url=url, timeout=120) as client:
        await peer.pictures(25, within=60)
        begin = time.monotonic()
        for _ in range(photos):
            (await client.post("/avatars", files={"photo": PORTRAIT.read_bytes()})).raise_for_status()
        end = time.monotonic()
        sound = [(moment, stamp) for moment, stamp in peer.received.timestamps["audio"] if begin <= moment < end]
        stats = await peer.stats()
    return {
        "photos": photos,
        "seconds": round(end - begin, 1),
        "sound_gaps": int((np.diff([stamp for _, stamp in sound]) != 960).sum()),
        "longest_between_packets_ms": round(1000 * float(np.diff([moment for moment, _ in sound]).max()), 1),
        "drops": stats["drops"],
    }


async def matrix(seconds: float, sound: np.ndarray) -> list[dict[str, Any]]:
    """Every fault, one after another, with one server."""
    rows = []
    face = dyed(0)
    command = ("-m", "benchmarks.faulty", digest_of(face))
    with server(2, command, lost_after=1, grace=2, rate_limit=0) as running:
        avatar = await enrolled(running.url, face)
        await call(running.url, vanish=False)  # what is loaded once for all is loaded now
        for fault in (*NETWORK, *MICROPHONE, DISK, VANISHED, *ENGINE):
            pid = running.process.pid
            outcome = await suffer(running.url, fault, seconds, sound, avatar=avatar, pid=pid)
            rows.append(outcome.row() | {"broken": outcome.broken()})
    return rows


def speech(path: Path | None) -> np.ndarray:
    """i16 (samples,) at 48 kHz, ten minutes."""
    if path is not None:
        return np.resize(load_speech(path).playback, 600 * RATE)
    return np.asarray(8000 * np.sin(2 * np.pi * 200 * np.arange(600 * RATE) / RATE), np.int16)
