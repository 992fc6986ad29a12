"""What goes wrong in calls, each fault brought about with a running server, and what must be seen meanwhile.

Two real peers call. One suffers the fault, its datagrams go through a relay; the other calls directly and must not
notice. What is counted is counted at the peers and by the system, except for the microphone's delay.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from PIL import Image

from benchmarks.impairment import CLEAN, Impairment, Relay
from benchmarks.peer import PACKET, RATE, Peer, Voice
from engines.types import FPS

PORTRAIT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"
SETTLE = 3.0  # seconds before a fault
RECOVERY = 5.0  # seconds after it
PACKETS = RATE // PACKET  # of sound a second
FULL = 200_000  # bytes; a recording of a few seconds has more
HELD = ("process_open_fds", "kdtalker_event_loop_tasks", "kdtalker_threads")


class Mute(Voice):
    """A microphone that never sends a packet."""

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__(sound)
        self.muted = True


class Garbage(Voice):
    """Random bytes where Opus packets are expected, by a seed."""

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__(sound)
        self._random = np.random.default_rng(1)

    def _made(self, samples: np.ndarray, pts: int) -> av.Packet[Any]:
        return _packet(self._random.bytes(int(self._random.integers(1, 200))), pts)


class Narrowband(Voice):
    """A microphone of 8 kHz: Opus packets that hold nothing above 4 kHz (RFC 6716, 2)."""

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__(sound)
        self._opus = av.CodecContext.create("libopus", "w")
        self._opus.format, self._opus.layout, self._opus.sample_rate = "s16", "mono", 8000
        self._opus.options = {"application": "voip"}
        self._waiting: list[bytes] = []

    def _made(self, samples: np.ndarray, pts: int) -> av.Packet[Any]:
        slow = samples.reshape(-1, RATE // 8000).mean(axis=1).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(slow[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, pts * 8000 // RATE
        self._waiting += [bytes(packet) for packet in self._opus.encode(frame)]
        return _packet(self._waiting.pop(0), pts)


def _packet(payload: bytes, pts: int) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(payload)
    packet.pts, packet.time_base = pts, Fraction(1, RATE)
    return packet


@dataclass(frozen=True, slots=True)
class Fault:
    """`promise`: what must be seen. `engine`: the signal that makes `benchmarks.faulty` fail. `up` leads to the server.

    `pictures`: the least share of 25 a second that the suffering call still decodes meanwhile. `full`: the call is
    recorded, and no file of the server's may grow beyond FULL bytes.
    """

    name: str
    promise: str
    voice: Callable[[np.ndarray], Voice] = Voice
    up: Impairment = CLEAN
    down: Impairment = CLEAN
    vanishes: bool = False
    engine: signal.Signals | None = None
    pictures: float = 0.0
    full: bool = False


LOSS, JITTER = Impairment(loss=0.2), Impairment(jitter=0.3)
NETWORK = (
    Fault("20 % loss", "the call lives, holes are concealed, the delay is back 5 s later", up=LOSS, down=LOSS),
    Fault("300 ms jitter", "the call lives, the delay grows and comes back", up=JITTER, down=JITTER),
)
MICROPHONE = (
    Fault("microphone sends nothing", "the face rests", Mute, pictures=0.9),
    Fault("microphone sends garbage", "what cannot be decoded is silence", Garbage, pictures=0.9),
    Fault("microphone of 8 kHz", "it is a voice like another", Narrowband, pictures=0.9),
    Fault("clock 0.1 % fast", "absorbed", lambda sound: Voice(sound, fast=0.001), pictures=0.9),
    Fault("clock 0.1 % slow", "absorbed", lambda sound: Voice(sound, fast=-0.001), pictures=0.9),
)
VANISHED = Fault("peer vanishes", "the call ends after its grace", vanishes=True)
DISK = Fault("disk full", "the recording ends and says so, the call goes on", full=True, pictures=0.9)
ENGINE = (
    Fault("renderer raises", "no pictures meanwhile, sound goes on", engine=signal.SIGUSR1),
    Fault("renderer hangs", "no pictures meanwhile, sound goes on, its thread is replaced", engine=signal.SIGUSR2),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one peer got in some seconds."""

    seconds: float
    pictures: int  # decoded
    arrived: int  # pictures of which something arrived
    sound: int  # packets that arrived
    gaps: int  # of the sound's timestamps, which the network made unless it is clean


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state`: of the suffering call in the end. `other`: the other call, all the time. `delay_ms`: that reading stays
    behind the microphone: before, at the end of the fault, and after the recovery. `recording`: why it ended, if there
    was one. `left`: what the server holds more of than before both calls.
    """

    fault: Fault
    state: str
    during: Seen
    after: Seen
    other: Seen
    delay_ms: tuple[float, float, float]
    microphone: dict[str, Any]
    relayed: dict[str, dict[str, int]]
    recording: str | None
    left: dict[str, float] = field(default_factory=dict)

    def broken(self, share: float = 0.95, sound: float = 0.95) -> list[str]:
        """The promises that were not kept.

        `share`: of 25 pictures a second that an unharmed call must have decoded, `sound`: of 50 packets a second. Both
        are less on a machine that has other work to do.
        """
        fault, wrong = self.fault, []
        if self.state != ("gone" if fault.vanishes else "live"):
            wrong.append(f"the call is {self.state}")
        if self.other.gaps or self.other.sound < sound * PACKETS * self.other.seconds:
            wrong.append(f"the other's sound: {self.other}")
        if self.other.pictures < share * FPS * self.other.seconds:
            wrong.append(f"the other's pictures: {self.other}")
        if self.left:
            wrong.append(f"left behind: {self.left}")
        if fault.full and self.recording != "disk full":
            wrong.append(f"the recording: {self.recording}")
        if fault.vanishes:
            return wrong
        if self.during.pictures < min(share, fault.pictures) * FPS * self.during.seconds:
            wrong.append(f"pictures meanwhile: {self.during}")
        if fault.down == CLEAN and self.during.gaps:
            wrong.append(f"the sound meanwhile: {self.during}")
        if self.during.sound < sound * (1 - fault.down.loss) * PACKETS * self.during.seconds - 0.3 * PACKETS:
            wrong.append(f"the sound meanwhile: {self.during}")
        # After a packet that was lost twice aiortc's receiver decodes nothing until 128 more have come.
        recovered = self.after.arrived if fault.down.loss else self.after.pictures
        if self.after.gaps or recovered < share * FPS * (self.after.seconds - 2):
            wrong.append(f"afterwards: {self.after}")
        return wrong

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {
            "fault": self.fault.name,
            "call": self.state,
            "pictures/s": round(self.during.pictures / self.during.seconds, 1),
            "sound/s": round(self.during.sound / self.during.seconds, 1),
            "after": round(self.after.arrived / self.after.seconds, 1),
            "other": round(self.other.pictures / self.other.seconds, 1),
            "other's gaps": self.other.gaps,
            "delay ms": " ".join(f"{value:.0f}" for value in self.delay_ms),
            "left": self.left or "nothing",
        }


async def suffer(
    url: str,
    fault: Fault,
    seconds: float,
    sound: np.ndarray,
    *,
    settle: float = SETTLE,
    recovery: float = RECOVERY,
    avatar: str = "",
    pid: int = 0,
    seed: int = 1,
) -> Outcome:
    """One fault for so many `seconds` to a call that says `sound` i16 (samples,) at 48 kHz.

    `avatar`: whose face it has. `pid`: of the server, for faults of its engines.
    """
    before = await held(url)
    query = f"?avatar={avatar}" if avatar else ""
    async with (
        Relay(seed) as relay,
        Peer(url, sound, every=1_000_000) as other,
        Peer(
            url, fault.voice(sound), query=query, every=1_000_000, through=relay, tidy=not fault.vanishes
        ) as suffering,
    ):
        await asyncio.gather(other.pictures(3, 60), suffering.pictures(3, 60))
        await asyncio.sleep(settle)
        whole, delays = _Span(other), [await _delay(suffering)]
        span = _Span(suffering)
        relay.up.impairment, relay.down.impairment = fault.up, fault.down
        if fault.vanishes:
            suffering.vanish()
        if fault.engine is not None:
            os.kill(pid, fault.engine)
        with full_disk(pid) if fault.full else nullcontext():
            if fault.full:
                await suffering.record()
            await asyncio.sleep(seconds)
        during = span.seen()
        if not fault.vanishes:
            delays.append(await _delay(suffering))
        if fault.engine is not None:
            os.kill(pid, signal.SIGHUP)
        relay.up.impairment = relay.down.impairment = CLEAN
        await asyncio.sleep(min(0.5, recovery))  # what was under way when it ended
        span = _Span(suffering)
        await asyncio.sleep(recovery - 0.5)
        after = span.seen()
        state, microphone, recording = "gone", {}, None
        if fault.vanishes:
            async with asyncio.timeout(60):
                while await _stats(suffering) is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        elif (stats := await _stats(suffering)) is not None:
            state, microphone = stats["state"], stats["microphone"]
            recording = (stats["recording"] or {}).get("reason")
            delays.append(microphone["delay_ms"])
        beside = whole.seen()
    left = {name: value - before[name] for name, value in (await held(url)).items() if value > before[name]}
    relayed = {"up": dict(relay.up.counts), "down": dict(relay.down.counts)}
    delays += [float("nan")] * (3 - len(delays))
    delay_ms = (delays[0], delays[1], delays[2])
    return Outcome(fault, state, during, after, beside, delay_ms, microphone, relayed, recording, left)


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of this process may grow beyond FULL bytes: its writes fail as they do on a full disk (Linux)."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class _Span:
    """What a peer gets from now on."""

    def __init__(self, peer: Peer) -> None:
        self._peer, self._begun = peer, asyncio.get_running_loop().time()
        self._pictures, self._sound = peer.count, len(peer.received.timestamps["audio"])
        self._video = len(peer.received.timestamps["video"])

    def seen(self) -> Seen:
        seconds = asyncio.get_running_loop().time() - self._begun
        stamps = [stamp for _, stamp in self._peer.received.timestamps["audio"][self._sound :]]
        gaps = sum((b - a) % 2**32 != PACKET for a, b in pairwise(stamps))
        arrived = len({stamp for _, stamp in self._peer.received.timestamps["video"][self._video :]})
        return Seen(round(seconds, 2), self._peer.count - self._pictures, arrived, len(stamps), gaps)


async def _stats(peer: Peer) -> dict[str, Any] | None:
    try:
        return await peer.stats()
    except httpx.HTTPStatusError:
        return None


async def _delay(peer: Peer) -> float:
    stats = await _stats(peer)
    return float(stats["microphone"]["delay_ms"]) if stats else float("nan")


async def held(url: str) -> dict[str, float]:
    """What the server holds once no call is left; open files include UDP sockets."""
    async with httpx.AsyncClient(base_url=url) as client:
        async with asyncio.timeout(60):
            while (figures := await _metrics(client))["kdtalker_sessions"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        for _ in range(20):  # threads end a moment after what they worked for
            await asyncio.sleep(0.1)
            before, figures = figures, await _metrics(client)
            if all(before[name] == figures[name] for name in HELD):
                break
        return {name: figures[name] for name in HELD}


async def _metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = [line for line in (await client.get("/metrics")).text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def dyed(channel: int) -> bytes:
    """A portrait in shades of one colour (0 red, 1 green, 2 blue), as JPEG: every part of it tells whose it is."""
    grey = np.asarray(Image.open(PORTRAIT).convert("L"), np.float32)[:, :, None]
    own = np.arange(3) == channel
    dyed = np.where(own, 60 + 0.76 * grey, 0.45 * grey)
    buffer = io.BytesIO()
    Image.fromarray(dyed.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


async def enrolled(url: str, photo: bytes) -> str:
    """Send a photo; returns the avatar's name."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        answer = (await client.post("/avatars", files={"photo": photo})).raise_for_status()
    name: str = answer.json()["id"]
    return name


def table(rows: list[dict[str, Any]]) -> str:
    """Rows under their names, in columns."""
    columns = {name: [name, *(str(row[name]) for row in rows)] for name in rows[0]}
    widths = {name: max(map(len, cells)) for name, cells in columns.items()}
    lines = [
        "  ".join(cells[line].ljust(widths[name]) for name, cells in columns.items()) for line in range(len(rows) + 1)
    ]
    return "\n".join(line.rstrip() for line in lines)
