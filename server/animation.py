"""A call's sound to pictures: what the engines say, on the clock, to whoever looks."""

from __future__ import annotations

import logging
from typing import Protocol

from engines.controls import Controls
from engines.types import SPEECH_SAMPLES, ByteArray, FloatArray, MotionTick
from server.batcher import Lease
from server.clock import SessionClock
from server.load import Governor, has_picture
from server.metrics import CallMetrics
from server.stream import PictureStream
from server.tracks import UnheardSound

FAILURES = {"motion": "no motion; it begins anew", "render": "pictures cannot be rendered"}

logger = logging.getLogger(__name__)


class Onlookers(Protocol):
    """Where pictures go, which may be another place each time."""

    @property
    def controls(self) -> Controls: ...

    @property
    def recorded(self) -> bool: ...

    def streams(self, pixels: int) -> list[tuple[PictureStream, int]]:
        """Where a picture goes, and how large it is to be there, at most `pixels`."""
        ...

    def keep(self, tick: int, picture: ByteArray) -> None:
        """Record a picture u8 (H, W, 3), if that is wanted."""
        ...


class Animation:
    """`run` makes the pictures of one call. `ahead`: ticks that a feature waits for; `patience`: seconds the engines
    have for what a tick needs.

    An engine that fails is in the log until it works again, so that it is there once.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        lease: Lease,
        governor: Governor,
        metrics: CallMetrics,
        *,
        ahead: int,
        patience: float,
    ) -> None:
        self._name, self._seed, self._lease = name, seed, lease
        self._governor, self._metrics = governor, metrics
        self._ahead, self._patience = ahead, patience
        self._heard = self._first = 0  # ticks: taken so far, and taken before the motion began anew
        self._broken = self._hushed = False
        self._failing: set[str] = set()

    def hush(self) -> None:
        """The sound that no motion was made of yet is not going to be heard: let the mouth close."""
        self._hushed = True

    async def run(self, clock: SessionClock, unheard: UnheardSound, onlookers: Onlookers) -> None:
        """Until it is cancelled. A picture that is too late is skipped, so that the next is of the present again."""
        while True:
            pcm = await unheard.take()
            ready = await self._understood(pcm, clock.now() + self._patience, onlookers.controls)
            for made in ready:
                motion = MotionTick(self._first + made.tick, made.motion)
                self._metrics.traces.mark(motion.tick, "sampled")
                await self._show(motion, clock, onlookers, newest=made is ready[-1] and unheard.empty)

    async def _understood(self, pcm: FloatArray, deadline: float, controls: Controls) -> list[MotionTick]:
        """Sound f32 (samples,) at 16 kHz -> motion, by ticks since the motion last began."""
        ready: list[MotionTick] = []
        try:
            if self._broken:
                await self._lease.begin(self._seed, deadline, controls)
                self._first, self._broken = self._heard, False
            hushed, self._hushed = self._hushed, False
            brief = self._governor.effort.brief
            ready = await self._lease.listen(pcm, deadline, controls, brief=brief, hushed=hushed)
            self._failing.discard("motion")
        except Exception:  # sound goes on, and so does the call
            self._fails("motion")
            self._broken = True
        self._heard += len(pcm) // SPEECH_SAMPLES
        self._metrics.traces.understood(self._heard - self._ahead)
        return ready

    async def _show(self, motion: MotionTick, clock: SessionClock, onlookers: Onlookers, *, newest: bool) -> None:
        effort = self._governor.effort
        if not has_picture(motion.tick, effort.rate):
            return
        streams = onlookers.streams(effort.pixels)
        if not streams and not onlookers.recorded:
            return  # nobody looks; the motion goes on, so that the face is where it would be
        if streams and all(stream.too_late(motion.tick, newest) for stream, _ in streams):
            self._metrics.dropped("late_before_rendering")
            return
        try:
            picture = await self._lease.render(motion.motion, clock.showing(motion.tick), onlookers.controls)
            self._failing.discard("render")
        except Exception:
            self._fails("render")
            return
        self._metrics.traces.mark(motion.tick, "rendered")
        for stream, pixels in streams:
            stream.show(motion.tick, picture, pixels)
        onlookers.keep(motion.tick, picture)

    def _fails(self, what: str) -> None:
        if what not in self._failing:
            logger.exception("session %s: %s", self._name, FAILURES[what])
        self._failing.add(what)
        self._metrics.dropped(f"{what}_error")
