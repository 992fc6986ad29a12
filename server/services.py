"""What conversations ask of others: voices, and the endpoints of an agent."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from engines.media import speech_of
from server.agent import Agent
from server.endpoints import Address, Client, LanguageModel, Recognition, RemoteVoice
from server.espeak import DEFAULT, Espeak
from server.modes import ConversationError, Mode
from server.settings import Settings
from server.spoken import Piece
from server.voices import Sound, Voice, Voices


class Services:
    """Of one server, for all of its calls."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Client(settings.endpoint_timeout)
        self._executor = ThreadPoolExecutor(1, "speech")
        voices: list[Voice] = []
        if settings.voice is not None:
            voices.append(settings.voice())
        if settings.tts_url is not None:
            address = Address("The voice", settings.tts_url, settings.tts_model, settings.tts_key)
            voices.append(RemoteVoice(self._client, address, settings.tts_voice or "default"))
        own = DEFAULT if settings.tts_url is not None else settings.tts_voice or DEFAULT
        self.voices = Voices([*voices, Espeak(own)])

    def require(self, mode: Mode) -> None:
        """Raise ConversationError where a call cannot be held in this mode."""
        if mode is Mode.AGENT and self._settings.llm_url is None:
            raise ConversationError("This server has no language model for mode 'agent'; KDTALKER_LLM_URL names one.")

    def agent(self) -> Agent | None:
        """A new one, for one call; None where there is no language model."""
        given = self._settings
        if given.llm_url is None:
            return None
        model = Address("The language model", given.llm_url, given.llm_model, given.llm_key)
        recognition = Address(
            "Speech recognition",
            given.stt_url or given.llm_url,
            given.stt_model,
            given.stt_key if given.stt_url else given.stt_key or given.llm_key,
        )
        return Agent(Recognition(self._client, recognition), LanguageModel(self._client, model), given.prompt)

    async def piece(self, sound: Sound) -> Piece:
        """A voice's sound as calls need it."""
        loop = asyncio.get_running_loop()
        speech = await loop.run_in_executor(self._executor, speech_of, sound.pcm, sound.rate)
        return Piece(sound.text, speech, sound.words)

    async def close(self) -> None:
        await self.voices.close()
        await self._client.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
