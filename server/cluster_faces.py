"""Sent photos of a whole cluster: one actor has them, so that any worker can show a face that another one took."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from server.photos import Photos
from server.shelf import Avatar, EnrolmentBusyError, OwnShelf

SWEEP = 600.0  # seconds between looks for photos whose time is over
PATIENCE = 10.0  # seconds that a worker waits for this actor, which may be beginning anew


class Faces:
    """An actor. Faces are in its memory; with `url` their photos are files as well and outlive it."""

    async def __init__(self, limit: int, keep: float, url: str | None) -> None:  # type: ignore[misc]
        self._shelf = OwnShelf(limit, keep)
        self._photos = Photos(url, keep) if url else None
        if self._photos is not None:
            self._sweeping = asyncio.create_task(self._sweep(self._photos), name="photos")

    async def put(self, avatar: Avatar, photo: bytes) -> bool:
        """Whether there was room for it."""
        try:
            await self._shelf.put(avatar, photo)
        except EnrolmentBusyError:
            return False
        if self._photos is not None and avatar.owner is not None:
            await asyncio.to_thread(self._photos.put, avatar.id, avatar.owner, photo)
        return True

    async def find(self, name: str, owner: str) -> Avatar | bytes | None:
        """The face; its photo alone where this actor began anew since."""
        found = await self._shelf.find(name, owner)
        if found is not None or self._photos is None:
            return found
        return await asyncio.to_thread(self._photos.find, name, owner)

    async def remove(self, name: str, owner: str) -> bool:
        there = await self.find(name, owner) is not None
        await self._shelf.remove(name, owner)
        if there and self._photos is not None:
            await asyncio.to_thread(self._photos.remove, name)
        return there

    async def _sweep(self, photos: Photos) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            await asyncio.to_thread(photos.sweep)


class ClusterShelf:
    """The `server.shelf.Shelf` of a worker: the actor above."""

    def __init__(self, faces: Any) -> None:
        self._faces = faces

    async def put(self, avatar: Avatar, photo: bytes) -> None:
        if not await self._ask(self._faces.put, avatar, photo):
            raise EnrolmentBusyError

    async def find(self, name: str, owner: str) -> Avatar | bytes | None:
        found: Avatar | bytes | None = await self._ask(self._faces.find, name, owner)
        return found

    async def remove(self, name: str, owner: str) -> bool:
        there: bool = await self._ask(self._faces.remove, name, owner)
        return there

    async def _ask(self, question: Any, *given: object) -> Any:
        try:
            return await asyncio.wait_for(question.remote(*given), PATIENCE)
        except (TimeoutError, ray.exceptions.RayActorError):
            raise EnrolmentBusyError from None
