"""What calls leave behind goes back to the system: objects that refer to each other, and free pages of the heaps."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable


def _found() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no such handle on Windows
        return None
    return trim


_trim = _found()


def give_back() -> None:
    """Collect garbage, then return free pages of all heaps (glibc): some milliseconds, in which nothing else runs.

    A connection's parts refer to each other, so that nothing frees them before the collector comes by, and meanwhile
    others' memory settles between them. Encoders and decoders of a call allocate on threads of their own, each of
    which has a heap that glibc keeps.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)
