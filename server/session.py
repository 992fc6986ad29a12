"""One call: its lease on the engines, its clock, and the connection its caller has at the moment.

A `Session` is an async context manager; leaving the block is the only way to end it, and leaves nothing
behind. Whoever wants it to end calls `end(reason)`; `closed()` waits until it is over. A caller that is lost
has a grace to come back in: the call goes on unseen, and `connect` gives it a new connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any

import numpy as np

from engines.controls import Controls, Offer
from engines.types import SPEECH_SAMPLES, TICK_SECONDS, ByteArray, Identity
from server.animation import Animation
from server.batcher import Batcher
from server.clock import SessionClock
from server.connection import Connection
from server.conversation import Conversation
from server.encode import SpeechEncoder
from server.line import Line, OfferError
from server.load import Governor
from server.metrics import CallMetrics, Metrics
from server.modes import Mode
from server.outgoing import Leaving
from server.recording import CALL_ENDED, Recording
from server.services import Services
from server.settings import Settings
from server.sources import Sources
from server.stream import PictureStream
from server.tracks import UnheardSound
from server.viewers import Audience, Viewer

VOICE = 0.01  # level (RMS) that counts as somebody speaking
FIRST_SOUND = 0.3  # seconds that a call's beginning waits for its microphone
LOOK = 0.5  # seconds between looks at a call

logger = logging.getLogger(__name__)


class EndedError(Exception):
    """The call is over."""


class State(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"  # the peer is silent or gone; it may come back
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Room:
    """Where a publisher speaks and viewers find the call: its name, and whose token opened it."""

    name: str
    holder: str


class Session:
    """A caller's voice in, an avatar's voice and pictures out.

    Where a `room` is given the caller is a publisher, who receives nothing; viewers find the call there.
    """

    def __init__(
        self,
        name: str,
        avatar: str,
        identity: Identity,
        room: Room | None,
        mode: Mode,
        services: Services,
        batcher: Batcher,
        governor: Governor,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.id = name
        self.token = secrets.token_urlsafe(16)  # who has it may replace the connection
        self.avatar = avatar
        self.publishing = room is not None
        self.room = room or Room(settings.prefix + secrets.token_urlsafe(12), "")
        self.state = State.CONNECTING
        self.reason: str | None = None
        self.controls: Controls = settings.controls
        self.offer: Offer = batcher.talker.placing.offer
        self.metrics = CallMetrics(metrics)
        self.still = identity.crop
        self.recording: Recording | None = None  # the latest one
        self._listeners: set[Callable[[str, dict[str, Any]], None]] = set()
        self._settings, self._governor = settings, governor
        self._seed = seed_of(name.removeprefix(settings.prefix))
        self._lease = batcher.lease(identity)
        self._delay = batcher.talker.profile.delay + settings.compute_allowance
        self._animation = Animation(
            name,
            self._seed,
            self._lease,
            governor,
            self.metrics,
            ahead=math.ceil(batcher.talker.profile.mel.reach / SPEECH_SAMPLES) - 1,
            patience=settings.compute_allowance / 2,
        )
        self.conversation = Conversation(
            name, mode, services, settings, self._delay - TICK_SECONDS, self.tell, self._take_back
        )
        self.sources = Sources(lambda: self._the_connection, self.conversation)
        self._changed = asyncio.Event()  # of the connection's state, or of what is wanted
        self._over = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self.audience = Audience(name, settings, self.metrics)
        self.audience.unseen = self.publishing
        self._clock: SessionClock | None = None
        self._unheard = UnheardSound()
        self._last_voice = time.monotonic()
        self._lost_at = 0.0

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end("offer refused" if isinstance(error, OfferError) else "left" if error is None else "failed")
        self.state = State.ENDED
        try:
            await asyncio.shield(self._release())
        finally:
            self._over.set()
            logger.info("session %s over: %s", self.id, self.reason)

    async def connect(self, offer: str) -> str:
        """SDP offer -> SDP answer of a connection that takes the place of the one there was.

        Raises OfferError or PortsExhaustedError, which leave the old one as it is, or EndedError.
        """
        async with self._connecting:
            if self.reason is not None:
                raise EndedError
            connection = Connection(self.id, self._settings, self.metrics, self._changed.set, self.publishing)
            try:
                answer = await connection.answer(offer)
            except BaseException:
                await asyncio.shield(connection.close())
                raise
            if self._clock is not None:
                connection.begin(self._clock)
            before, self._connection = self._connection, connection
            self._lost_at = time.monotonic()
            self._changed.set()
            if before is not None:
                logger.info("session %s: a new connection", self.id)
                await asyncio.shield(before.close())
            return answer

    def takes(self, room: Room, avatar: str) -> bool:
        """Whether a publisher that comes anew to this room is the lost one."""
        return self.publishing and self.state is State.RECONNECTING and (room, avatar) == (self.room, self.avatar)

    async def join(self, offer: str) -> tuple[Viewer, str]:
        """A new viewer, and the SDP answer to its offer; raises OfferError, PortsExhaustedError or EndedError."""
        if self.reason is not None:
            raise EndedError
        viewer, answer = await self.audience.admit(offer)
        if self.reason is not None:  # its end may not have met this viewer
            await asyncio.shield(self.audience.leave(viewer))
            raise EndedError
        return viewer, answer

    async def run(self) -> None:
        """The call, from the answer to its end; call `connect` first."""
        async with asyncio.TaskGroup() as group:
            workers: list[asyncio.Task[None]] = []
            try:
                await self._lease.begin(self._seed, time.monotonic() + 1, self.controls)
                if await self._first_connection():
                    self._clock = clock = SessionClock(await self._origin(), self._delay)
                    self._the_connection.begin(clock)
                    self.audience.begin(clock)
                    self.metrics.begin()
                    for name, work in (
                        ("hearing", self._hear(clock)),
                        ("conversation", self.conversation.run()),
                        ("animation", self._animation.run(clock, self._unheard, self)),
                        ("audience", self.audience.run()),
                    ):
                        workers.append(group.create_task(work, name=f"{self.id} {name}"))
                    await self._watch()
            finally:
                for worker in workers:
                    worker.cancel()

    def end(self, reason: str) -> None:
        """Ask the call to end; the first reason given is the one that is kept."""
        if self.reason is None:
            self.reason = reason
        self._changed.set()

    def control(self, /, **changes: Any) -> None:
        """Set controls of the face, from the next frame on; raises ControlError and then leaves all as they were."""
        controls = self.controls.changed(**changes)
        self.offer.require(controls)
        self.controls = controls

    @contextmanager
    def told(self, listener: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
        """Call `listener(kind, members)` with what happens in the call meanwhile."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def tell(self, kind: str, **members: Any) -> None:
        if kind == "trouble" or members.get("interrupted"):
            self.metrics.process.events.labels("trouble" if kind == "trouble" else "interrupted").inc()
        for listener in self._listeners:
            listener(kind, members)

    def record(self, recording: Recording) -> None:
        """Put what is heard and seen from now on into `recording`, which is to call `recording_ended`."""
        self.recording = recording
        if self.reason is not None:
            recording.stop(CALL_ENDED)

    def recording_ended(self) -> None:
        """What a `Recording` of this call says once its file is whole."""
        if self.recording is not None:
            self.metrics.process.events.labels(f"recording: {self.recording.reason}").inc()
            self.tell("recording", **self.recording.stats())

    @property
    def line(self) -> Line:
        """To the caller, as it is now."""
        return self._the_connection.line

    @property
    def watched(self) -> bool:
        """Whether anybody sees the pictures."""
        return self._the_connection.pictures is not None or self.audience.watching

    @property
    def recorded(self) -> bool:
        """Whether the pictures are kept."""
        return self.recording is not None and self.recording.reason is None

    def streams(self, pixels: int) -> list[tuple[PictureStream, int]]:
        """Where a picture goes, and how large it is to be there, at most `pixels`."""
        own = self._the_connection.pictures
        return ([(own, pixels)] if own is not None else []) + self.audience.streams(pixels)

    def keep(self, tick: int, picture: ByteArray) -> None:
        """Record a picture u8 (H, W, 3), if that is wanted."""
        if self.recording is not None:
            self.recording.picture(tick, picture)

    async def closed(self) -> None:
        """Wait until nothing of the call is left; any number may wait."""
        await self._over.wait()

    def stats(self) -> dict[str, Any]:
        """What `/sessions/{id}/stats` answers."""
        return {
            "id": self.id,
            "state": self.state,
            "reason": self.reason,
            "avatar": self.avatar,
            "effort": self._governor.effort.name,
            "controls": self.controls.as_dict(),
            **self.metrics.snapshot(),
            "conversation": self.conversation.stats(),
            "speech": self.conversation.waiting(),
            "recording": self.recording.stats() if self.recording else None,
            "microphone": self._connection.stats() if self._connection else None,
            "watch": f"/whep/{self.room.name}",
            "viewers": self.audience.stats(),
        }

    @property
    def _the_connection(self) -> Connection:
        assert self._connection is not None, "connect first"
        return self._connection

    async def _release(self) -> None:
        self._lease.release()
        if self.recording is not None:
            self.recording.stop(CALL_ENDED)
            await self.recording.closed()
        async with self._connecting:
            if self._connection is not None:
                await self._connection.close()
        await self.audience.close()

    async def _change(self, seconds: float) -> None:
        """Return when something changed, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def _first_connection(self) -> bool:
        """Whether the caller came before the patience, or the call, was over."""
        patience = time.monotonic() + self._settings.connect_timeout
        while self.reason is None and not self._the_connection.up:
            if time.monotonic() > patience or self.line.down:
                self.end("never connected")
            else:
                await self._change(LOOK)
        return self.reason is None

    async def _origin(self) -> float:
        """When to begin: now, or where cuts come just after the microphone's packets if there are some soon."""
        if self._the_connection.has_microphone:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SOUND):
                    return await self._the_connection.microphone.best_cut()
        return time.monotonic()

    async def _hear(self, clock: SessionClock) -> None:
        """Cut the sound into ticks: what the avatar says goes to whoever listens, and to the engines."""
        encoder = SpeechEncoder(self._settings.audio_bitrate)
        tick = 0
        while True:
            await clock.until(clock.cut(tick))
            heard, arrival = self.sources.microphone.take(tick, clock.cut(tick))
            speech, leaving = self.conversation.exchange(heard, arrival)
            made = clock.cut(tick) if speech.playback.any() else None  # sound of our own is there when it is cut
            self.metrics.traces.heard(tick, arrival if speech is heard else made)
            if leaving is not None:
                self._send(leaving, encoder, clock)
            if self._unheard.put(speech.pcm):
                self.metrics.dropped("sound_unheard")
            if any(math.sqrt(float(np.mean(sound.pcm**2))) > VOICE for sound in (heard, speech)):
                self._last_voice = clock.now()
            tick += 1

    def _send(self, leaving: Leaving, encoder: SpeechEncoder, clock: SessionClock) -> None:
        packets = encoder.encode(leaving.tick, leaving.playback)
        due = clock.due(leaving.tick)
        self._the_connection.speak(due, packets, leaving.arrival)
        self.audience.speak(due, packets)
        if self.recording is not None:
            self.recording.sound(leaving.tick, leaving.playback)

    def _take_back(self) -> None:
        """Sound that the engines know is not going to be heard."""
        self._unheard.hush()
        self._animation.hush()

    async def _watch(self) -> None:
        """Follow the connection's state; end the call when its peer stays away, nobody speaks or its time is up."""
        limits = self._settings
        begun = time.monotonic()
        while self.reason is None:
            connection = self._the_connection
            silence = await connection.line.silent_for()
            now = time.monotonic()
            if connection.up and silence < limits.lost_after:
                self._become(State.LIVE)
            elif self.state is State.LIVE:
                self._lost_at = now
                self._become(State.RECONNECTING)
            elif now - self._lost_at > limits.grace:
                self.end("peer lost")
            if now - max(begun, self._last_voice) > limits.idle_after:
                self.end("nobody spoke")
            elif now - begun > limits.session_limit:
                self.end("time is up")
            await self._change(LOOK)

    def _become(self, state: State) -> None:
        if state is not self.state:
            logger.info("session %s: %s", self.id, state)
            self.metrics.process.events.labels(state).inc()
            self.state = state


def seed_of(name: str) -> int:
    """A seed of the call's own, so that two calls with one avatar do not move alike."""
    return int.from_bytes(name.encode()[:8], "little")
