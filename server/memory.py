"""What calls leave in the C library's heaps goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _found() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no such handle on Windows
        return None
    return trim


_trim = _found()


def give_back() -> None:
    """Return free pages of all heaps (glibc; nothing elsewhere). Takes milliseconds: call it when nobody calls.

    Encoders and decoders of a call allocate on threads of their own, each of which has a heap that glibc keeps.
    """
    if _trim is not None:
        _trim(0)
