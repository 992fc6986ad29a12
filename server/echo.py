"""Whether a microphone hears a caller or the avatar itself."""

from __future__ import annotations

from engines.types import FloatArray


class EchoCheck:
    """Of one call, tick by tick."""

    def played(self, pcm: FloatArray) -> None:
        """What the avatar says in this tick, f32 (640,) at 16 kHz."""

    def explains(self, pcm: FloatArray, voiced: bool) -> bool:
        """Whether a microphone's tick f32 (640,) is what was played."""
        return False
