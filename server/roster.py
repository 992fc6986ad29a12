"""What an ingress knows of the workers: what the registry told it last, and what it has met itself since."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from server.placement import Directory, Phase, WorkerState

LOOK = 0.5  # seconds between looks at the registry
SOONEST = 0.1  # seconds between looks that a request asks for
PATIENCE = 2.0  # seconds that the registry has to answer

logger = logging.getLogger(__name__)


class Registry(Protocol):
    """Who knows the workers."""

    async def workers(self) -> tuple[WorkerState, ...]:
        """All of them, as they last described themselves."""

    async def claim(self, room: str, worker: str) -> str:
        """The worker that has this room: `worker`, unless another one was given it."""


class Roster:
    """The directory of workers, which follows the registry while it is open."""

    def __init__(self, registry: Registry) -> None:
        self.directory = Directory()
        self._registry = registry
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        following = asyncio.create_task(self._follow(), name="directory")
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def look(self) -> None:
        """See what the registry knows; while it does not answer, what was known goes on."""
        async with self._looking:
            if time.monotonic() - self._looked < SOONEST:
                return
            try:
                async with asyncio.timeout(PATIENCE):
                    known = await self._registry.workers()
            except Exception as error:  # whatever the registry's transport raises
                logger.warning("the directory of workers does not answer: %s", str(error).partition("\n")[0])
                return
            finally:
                self._looked = time.monotonic()
            names = {worker.name for worker in known}
            for gone in [worker.name for worker in self.directory if worker.name not in names]:
                self.directory.drop(gone)
            for worker in known:
                self.directory.put(worker)

    async def claim(self, room: str, worker: str) -> str:
        """The worker that has this room."""
        return await self._registry.claim(room, worker)

    def living(self, name: str) -> WorkerState | None:
        """A worker that has what it was given; None where there is none, or where it began anew and has forgotten."""
        worker = self.directory.find(name)
        return None if worker is None or worker.phase is Phase.STARTING else worker

    async def _follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK)
