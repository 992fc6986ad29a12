"""What a way out of `kdtalker present` is."""

from __future__ import annotations

from typing import Protocol

from engines.types import ByteArray, IntArray, KDTalkerError
from server.clock import SessionClock


class OutletError(KDTalkerError):
    """Nobody takes what is published; the text says why, to a person."""


class Outlet(Protocol):
    """One connection, used on the event loop. Ticks count from its beginning."""

    @property
    def failure(self) -> str | None:
        """Why nothing goes out any more; None while it does."""
        ...

    @property
    def left_out(self) -> int:
        """Pictures that were put and that the machine or the line had no time for."""
        ...

    async def open(self) -> None:
        """Connect; raises OutletError."""
        ...

    def begin(self, clock: SessionClock) -> None:
        """Tick 0 is about to be put; each is sent at its `due`."""
        ...

    def put(self, tick: int, playback: IntArray, rgb: ByteArray | None) -> None:
        """Sound i16 (1920,) of every tick in order, and its picture u8 (H, W, 3), where there is one."""
        ...

    async def close(self) -> None:
        """Send what was put and leave nothing behind; may be called where `open` failed."""
        ...
