"""What calls leave behind: memory, threads, files, sockets and tasks of a server after hundreds of them."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.live import PORT, machine, server
from benchmarks.peer import RATE, Peer

SETTLED = 50  # cycles after which nothing may grow
ALLOWED = 5e6  # bytes of memory that it may, all the same
URL = f"http://127.0.0.1:{PORT}"
FIGURES = ("kdtalker_event_loop_tasks", "kdtalker_threads")
PORTRAIT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"
GRACE = 1  # seconds that a vanished peer has, so that the soak need not wait for it


def soak(argv: list[str]) -> int:
    """Connect and disconnect, every fifth peer without a goodbye, and print what is left, as JSON. Linux."""
    parser = argparse.ArgumentParser(prog="kdtalker bench soak", description=soak.__doc__)
    parser.add_argument("--cycles", type=int, default=200, help="calls, one after another; default: 200, at least 2")
    parser.add_argument("--photos", type=int, default=20, help="prepared during one call afterwards; default: 20")
    options = parser.parse_args(argv)
    if options.cycles < 2:
        parser.error("two cycles are needed to compare")
    with server(4, lost_after=1, grace=GRACE, rate_limit=0) as process:
        report = asyncio.run(measure(process.pid, options.cycles, options.photos))
    print(json.dumps(machine() | report, indent=2))
    return 0 if report["nothing_left"] else 1


async def measure(pid: int, cycles: int, photos: int) -> dict[str, Any]:
    settled: dict[str, float] = {}
    first = min(SETTLED, cycles // 2)
    for cycle in range(1, cycles + 1):
        await call(vanish=cycle % 5 == 0)
        if cycle == first:
            settled = await left(pid)
    end = await left(pid)
    counts = [name for name in end if name != "memory"]
    return {
        "cycles": cycles,
        f"after_{first}": settled,
        "at_the_end": end,
        "nothing_left": all(end[name] == settled[name] for name in counts)
        and end["memory"] - settled["memory"] <= ALLOWED,
        "while_photos_are_prepared": await photographed(photos) if photos else None,
    }


async def call(vanish: bool) -> None:
    async with Peer(URL, np.zeros(RATE, np.int16), tidy=not vanish) as peer:
        await peer.pictures(1, within=60)
        if vanish:
            peer.vanish()


async def left(pid: int) -> dict[str, float]:
    """What the server holds once every call is over."""
    async with httpx.AsyncClient(base_url=URL) as client:
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            figures = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
            if not figures["kdtalker_sessions"]:
                break
            await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    return held(pid) | {name.removeprefix("kdtalker_"): figures[name] for name in FIGURES}


def held(pid: int) -> dict[str, float]:
    """What the system says of a process (Linux): memory in bytes, open files, sockets among them."""
    files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    memory = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    sockets = sum(name.startswith("socket:") for name in files)
    return {"memory": 1024 * float(memory.split()[1]), "files": len(files), "sockets": sockets}


async def photographed(photos: int) -> dict[str, Any]:
    """The sound of a call meanwhile: gaps in its timestamps, and the times between its packets' arrivals."""
    async with Peer(URL, np.zeros(RATE, np.int16)) as peer, httpx.AsyncClient(base_url=URL, timeout=120) as client:
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
