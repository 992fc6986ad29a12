"""A server whose engines can be made to fail while it runs.

    python -m benchmarks.faulty DIGEST

serves with the settings of the environment, as `kdtalker serve` does. On SIGUSR1 the renderer raises for the face
with this digest, on SIGUSR2 it hangs, and on SIGHUP it works again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engines.pipeline import Talker
from engines.renderer import Renderer, Staged
from engines.runtime.base import Engine
from engines.types import ByteArray, FloatArray, Identity
from server import house
from server.app import serve
from server.settings import Settings

SIGNALS = {signal.SIGUSR1: "raise", signal.SIGUSR2: "hang"}
HEALED = signal.SIGHUP


class Trouble:
    """What a part does instead of its work: nothing special, raise, or hang until `free` is set."""

    def __init__(self) -> None:
        self.kind = ""
        self.met = 0
        self.free = threading.Event()

    def meet(self) -> None:
        if self.kind:
            self.met += 1
        if self.kind == "raise":
            raise RuntimeError("a fault that was asked for")
        if self.kind == "hang":
            self.free.wait()


class _FaultyStage:
    def __init__(self, real: Staged, trouble: Trouble) -> None:
        self._real, self._trouble = real, trouble

    @property
    def size(self) -> tuple[int, int]:
        return self._real.size

    def __call__(self, frame: FloatArray) -> ByteArray:
        self._trouble.meet()
        return self._real(frame)


class FaultyRenderer:
    """A real renderer that can be made to fail; with a `digest` for one face alone."""

    def __init__(self, real: Renderer, trouble: Trouble, digest: str | None = None) -> None:
        self._real, self._trouble, self._digest = real, trouble, digest

    def staged(self, identity: Identity, view: str, background: str) -> Staged:
        real = self._real.staged(identity, view, background)
        return _FaultyStage(real, self._trouble) if self._digest in (None, identity.digest) else real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class FaultyEngine:
    """A real engine that can be made to fail."""

    def __init__(self, real: Engine, trouble: Trouble) -> None:
        self._real, self._trouble = real, trouble

    def run(self, **inputs: Any) -> Mapping[str, Any]:
        self._trouble.meet()
        return self._real.run(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def main(argv: list[str]) -> None:
    trouble, opened = Trouble(), house.open_talker

    def troubled(*arguments: Any) -> Talker:
        talker = opened(*arguments)
        return replace(talker, renderer=FaultyRenderer(talker.renderer, trouble, argv[0]))

    def change(number: int, _: object) -> None:
        trouble.kind = SIGNALS.get(signal.Signals(number), "")
        if not trouble.kind:
            trouble.free.set()
        else:
            trouble.free.clear()

    for number in (*SIGNALS, HEALED):
        signal.signal(number, change)
    setattr(house, "open_talker", troubled)  # noqa: B010  # the house opens what this makes of the real one
    serve(Settings())


if __name__ == "__main__":
    main(sys.argv[1:])
