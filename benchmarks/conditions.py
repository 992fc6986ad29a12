"""The clock of calls in good and bad conditions: skew of pictures and sound as `benchmarks.skew` measures it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np

from benchmarks.faults import LOSS, SETTLE, dyed, enrolled
from benchmarks.impairment import CLEAN, Relay
from benchmarks.launch import Running, server
from benchmarks.peer import Peer, Voice
from benchmarks.skew import skew
from engines.portrait.prepare import digest_of

LIMIT = 20.0  # ms of skew that 99 of 100 stay within
STALL = 1.5  # seconds that a renderer hangs, and works again

Condition = Callable[[Running, Relay, Peer], AsyncIterator[None]]


async def clock(sound: np.ndarray, seconds: float, minutes: float, calls: int) -> list[dict[str, Any]]:
    """Every condition for so many `seconds`, then `calls` calls at once for so many `minutes`."""
    face = dyed(0)
    command = ("-m", "benchmarks.faulty", digest_of(face))
    rows = []
    with server(calls, command, rate_limit=0) as running:
        avatar = await enrolled(running.url, face)
        for name, condition in CONDITIONS.items():
            rows += await _measured(running, avatar, sound, name, condition, seconds, 1)
        rows += await _measured(running, avatar, sound, f"{calls} calls", _clean, 60 * minutes, calls)
    return rows


async def _measured(
    running: Running, avatar: str, sound: np.ndarray, name: str, condition: Condition, seconds: float, calls: int
) -> list[dict[str, Any]]:
    """One row a call."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(1))
        peers = []
        for number in range(calls):
            peer = Peer(
                running.url,
                Voice(sound),
                query=f"?avatar={avatar}",
                every=1_000_000,
                listens=False,
                through=None if number else relay,
            )
            peers.append(await stack.enter_async_context(peer))
        await asyncio.gather(*(peer.pictures(3, 60) for peer in peers))
        await asyncio.sleep(SETTLE)
        since = time.time()
        async with asynccontextmanager(condition)(running, relay, peers[0]):
            await asyncio.sleep(seconds)
            until = time.time()
        return [{"condition": name, "seconds": seconds} | skew(peer.received, since, until) for peer in peers]


async def _clean(running: Running, relay: Relay, peer: Peer) -> AsyncIterator[None]:
    yield


async def _lossy(running: Running, relay: Relay, peer: Peer) -> AsyncIterator[None]:
    relay.up.impairment = relay.down.impairment = LOSS
    yield
    relay.up.impairment = relay.down.impairment = CLEAN


async def _muted(running: Running, relay: Relay, peer: Peer) -> AsyncIterator[None]:
    assert peer.voice is not None
    peer.voice.muted = True
    yield
    peer.voice.muted = False


async def _stalled(running: Running, relay: Relay, peer: Peer) -> AsyncIterator[None]:
    async def stall() -> None:
        while True:
            for number in (signal.SIGUSR2, signal.SIGHUP):
                os.kill(running.process.pid, number)
                await asyncio.sleep(STALL)

    stalling = asyncio.create_task(stall())
    yield
    stalling.cancel()
    await asyncio.wait([stalling])
    os.kill(running.process.pid, signal.SIGHUP)


CONDITIONS: dict[str, Condition] = {
    "clean": _clean,
    "20 % loss": _lossy,
    "muted microphone": _muted,
    "stalled renderer": _stalled,
}


def kept(row: dict[str, Any]) -> bool:
    """Whether 99 of 100 reports are within the limit, and the sound is late rather than early."""
    reports = row["reports"]
    return bool(reports["count"] and reports["p99_of_amount"] <= LIMIT and reports["p50"] <= 0)


def cells(row: dict[str, Any]) -> dict[str, Any]:
    """For a table."""
    shown = {"condition": row["condition"], "seconds": round(row["seconds"])}
    for kind in ("reports", "packets"):
        figures = row[kind]
        shown[kind] = figures["count"]
        for point in ("p1", "p50", "p99"):
            shown[f"{point} {kind[0]}"] = figures.get(point, "")
    return shown
