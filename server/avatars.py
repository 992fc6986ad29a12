"""The faces that can talk: the ones that ship, and the photos people send.

A sent photo has a name that nobody can guess, and appears in no list.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from engines.pipeline import Talker
from engines.portrait.identity_store import IdentityStore
from engines.portrait.prepare import digest_of
from engines.warp.enrolment import VERSION
from server.enrolment import Enroller, jpeg
from server.shelf import Avatar, EnrolmentBusyError, Shelf

DEFAULT = "iris"
WAITING_PHOTOS = 8  # then the next one is asked to come back


class Avatars:
    """Faces by name. Photos are prepared one at a time, in a process of their own.

    Sent ones lie on the `shelf`; a call that shows one keeps it to its own end.
    """

    def __init__(self, cache: Path, shelf: Shelf) -> None:
        self._store = IdentityStore(cache / "identities", VERSION)
        self._shipped: dict[str, Avatar] = {}
        self._shelf = shelf
        self._waiting = 0
        self._enroller: Enroller | None = None
        self._executor = ThreadPoolExecutor(1, "enrol")

    def open(self, talker: Talker) -> None:
        """Enrol the faces that ship, from the cache where it has them."""
        self._enroller = Enroller(talker.profile.name)
        for entry in sorted(files("engines").joinpath("avatars").iterdir(), key=lambda entry: entry.name):
            name, _, kind = entry.name.rpartition(".")
            if kind in ("jpg", "png"):
                self._shipped[name] = self._ship(name, entry.read_bytes(), talker.profile.name)
        self._enroller.stop()  # nobody may ever send a photo

    async def run(self, work: Callable[[], None]) -> None:
        """Run something slow where photos are prepared, out of every call's way."""
        await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        if self._enroller is not None:
            self._enroller.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def default(self) -> str:
        return DEFAULT if DEFAULT in self._shipped else next(iter(self._shipped), DEFAULT)

    def listed(self) -> list[Avatar]:
        return list(self._shipped.values())

    async def find(self, name: str, holder: str) -> Avatar | None:
        """A face that ships, or one that `holder` sent; what others sent is not there."""
        if name in self._shipped:
            return self._shipped[name]
        found = await self._shelf.find(name, holder)
        return await self._enrol(name, found, holder) if isinstance(found, bytes) else found

    async def remove(self, name: str, holder: str) -> bool:
        """Delete a photo that `holder` sent; False where there is none."""
        return await self._shelf.remove(name, holder)

    async def add(self, photo: bytes, owner: str) -> Avatar:
        """Enrol a sent photo; raises PortraitError or EnrolmentBusyError. An older one may have to go."""
        return await self._enrol(secrets.token_urlsafe(12), photo, owner)

    async def _enrol(self, name: str, photo: bytes, owner: str) -> Avatar:
        if self._waiting >= WAITING_PHOTOS:
            raise EnrolmentBusyError
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            avatar = await loop.run_in_executor(self._executor, self._make, name, photo, owner)
        finally:
            self._waiting -= 1
        await self._shelf.put(avatar, photo)
        return avatar

    def _ship(self, name: str, photo: bytes, profile: str) -> Avatar:
        enroller = self._enroller
        assert enroller is not None
        identity = self._store.enrolled(profile, digest_of(photo), lambda: enroller.enrol(photo).identity)
        return Avatar(name, name.replace("_", " ").capitalize(), identity, jpeg(identity.crop))

    def _make(self, name: str, photo: bytes, owner: str) -> Avatar:
        assert self._enroller is not None, "open first"
        made = self._enroller.enrol(photo)
        return Avatar(name, "Your photo", made.identity, made.picture, made.report, owner)
