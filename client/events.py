"""What a call tells while it goes on: one frozen record for each type of event on its channel (docs/server.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened. `members`: all that the server said of it; the records below name what they know."""

    type: str = ""
    members: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Event):
    """The call is `connecting`, `live`, `reconnecting` or, with a `reason`, `ended`."""

    kind: ClassVar[str] = "state"
    state: str = ""
    reason: str | None = None
    mode: str = ""
    controls: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose(Event):
    """The controls are now as `members` has them, because this or another client set some."""

    kind: ClassVar[str] = "pose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Event):
    """The conversation is `idle`, or the avatar is `listening`, `thinking` or `speaking`."""

    kind: ClassVar[str] = "turn"
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtitle(Event):
    """What the `user` or the `avatar` says; one with the same `id` takes the place of the one before until `final`."""

    kind: ClassVar[str] = "subtitle"
    who: str = ""
    text: str = ""
    final: bool = False
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken(Event):
    """A text is spoken to its end, or as far as `said` because it was `interrupted`."""

    kind: ClassVar[str] = "spoken"
    id: int = 0
    said: str = ""
    unsaid: str = ""
    interrupted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech(Event):
    """A text, a file or pushed sound is `queued`, is spoken from now on (`begun`) or no more (`ended`, `stopped`)."""

    kind: ClassVar[str] = "speech"
    state: str = ""
    id: int | None = None
    seconds: float | None = None
    waiting: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Event):
    """The server's own recording of the call is whole."""

    kind: ClassVar[str] = "recording"
    state: str = ""
    reason: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble(Event):
    """Something that the conversation needs does not work; `detail` says it in words for people."""

    kind: ClassVar[str] = "trouble"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """Something that was sent could not be understood or done; the call goes on."""

    kind: ClassVar[str] = "error"
    detail: str = ""


_KNOWN: Mapping[str, type[Event]] = {
    record.kind: record for record in (State, Pose, Turn, Subtitle, Spoken, Speech, Recorded, Trouble, Refused)
}


def event_of(message: Mapping[str, Any]) -> Event:
    """A message of the channel -> its record; of a type that is not known here, a plain `Event`."""
    kind = str(message.get("type", ""))
    record = _KNOWN.get(kind, Event)
    named = {entry.name for entry in fields(record)} - {"type", "members"}
    return record(
        type=kind,
        members={name: value for name, value in message.items() if name != "type"},
        **{name: value for name, value in message.items() if name in named},
    )
