"""The shelf that recordings lie on: who may fetch them, how many bytes they may take, and when they are deleted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engines.types import ByteArray
from server.recording import Bounds, Recording
from server.settings import Settings

SUFFIX = ".mp4"

logger = logging.getLogger(__name__)


class NoRoomError(Exception):
    """There is no room for another recording; the text says why."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """`owner`: who asked for it (the name of an `auth.Holder`)."""

    name: str
    owner: str
    recording: Recording


class Recordings:
    """Files in `settings.record_folder`, each kept for `settings.keep_recordings` seconds after its call's part in it
    is over, and none longer than the server runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.record_folder or settings.cache / "recordings"
        self._shelf: dict[str, Shelved] = {}
        self._disk = ThreadPoolExecutor(1, "recordings")

    def open(self) -> None:
        """Make the folder and clear it of what a server that crashed left there, once its time is over."""
        if not self._settings.record_seconds:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._folder.glob(f"*{SUFFIX}"):
                if time.time() - path.stat().st_mtime > self._settings.keep_recordings:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("recordings cannot be kept in %s: %s", self._folder, error)

    def begin(self, still: ByteArray, owner: str, label: str, ended: Callable[[], None]) -> Shelved:
        """Start a file; raises NoRoomError. `still`, `ended` and `label` as in `Recording`.

        A disk without room ends it at once, as one does that fills up later.
        """
        limits = self._settings
        if not limits.record_seconds:
            raise NoRoomError("This server does not record.")
        if sum(shelved.recording.stats()["bytes"] for shelved in self._shelf.values()) >= limits.record_total:
            raise NoRoomError("The server keeps as many recordings as it may; delete one, or try again later.")
        name = limits.prefix + secrets.token_urlsafe(12)
        bounds = Bounds(limits.record_seconds, limits.record_bytes, limits.record_free)

        def over() -> None:
            asyncio.get_running_loop().call_later(limits.keep_recordings, self._drop, name)
            ended()

        recording = Recording(self._folder / f"{name}{SUFFIX}", still, bounds, over, label)
        self._shelf[name] = Shelved(name, owner, recording)
        return self._shelf[name]

    def find(self, name: str, holder: str) -> Shelved | None:
        """A recording that `holder` asked for; what others asked for is not there."""
        shelved = self._shelf.get(name)
        return shelved if shelved is not None and shelved.owner == holder else None

    async def remove(self, name: str, holder: str) -> bool:
        """End and delete a recording that `holder` asked for; False where there is none."""
        shelved = self.find(name, holder)
        if shelved is None:
            return False
        shelved.recording.stop("deleted")
        await shelved.recording.closed()
        self._drop(name)
        return True

    async def close(self) -> None:
        """End and delete them all."""
        for shelved in list(self._shelf.values()):
            await self.remove(shelved.name, shelved.owner)
        self._disk.shutdown(wait=True)

    def _drop(self, name: str) -> None:
        shelved = self._shelf.pop(name, None)
        if shelved is not None:
            self._disk.submit(_unlink, shelved.recording.path)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
