"""What an avatar speaks with when nothing was sent to be said."""

from __future__ import annotations

from enum import StrEnum

from engines.types import KDTalkerError


class Mode(StrEnum):
    MIRROR = "mirror"  # the caller's own voice
    AGENT = "agent"  # the answers of a language model
    SPEAK = "speak"  # nothing
    PUSH = "push"  # sound that a channel pushes


class ConversationError(KDTalkerError):
    """This cannot be said or done in this call; the text says why."""
