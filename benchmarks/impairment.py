"""A bad network on one machine: a UDP relay that loses, delays, jitters, reorders and throttles, by a seed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import socket
from collections import Counter
from dataclasses import dataclass
from types import TracebackType

HELD = 0.030  # seconds that a datagram is held so that others overtake it
QUEUE = 0.3  # seconds of traffic that wait for a throttled line; what comes then is dropped
WAITING = 2_000_000  # bytes of datagrams that wait in a socket for a loop that is held up

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a line does, one way. Times in seconds, shares are probabilities of each datagram by itself.

    `jitter` is uniform between 0 and so much and keeps the order: what waits holds up what follows, as a queue
    does. `reordering` is the share that is overtaken. `rate`: bits a second of payload.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reordering: float = 0.0
    rate: float = math.inf


CLEAN = Impairment()


class Line:
    """One direction. No sockets and no clock of its own: moments are arguments, in seconds.

    `counts`: datagrams `received`, and of these `lost`, `overflowed` and `delivered`; `overtaken` are those
    delivered after a later one. The same seed loses the same datagrams whatever else the line does.
    """

    def __init__(self, seed: int, impairment: Impairment = CLEAN) -> None:
        self.impairment = impairment  # may be replaced at any time
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        self._newest = -1
        self._free = self._last = -math.inf  # when the line is free again, and when the newest in order arrives
        self._under_way: list[tuple[float, int, bytes]] = []

    def put(self, now: float, datagram: bytes) -> None:
        """A datagram enters the line."""
        lost, waits, overtaken = (self._chance.random() for _ in range(3))
        how, number = self.impairment, next(self._numbers)
        self.counts["received"] += 1
        if lost < how.loss:
            self.counts["lost"] += 1
            return
        free = max(now, self._free) + 8 * len(datagram) / how.rate
        if free - now > QUEUE:
            self.counts["overflowed"] += 1
            return
        self._free = free
        moment = max(self._last, free + how.delay + how.jitter * waits)
        if overtaken < how.reordering:
            moment += HELD
        else:
            self._last = moment
        heapq.heappush(self._under_way, (moment, number, datagram))

    def take(self, now: float) -> list[bytes]:
        """What has arrived by `now`, in the order of arrival."""
        arrived = []
        while self._under_way and self._under_way[0][0] <= now:
            _, number, datagram = heapq.heappop(self._under_way)
            self.counts["delivered"] += 1
            self.counts["overtaken"] += number < self._newest
            self._newest = max(self._newest, number)
            arrived.append(datagram)
        return arrived

    @property
    def next_arrival(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None


class _Socket(asyncio.DatagramProtocol):
    """One side of a relay: hands what its end sends to a line that leads to the other side."""

    def __init__(self, line: Line) -> None:
        self.end: Address | None = None  # whose datagrams are taken
        self.other: _Socket | None = None
        self._line = line
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.DatagramTransport | None = None
        self.strangers = 0  # datagrams of others

    def datagram_received(self, data: bytes, sender: Address) -> None:
        if sender[:2] != self.end:
            self.strangers += 1
            return
        self._line.put(asyncio.get_running_loop().time(), data)
        self._pass_on()

    def send(self, datagram: bytes) -> None:
        if self.end is not None and self.transport is not None:
            self.transport.sendto(datagram, self.end)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self.transport.close()

    def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        for datagram in self._line.take(loop.time()):
            assert self.other is not None
            self.other.send(datagram)
        if self._timer is not None:
            self._timer.cancel()
        soonest = self._line.next_arrival
        self._timer = None if soonest is None else loop.call_at(soonest, self._pass_on)


class Relay:
    """Stands between a caller and a server; all datagrams of the call go through it. An async context manager.

    `offered` and `answered` rewrite the two descriptions: each end is told the relay's address where the other's
    stood. `up` leads to the server, `down` to the caller; set their `impairment`.
    """

    def __init__(self, seed: int = 0, up: Impairment = CLEAN, down: Impairment = CLEAN) -> None:
        self.up, self.down = Line(2 * seed, up), Line(2 * seed + 1, down)
        self._near, self._far = _Socket(self.up), _Socket(self.down)
        self._near.other, self._far.other = self._far, self._near

    async def __aenter__(self) -> Relay:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._near.close()
        self._far.close()
        await asyncio.sleep(0)  # sockets close a turn later

    @property
    def strangers(self) -> int:
        """Datagrams that came from somewhere else and went nowhere."""
        return self._near.strangers + self._far.strangers

    async def facing_server(self, caller: Address) -> Address:
        """Where the server shall send what is for `caller`."""
        self._near.end = caller
        return await self._bind(self._far, caller[0])

    async def facing_caller(self, server: Address) -> Address:
        """Where the caller shall send what is for `server`."""
        self._far.end = server
        return await self._bind(self._near, server[0])

    async def offered(self, sdp: str) -> str:
        """The caller's offer as the server shall see it."""
        return with_candidate(sdp, await self.facing_server(only_candidate(sdp)))

    async def answered(self, sdp: str) -> str:
        """The server's answer as the caller shall see it."""
        return with_candidate(sdp, await self.facing_caller(only_candidate(sdp)))

    async def _bind(self, side: _Socket, host: str) -> Address:
        loop = asyncio.get_running_loop()
        side.transport, _ = await loop.create_datagram_endpoint(lambda: side, local_addr=(host, 0))
        # What a full machine keeps waiting must not be lost here: no counter would tell.
        side.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WAITING)
        address: Address = side.transport.get_extra_info("sockname")[:2]
        return address


def only_candidate(sdp: str) -> Address:
    """The first IPv4 host candidate (RFC 8839, 5.1); raises ValueError where there is none."""
    for line in sdp.splitlines():
        parts = line.split()
        if line.startswith("a=candidate:") and parts[7] == "host" and ":" not in parts[4]:
            return parts[4], int(parts[5])
    raise ValueError("the description has no IPv4 host candidate")


def with_candidate(sdp: str, address: Address) -> str:
    """The description with its first IPv4 host candidate moved to `address` and without the others."""
    lines, done = [], False
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            parts = line.split()
            if done or parts[7] != "host" or ":" in parts[4]:
                continue
            parts[4:6] = address[0], str(address[1])
            line, done = " ".join(parts), True
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"
