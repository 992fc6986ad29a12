"""Who is let in: the calls that are up, and the task that each of them lives in."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from engines.types import Identity
from server import logs, memory
from server.batcher import Batcher
from server.load import Governor, cores
from server.metrics import Metrics
from server.modes import Mode
from server.services import Services
from server.session import Room, Session, State
from server.settings import Settings

logger = logging.getLogger(__name__)
REMEMBERED = 1000  # ended calls, so that who comes back to one learns that it was ended
PAUSE = 0.5  # seconds after a call in which its own tasks and threads let go of what they hold


class FullHouseError(Exception):
    """No call can be taken now. `reason`: `full`, `busy` or `draining`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Headroom:
    """`calls` there are, `places` for more, rooms that publishers named, and cores a call needs where that is known."""

    calls: int
    places: int
    rooms: tuple[str, ...]
    cost: float | None


class RoomTakenError(Exception):
    """Another call has this room."""


class Reception:
    """Every call of the process. Leaving the block ends them all and waits for them."""

    def __init__(self, batcher: Batcher, services: Services, settings: Settings, metrics: Metrics) -> None:
        self._batcher, self._services, self._settings, self._metrics = batcher, services, settings, metrics
        self._sessions: dict[str, Session] = {}
        self._over: deque[str] = deque(maxlen=REMEMBERED)  # names of calls that ended
        self._group = asyncio.TaskGroup()
        self._governor = Governor(metrics, cores(), settings.video_rate)
        self._draining = False
        self._changed = asyncio.Event()
        self._left = asyncio.Event()  # a call has ended
        metrics.capacity.set(settings.max_sessions)

    async def __aenter__(self) -> Reception:
        await self._group.__aenter__()
        self._own = [
            self._group.create_task(self._look_at_load(), name="load"),
            self._group.create_task(self._tidy(), name="memory"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draining = True
        for session in list(self._sessions.values()):
            session.end("server stopped")
        for task in self._own:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def require_room(self) -> None:
        """Raise FullHouseError where one more call cannot be taken."""
        if self._draining:
            raise FullHouseError("draining", "The server is about to stop and takes no new calls.")
        if len(self._sessions) >= self._settings.max_sessions:
            raise FullHouseError("full", "All places are taken; try again soon.")
        if self._settings.load_shedding and not self._governor.places(len(self._sessions)):
            raise FullHouseError("busy", "The machine has no room for another call; try again soon.")

    def headroom(self) -> Headroom:
        """How many calls could come beside those that are there, none once it drains."""
        calls = len(self._sessions)
        places = max(0, self._settings.max_sessions - calls)
        if self._settings.load_shedding:
            places = min(places, self._governor.places(calls))
        rooms = tuple(call.room.name for call in self._sessions.values() if call.publishing)
        return Headroom(calls, 0 if self._draining else places, rooms, self._governor.cost)

    def expect(self, cost: float) -> None:
        """Take it that a call needs so many cores, until one is measured here."""
        self._governor.expect(cost)

    def require_seat(self) -> None:
        """Raise FullHouseError where one more viewer cannot be taken."""
        if self._draining:
            raise FullHouseError("draining", "The server is about to stop and takes no new viewers.")
        if sum(len(session.audience) for session in self._sessions.values()) >= self._settings.max_viewers:
            raise FullHouseError("full", "All seats are taken; try again soon.")
        if self._settings.load_shedding and not self._governor.effort.open:
            raise FullHouseError("busy", "The machine has no room for another viewer; try again soon.")

    async def drain(self, patience: float) -> None:
        """Let nobody in any more; return when every call has ended by itself, or after `patience` seconds."""
        self._draining = True
        logger.info("draining: %d calls have %.0f s to finish", len(self._sessions), patience)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._sessions:
                    self._changed.clear()
                    await self._changed.wait()

    @property
    def draining(self) -> bool:
        """Whether nobody is let in any more."""
        return self._draining

    @property
    def calls(self) -> list[Session]:
        return list(self._sessions.values())

    def find(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def ended(self, name: str) -> bool:
        """Whether there was a call of this name lately, and it is over."""
        return name in self._over

    def call_in(self, room: str) -> Session | None:
        """The call that is watched there."""
        return next((session for session in self._sessions.values() if session.room.name == room), None)

    async def admit(
        self, offer: str, avatar: str, identity: Identity, room: Room | None = None, mode: Mode = Mode.MIRROR
    ) -> tuple[Session, str]:
        """Start a call, a publisher's where it names its room; returns it with the SDP answer.

        Raises FullHouseError, RoomTakenError or OfferError.
        """
        self.require_room()
        if room is not None and self.call_in(room.name) is not None:
            raise RoomTakenError
        name = self._settings.prefix + secrets.token_urlsafe(12)
        session = Session(
            name,
            avatar,
            identity,
            room,
            mode,
            self._services,
            self._batcher,
            self._governor,
            self._settings,
            self._metrics,
        )
        self._sessions[name] = session  # counted from here on, so that two offers cannot take one place
        self._metrics.sessions.set(len(self._sessions))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._group.create_task(self._live(session, offer, answer), name=f"session {name}")
        return session, await answer

    async def _look_at_load(self) -> None:
        """Tell the governor once a second how the machine keeps up."""
        metrics = self._metrics
        now, used, shown, missed = time.monotonic(), time.process_time(), metrics.shown, metrics.missed
        while self._settings.load_shedding:
            await asyncio.sleep(1)
            before, now = now, time.monotonic()
            used_before, used = used, time.process_time()
            live = sum(session.state is State.LIVE and session.watched for session in self._sessions.values())
            self._governor.look(
                now, now - before, live, metrics.shown - shown, metrics.missed - missed, used - used_before
            )
            shown, missed = metrics.shown, metrics.missed

    async def _tidy(self) -> None:
        """Give back what calls left, a moment after they ended."""
        while True:
            await self._left.wait()
            await asyncio.sleep(PAUSE)
            self._left.clear()
            memory.give_back()

    async def _live(self, session: Session, offer: str, answer: asyncio.Future[str]) -> None:
        """A call's whole life; whatever goes wrong in it stays in it."""
        logs.session.set(session.id)
        try:
            async with session:
                answer.set_result(await session.connect(offer))
                logger.info("session %s up: avatar %s", session.id, session.avatar)
                await session.run()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            else:
                logger.exception("session %s failed", session.id)
                self._metrics.errors.labels("session").inc()
        finally:
            del self._sessions[session.id]
            self._over.append(session.id)
            self._changed.set()
            self._metrics.sessions.set(len(self._sessions))
            self._metrics.ended.labels(session.reason or "unknown").inc()
            self._left.set()
