"""Everything a running server holds, and the order in which it comes up and goes down."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import cv2
import numpy as np

from engines.pipeline import Talker
from engines.talkers import open_talker
from engines.types import SPEECH_SAMPLES, Identity, KDTalkerError
from server.avatars import Avatars
from server.batcher import Batcher
from server.metrics import Metrics
from server.reception import Reception
from server.recordings import Recordings
from server.services import Services
from server.settings import Settings
from server.shelf import OwnShelf, Shelf
from server.sound_files import SoundReader

logger = logging.getLogger(__name__)
WARM_TICKS = 25


class House:
    """Settings, metrics, avatars and, once the engines are warm, the reception that takes calls.

    `on_ready` is called when the first call can be taken, `on_failure` when that will never be; then
    `failure` says why.
    """

    def __init__(self, settings: Settings, shelf: Shelf | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.avatars = Avatars(settings.cache, shelf or OwnShelf(settings.max_avatars, settings.keep_photos))
        self.recordings = Recordings(settings)
        self.sounds = SoundReader()
        self.services = Services(settings)
        self.reception: Reception | None = None
        self._group: asyncio.TaskGroup | None = None  # while it is open
        self.failure: Exception | None = None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve at once, take calls as soon as the engines are warm; leaving it ends every call."""
        cv2.setNumThreads(1)  # parallelism belongs to the workers
        leaving = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._live(leaving), name="house")
            try:
                yield
            finally:
                self._group = None
                leaving.set()

    def drain(self, done: Callable[[], None]) -> None:
        """Take no new calls; `done` is called when the running ones have finished or had their time."""

        async def wait() -> None:
            if self.reception is not None:
                await self.reception.drain(self.settings.drain)
            done()

        if self._group is None:
            done()
        else:
            self._group.create_task(wait(), name="drain")

    async def _live(self, leaving: asyncio.Event) -> None:
        opened: list[Talker] = []
        try:
            await self.avatars.run(lambda: opened.append(self._warm()))
        except Exception as error:  # told to whoever asks and to the person at the terminal
            self.failure = error
            if not isinstance(error, KDTalkerError):
                logger.exception("the engines could not be opened")
            self.on_failure()
            await leaving.wait()
            await self.services.close()
            self.avatars.close()
            return
        batcher = Batcher(opened[0], self.settings.workers, self.metrics)
        try:
            async with Reception(batcher, self.services, self.settings, self.metrics) as self.reception:
                self.on_ready()
                await leaving.wait()
        finally:
            await self.recordings.close()
            self.sounds.close()
            await self.services.close()
            batcher.close()
            self.avatars.close()

    def _warm(self) -> Talker:
        """Open the engines and run a second of sound through them, so that the first call finds them quick."""
        begin = time.perf_counter()
        talker = open_talker(self.settings.profile, self.settings.weights, self.settings.hop)
        talker.warm()
        talker.placing.offer.require(self.settings.controls)
        self.avatars.open(talker)
        self.recordings.open()
        _exercise(talker, self.avatars.listed()[0].identity)
        # What lives as long as the server is not searched for garbage again: that stops every thread for 70 ms.
        gc.collect()
        gc.freeze()
        logger.info("profile %s ready after %.1f s", talker.profile.name, time.perf_counter() - begin)
        return talker


def _exercise(talker: Talker, identity: Identity) -> None:
    talk = talker.begin(identity)
    for _ in range(WARM_TICKS):
        for motion in talker.listen(talk, np.zeros(SPEECH_SAMPLES, np.float32)):
            talker.render([identity], motion.motion[None])
