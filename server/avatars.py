"""The faces that can talk: the ones that ship, and the photos people send.

A sent photo lives in memory only, under a name nobody can guess, and appears in no list.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import cv2

from engines.pipeline import Talker
from engines.portrait.identity_store import IdentityStore
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import digest_of, prepare
from engines.types import ByteArray, Identity, KDTalkerError, Portrait
from engines.warp.enrolment import VERSION

DEFAULT = "iris"
WAITING_PHOTOS = 8  # then the next one is asked to come back
PICTURE_QUALITY = 90


class EnrolmentBusyError(Exception):
    """Too many photos wait to be prepared."""


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


class Avatars:
    """Faces by name. Photos are prepared one at a time on a thread of their own, at low priority.

    At most `limit` sent photos are kept, each for `keep` seconds; a call that shows one keeps it to its own end.
    """

    def __init__(self, limit: int, cache: Path, keep: float) -> None:
        self._store = IdentityStore(cache / "identities", VERSION)
        self._shipped: dict[str, Avatar] = {}
        self._sent: dict[str, Avatar] = {}
        self._limit, self._keep = limit, keep
        self._waiting = 0
        self._talker: Talker | None = None
        self._landmarker: FaceLandmarker | None = None
        self._executor = ThreadPoolExecutor(1, "enrol")

    def open(self, talker: Talker) -> None:
        """Enrol the faces that ship, from the cache where it has them; afterwards this thread steps back."""
        self._talker = talker
        for entry in sorted(files("engines").joinpath("avatars").iterdir(), key=lambda entry: entry.name):
            name, _, kind = entry.name.rpartition(".")
            if kind in ("jpg", "png"):
                self._shipped[name] = self._ship(name, entry.read_bytes())
        self._close_landmarker()  # its threads are not low in priority; the next one's are
        _step_back()

    async def run(self, work: Callable[[], None]) -> None:
        """Run something slow where photos are prepared, out of every call's way."""
        await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        self._executor.submit(self._close_landmarker)
        self._executor.shutdown(wait=True, cancel_futures=False)

    @property
    def default(self) -> str:
        return DEFAULT if DEFAULT in self._shipped else next(iter(self._shipped), DEFAULT)

    def listed(self) -> list[Avatar]:
        return list(self._shipped.values())

    def find(self, name: str, holder: str) -> Avatar | None:
        """A face that ships, or one that `holder` sent; what others sent is not there."""
        sent = self._sent.get(name)
        return self._shipped.get(name) or (sent if sent is not None and sent.owner == holder else None)

    def remove(self, name: str, holder: str) -> bool:
        """Delete a photo that `holder` sent; False where there is none."""
        there = name in self._sent and self._sent[name].owner == holder
        if there:
            del self._sent[name]
        return there

    async def add(self, photo: bytes, owner: str) -> Avatar:
        """Enrol a sent photo; raises PortraitError or EnrolmentBusyError. The oldest sent one may have to go."""
        if self._waiting >= WAITING_PHOTOS:
            raise EnrolmentBusyError
        self._waiting += 1
        try:
            name = secrets.token_urlsafe(12)
            loop = asyncio.get_running_loop()
            avatar = await loop.run_in_executor(self._executor, self._make, name, photo, owner)
        finally:
            self._waiting -= 1
        self._sent[name] = avatar
        loop.call_later(self._keep, self._sent.pop, name, None)
        while len(self._sent) > self._limit:
            del self._sent[next(iter(self._sent))]
        return avatar

    def _ship(self, name: str, photo: bytes) -> Avatar:
        assert self._talker is not None
        identity = self._store.enrolled(
            self._talker.profile.name, digest_of(photo), lambda: self._enrol(self._prepare(photo))
        )
        return Avatar(name, name.replace("_", " ").capitalize(), identity, _jpeg(identity.crop))

    def _make(self, name: str, photo: bytes, owner: str) -> Avatar:
        portrait = self._prepare(photo)
        return Avatar(name, "Your photo", self._enrol(portrait), _jpeg(portrait.crop), portrait.report, owner)

    def _prepare(self, photo: bytes) -> Portrait:
        if self._landmarker is None:
            self._landmarker = FaceLandmarker()
        return prepare(photo, self._landmarker)

    def _enrol(self, portrait: Portrait) -> Identity:
        assert self._talker is not None, "open first"
        return self._talker.renderer.enrol(portrait)

    def _close_landmarker(self) -> None:
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None


def _jpeg(rgb: ByteArray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    if not done:
        raise KDTalkerError("The prepared picture could not be written as JPEG.")
    return data.tobytes()


def _step_back() -> None:
    """Let the threads of running calls go first; on Linux niceness belongs to a thread."""
    if sys.platform == "linux":
        os.nice(10)
