"""Sentences become sound before it is their turn, in the order in which they are to be said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from server.modes import ConversationError
from server.services import Services
from server.spoken import Piece, Spoken, Utterance, mute
from server.voices import Voice, VoiceError

AHEAD = 20.0  # seconds of sound that are made before they are needed

logger = logging.getLogger(__name__)


class Voicing:
    """Gives the utterances of one call their sound. Used on the event loop; `tell(kind, ...)` hears of trouble."""

    def __init__(self, name: str, spoken: Spoken, services: Services, tell: Callable[..., None]) -> None:
        self._name, self._spoken, self._services, self._tell = name, spoken, services, tell
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            utterance = self._next()
            if utterance is None:
                self._changed.clear()
                await self._changed.wait()
            else:
                await self._give_voice(utterance)

    def look(self) -> None:
        """There may be a sentence without a voice, or room for its sound."""
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Characters that no voice has spoken yet."""
        return sum(len(piece) for utterance in self._spoken for piece in utterance.pending)

    async def require(self, name: str) -> None:
        """Raise ConversationError where there is no such voice."""
        try:
            if await self._services.voices.find(name) is None:
                raise ConversationError(f"There is no voice '{name}'; GET /voices lists them.")
        except VoiceError as error:
            raise ConversationError(str(error)) from error

    async def warm(self, name: str) -> None:
        """Let a voice that has to start do so before it is needed."""
        with suppress(VoiceError):
            await self._services.voices.find(name)

    def _next(self) -> Utterance | None:
        if self._spoken.seconds > AHEAD:
            return None
        return next((utterance for utterance in self._spoken if utterance.pending), None)

    async def _give_voice(self, utterance: Utterance) -> None:
        """Make the sound of an utterance's next sentence; where its voice fails, by the spare one."""
        text, voices = utterance.pending[0], self._services.voices
        try:
            pieces = await self._pieces(text, utterance.voice)
        except VoiceError as error:
            if utterance.voice != voices.spare.default:
                utterance.voice = voices.spare.default  # for the rest of it too
                self._tell("trouble", detail=f"{error} Another voice speaks meanwhile.")
                return
            self._tell("trouble", detail=str(error))
            pieces = [mute(text)]
        if not utterance.stopped:
            utterance.pending.popleft()
            utterance.pieces.extend(pieces)

    async def _pieces(self, text: str, name: str) -> list[Piece]:
        voice: Voice | None = await self._services.voices.find(name)
        if voice is None:
            raise VoiceError(f"There is no voice '{name}' any more.")
        try:
            return [await self._services.piece(sound) async for sound in voice.speak(text, name)]
        except VoiceError:
            raise
        except Exception as error:  # voices are plugins
            logger.exception("session %s: a voice failed", self._name)
            raise VoiceError("This voice failed at a sentence.") from error
