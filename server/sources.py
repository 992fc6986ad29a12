"""Where a caller's voice comes from, and that one source at most feeds an avatar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.connection import Connection
from server.conversation import Conversation
from server.ingest import PushedSound
from server.modes import Mode
from server.tracks import MicrophoneReader


class SourceTakenError(Exception):
    """Something feeds the avatar already; the text says what."""


class Sources:
    """The microphone of a call's present connection, and the channel that sends sound beside or in place of it."""

    def __init__(self, connection: Callable[[], Connection], conversation: Conversation) -> None:
        self._connection, self._conversation = connection, conversation
        self._pushed: PushedSound | None = None

    @property
    def microphone(self) -> MicrophoneReader:
        """What is heard of the caller."""
        if self._pushed is not None and self._conversation.mode is not Mode.PUSH:
            return self._pushed.microphone
        return self._connection().microphone

    def change_mode(self, mode: Mode) -> None:
        """Let something else speak from now on; raises ConversationError or SourceTakenError."""
        if mode is not Mode.PUSH and self._pushed is not None and self._connection().has_microphone:
            raise SourceTakenError("A channel pushes sound and there is a microphone; close the channel first.")
        self._conversation.change_mode(mode)

    @contextmanager
    def fed_by(self, sound: PushedSound) -> Iterator[None]:
        """Let a channel send this sound meanwhile; raises SourceTakenError where something else stands in its place."""
        taken = self._conversation.mode is not Mode.PUSH and self._connection().has_microphone
        if self._pushed is not None or taken:
            raise SourceTakenError("Something else feeds this avatar: a microphone, or a channel.")
        self._pushed = sound
        try:
            yield
        finally:
            self._pushed = None
            self._conversation.end_push()

    def feed(self, pcm: bytes) -> None:
        """PCM that the channel sends, by `fed_by`; raises TooMuchError."""
        assert self._pushed is not None
        sound = self._pushed.read(pcm)
        if self._conversation.mode is Mode.PUSH:
            self._conversation.push(sound)
        else:
            self._pushed.hear(sound)
