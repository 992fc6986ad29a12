"""The faces that can talk: the ones that ship, and the photos people send.

A sent photo lives in memory only, under a name nobody can guess, and appears in no list.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from engines.pipeline import Talker
from engines.portrait.identity_store import IdentityStore
from engines.portrait.prepare import digest_of
from engines.types import Identity
from engines.warp.enrolment import VERSION
from server.enrolment import Enroller, jpeg

DEFAULT = "iris"
WAITING_PHOTOS = 8  # then the next one is asked to come back


class EnrolmentBusyError(Exception):
    """Too many photos wait to be prepared, or are kept for others."""


@dataclass(frozen=True, slots=True)
class Avatar:
    """`picture`: JPEG of the square the face is shown in. `report`: what the photo's checks measured.

    `owner`: who sent the photo (the name of an `auth.Holder`), None for a face that ships.
    """

    id: str
    title: str
    identity: Identity
    picture: bytes
    report: Mapping[str, float] = field(default_factory=dict)
    owner: str | None = None


class SentPhotos:
    """At most `limit` sent faces. Where one has to go, it is the oldest of whoever has the most of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._faces: dict[str, Avatar] = {}  # by name, the oldest first

    def put(self, avatar: Avatar) -> None:
        """Keep one more; raises EnrolmentBusyError where that would cost an owner who has no more than this one."""
        counts = Counter(face.owner for face in [*self._faces.values(), avatar])
        self._faces[avatar.id] = avatar
        if len(self._faces) <= self._limit:
            return
        most = max(counts.values())
        losers = {avatar.owner} if counts[avatar.owner] == most else {who for who in counts if counts[who] == most}
        gone = next(face for face in self._faces.values() if face.owner in losers)
        del self._faces[gone.id]
        if gone is avatar:
            raise EnrolmentBusyError

    def find(self, name: str, owner: str) -> Avatar | None:
        face = self._faces.get(name)
        return face if face is not None and face.owner == owner else None

    def forget(self, name: str) -> None:
        self._faces.pop(name, None)


class Avatars:
    """Faces by name. Photos are prepared one at a time, in a process of their own.

    At most `limit` sent photos are kept, each for `keep` seconds; a call that shows one keeps it to its own end.
    """

    def __init__(self, limit: int, cache: Path, keep: float) -> None:
        self._store = IdentityStore(cache / "identities", VERSION)
        self._shipped: dict[str, Avatar] = {}
        self._sent = SentPhotos(limit)
        self._keep = keep
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

    def find(self, name: str, holder: str) -> Avatar | None:
        """A face that ships, or one that `holder` sent; what others sent is not there."""
        return self._shipped.get(name) or self._sent.find(name, holder)

    def remove(self, name: str, holder: str) -> bool:
        """Delete a photo that `holder` sent; False where there is none."""
        there = self._sent.find(name, holder) is not None
        if there:
            self._sent.forget(name)
        return there

    async def add(self, photo: bytes, owner: str) -> Avatar:
        """Enrol a sent photo; raises PortraitError or EnrolmentBusyError. An older one may have to go."""
        if self._waiting >= WAITING_PHOTOS:
            raise EnrolmentBusyError
        self._waiting += 1
        try:
            name = secrets.token_urlsafe(12)
            loop = asyncio.get_running_loop()
            avatar = await loop.run_in_executor(self._executor, self._make, name, photo, owner)
        finally:
            self._waiting -= 1
        self._sent.put(avatar)
        loop.call_later(self._keep, self._sent.forget, name)
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
