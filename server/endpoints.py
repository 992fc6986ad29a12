"""Speech recognition, a language model and voices behind the OpenAI API, whoever serves it (`/audio/transcriptions`,
`/chat/completions`, `/audio/speech`). Whatever goes wrong with them is an EndpointError, in words.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from pydantic import SecretStr

from engines.media import read_speech
from engines.types import SPEECH_RATE, FloatArray, KDTalkerError, SpeechError
from server.voices import Sound, VoiceError, VoiceInfo

CONNECT = 5.0  # seconds
LONGEST = 120.0  # seconds that a whole answer may take, or last as sound
LARGEST = 32 << 20  # bytes of one
QUOTED = 200  # characters of what an endpoint said that are told on

Message = dict[str, str]

logger = logging.getLogger(__name__)


class EndpointError(KDTalkerError):
    """An endpoint is gone, slow or answers with something else; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where something is asked. `what`: its name in sentences. `base`: as `http://127.0.0.1:8000/v1`."""

    what: str
    base: str
    model: str
    key: SecretStr | None

    def url(self, path: str) -> str:
        return f"{self.base.rstrip('/')}/{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key.get_secret_value()}"}

    def error(self, words: str) -> EndpointError:
        """What callers are told; where it is asked is for the log."""
        logger.warning("%s at %s %s", self.what, self.base, words)
        return EndpointError(f"{self.what} {words}")


class Client:
    """Asks any of them; one for a server. `patience`: seconds without a word from an endpoint."""

    def __init__(self, patience: float) -> None:
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(patience, connect=min(CONNECT, patience)))

    @asynccontextmanager
    async def asked(self, address: Address, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        """A response that was not refused, its body still to be read; raises EndpointError, in the block too."""
        try:
            async with (
                asyncio.timeout(LONGEST),
                self._http.stream("POST", address.url(path), headers=address.headers, **request) as response,
            ):
                if response.status_code != 200:
                    said = (await _limited(response, address)).decode("utf-8", "replace")
                    raise address.error(f"answered {response.status_code}: {_detail(said)}")
                yield response
        except (httpx.TimeoutException, TimeoutError) as error:
            raise address.error("does not answer in time.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise address.error("cannot be reached.") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise address.error("answers with something that is not understood.") from error

    async def body(self, address: Address, path: str, **request: Any) -> bytes:
        """A whole response; raises EndpointError."""
        async with self.asked(address, path, **request) as response:
            return await _limited(response, address)

    async def close(self) -> None:
        await self._http.aclose()


@dataclass(frozen=True, slots=True)
class Recognition:
    """Speech to text."""

    client: Client
    address: Address

    async def text(self, pcm: FloatArray) -> str:
        """What is said in sound f32 (samples,) at 16 kHz, empty where nothing is; raises EndpointError."""
        files = {"file": ("turn.wav", _wav(pcm), "audio/wav")}
        data = {"model": self.address.model, "response_format": "json"}
        async with self.client.asked(self.address, "audio/transcriptions", files=files, data=data) as response:
            text = json.loads(await _limited(response, self.address))["text"]
            return str(text.strip())


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """Chat completions."""

    client: Client
    address: Address

    async def reply(self, messages: Sequence[Message]) -> AsyncGenerator[str]:
        """The answer as it is written, in pieces of any length; raises EndpointError."""
        asked = {"model": self.address.model, "messages": list(messages), "stream": True}
        async with self.client.asked(self.address, "chat/completions", json=asked) as response:
            if "json" in response.headers.get("content-type", ""):  # an endpoint that does not stream
                answer = json.loads(await _limited(response, self.address))
                yield str(answer["choices"][0]["message"]["content"] or "")
                return
            size = 0
            async for line in response.aiter_lines():
                size += len(line)
                if size > LARGEST:
                    raise self.address.error("sends too much.")
                if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
                    continue
                chunk: Mapping[str, Any] = json.loads(data)
                if chunk.get("error"):
                    raise self.address.error(f"answered: {_detail(data)}")
                for choice in chunk["choices"][:1]:
                    if text := choice["delta"].get("content"):
                        yield str(text)


class RemoteVoice:
    """Text to speech, with the one voice that the settings name; see `server.voices.Voice`."""

    def __init__(self, client: Client, address: Address, voice: str) -> None:
        self._client, self._address, self._voice = client, address, voice
        self._executor = ThreadPoolExecutor(1, "voice-endpoint")

    @property
    def default(self) -> str:
        return self._voice

    async def voices(self) -> tuple[VoiceInfo, ...]:
        return (VoiceInfo(self._voice, "", f"{self._voice}, {self._address.model}"),)

    async def has(self, voice: str) -> bool:
        return voice == self._voice

    async def speak(self, text: str, voice: str) -> AsyncIterator[Sound]:
        asked = {"model": self._address.model, "input": text, "voice": voice, "response_format": "wav"}
        try:
            data = await self._client.body(self._address, "audio/speech", json=asked)
            speech = await asyncio.get_running_loop().run_in_executor(self._executor, read_speech, data, LONGEST)
        except EndpointError as error:
            raise VoiceError(str(error)) from error
        except SpeechError as error:
            raise VoiceError(str(self._address.error("answers with something that is no sound."))) from error
        yield Sound(text, speech.playback.astype(np.float32) * np.float32(1 / 32768), 48_000)

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


async def _limited(response: httpx.Response, address: Address) -> bytes:
    data = bytearray()
    async for part in response.aiter_bytes():
        data += part
        if len(data) > LARGEST:
            raise address.error("sends too much.")
    return bytes(data)


def _detail(said: str) -> str:
    """What an endpoint says about a refusal, as a sentence on one line."""
    try:
        error = json.loads(said)["error"]
        said = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError):
        pass
    line = " ".join(said.split())[:QUOTED] or "nothing more"
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _wav(pcm: FloatArray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SPEECH_RATE)
        out.writeframes(np.clip(pcm * 32768, -32768, 32767).astype("<i2").tobytes())
    return file.getvalue()
