"""Calls to an avatar server from a program; docs/client.md shows how.

async with AvatarClient("http://127.0.0.1:8080", avatar="...") as call:
    async for frame in call.video:
        ...
"""

from client.avatar_client import AvatarClient, Mode
from client.errors import AvatarError
from client.events import (
    Event,
    Pose,
    Recorded,
    Refused,
    Speech,
    Spoken,
    State,
    Subtitle,
    Trouble,
    Turn,
)
from client.sound import open_sound
from client.stream import Stream

__all__ = [
    "AvatarClient",
    "AvatarError",
    "Event",
    "Mode",
    "Pose",
    "Recorded",
    "Refused",
    "Speech",
    "Spoken",
    "State",
    "Stream",
    "Subtitle",
    "Trouble",
    "Turn",
    "open_sound",
]
