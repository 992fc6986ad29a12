"""Sent photos, prepared to talk: who may show them, how many are kept, and for how long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engines.types import Identity


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


class Shelf(Protocol):
    """Where sent photos are kept: in this process, or for all workers of a cluster."""

    async def put(self, avatar: Avatar, photo: bytes) -> None:
        """Keep a face and the photo that it was made of; raises EnrolmentBusyError."""

    async def find(self, name: str, owner: str) -> Avatar | bytes | None:
        """A face that `owner` sent; its photo alone where the face has to be made of it once more."""

    async def remove(self, name: str, owner: str) -> bool:
        """Delete what `owner` sent; False where there is nothing."""


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


class OwnShelf:
    """In this process's memory: at most `limit` faces, each for `keep` seconds."""

    def __init__(self, limit: int, keep: float) -> None:
        self._sent = SentPhotos(limit)
        self._keep = keep

    async def put(self, avatar: Avatar, photo: bytes) -> None:
        self._sent.put(avatar)
        asyncio.get_running_loop().call_later(self._keep, self._sent.forget, avatar.id)

    async def find(self, name: str, owner: str) -> Avatar | None:
        return self._sent.find(name, owner)

    async def remove(self, name: str, owner: str) -> bool:
        there = self._sent.find(name, owner) is not None
        if there:
            self._sent.forget(name)
        return there
