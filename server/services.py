"""What conversations ask of others: voices, and the endpoints of an agent."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from engines.media import speech_of
from server.espeak import Espeak
from server.modes import ConversationError, Mode
from server.settings import Settings
from server.spoken import Piece
from server.voices import Sound, Voice, Voices


class Services:
    """Of one server, for all of its calls."""

    def __init__(self, settings: Settings) -> None:
        voices: list[Voice] = [Espeak()]
        if settings.voice is not None:
            voices.insert(0, settings.voice())
        self.voices = Voices(voices)
        self._executor = ThreadPoolExecutor(1, "speech")

    def require(self, mode: Mode) -> None:
        """Raise ConversationError where a call cannot be held in this mode."""
        if mode is Mode.AGENT:
            raise ConversationError("This server has no language model for mode 'agent'; KDTALKER_LLM_URL names one.")

    async def piece(self, sound: Sound) -> Piece:
        """A voice's sound as calls need it."""
        loop = asyncio.get_running_loop()
        speech = await loop.run_in_executor(self._executor, speech_of, sound.pcm, sound.rate)
        return Piece(sound.text, speech, sound.words)

    async def close(self) -> None:
        await self.voices.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
