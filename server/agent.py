"""The one who answers a caller: understands a turn, asks the language model, and keeps what was said."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from engines.types import FloatArray
from server.endpoints import LanguageModel, Message, Recognition
from server.sentences import Sentences

REMEMBERED = 40  # messages


class Agent:
    """Of one call. Endpoints that fail raise EndpointError; what was said before is kept."""

    def __init__(self, recognition: Recognition, model: LanguageModel, prompt: str) -> None:
        self._recognition, self._model, self._prompt = recognition, model, prompt
        self._history: list[Message] = []

    async def understand(self, pcm: FloatArray) -> str:
        """What the caller said, f32 (samples,) at 16 kHz; empty where it was nothing."""
        text = await self._recognition.text(pcm)
        if text:
            self._remember("user", text)
        return text

    async def answer(self) -> AsyncGenerator[str]:
        """The sentences of the next answer, each as soon as it is written."""
        reader = Sentences()
        messages = [{"role": "system", "content": self._prompt}, *self._history]
        async with aclosing(self._model.reply(messages)) as written:
            async for text in written:
                for sentence in reader.add(text):
                    yield sentence
        for sentence in reader.rest():
            yield sentence

    def said(self, text: str) -> None:
        """What the avatar said, as far as it was heard."""
        if text:
            self._remember("assistant", text)

    def _remember(self, role: str, text: str) -> None:
        if self._history and self._history[-1]["role"] == role:  # a caller who went on; models want turns
            text = f"{self._history.pop()['content']} {text}"
        self._history.append({"role": role, "content": text})
        del self._history[:-REMEMBERED]
