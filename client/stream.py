"""What arrives, for whoever iterates over it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Stream(Generic[Item]):
    """`async for item in stream`, until the call is over; for one reader at a time.

    The newest `kept` items wait for the reader; older ones are left out and counted as `dropped`, so that what nobody
    reads costs no memory and what is read is of the present.
    """

    def __init__(self, kept: int) -> None:
        self.dropped = 0
        self._items: deque[Item] = deque(maxlen=kept)
        self._changed = asyncio.Event()
        self._over = False

    def put(self, item: Item) -> None:
        """Add the next item."""
        self.dropped += len(self._items) == self._items.maxlen
        self._items.append(item)
        self._changed.set()

    def end(self) -> None:
        """Nothing will follow; what waits can still be read."""
        self._over = True
        self._changed.set()

    def __aiter__(self) -> Stream[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()
