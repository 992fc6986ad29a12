"""Speech recognition, language models and voices over HTTP: what is asked, and what becomes of bad answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from server.agent import Agent
from server.endpoints import Address, Client, EndpointError, LanguageModel, Recognition, RemoteVoice
from server.modes import ConversationError
from server.services import Services
from server.settings import Settings
from server.spoken import Spoken
from server.voices import Sound, VoiceError, VoiceInfo
from server.voicing import Voicing
from tests.conftest import free_port
from tests.openai_stub import OpenAIStub, openai_stub

pytestmark = pytest.mark.timeout(60)

SOUND = np.zeros(16_000, np.float32)


@pytest.fixture
async def stub() -> AsyncIterator[OpenAIStub]:
    async with openai_stub() as stub:
        yield stub


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(1.0)
    yield client
    await client.close()


def parts(client: Client, url: str) -> tuple[Recognition, LanguageModel, RemoteVoice]:
    def address(what: str) -> Address:
        return Address(what, url, "small", None)

    voice = RemoteVoice(client, address("The voice"), "anna")
    return (
        Recognition(client, address("Speech recognition")),
        LanguageModel(client, address("The language model")),
        voice,
    )


async def test_an_answer_comes_sentence_by_sentence_and_the_history_is_what_was_said(
    client: Client, stub: OpenAIStub
) -> None:
    recognition, model, voice = parts(client, stub.url)
    agent = Agent(recognition, model, "Be brief.")
    stub.heard, stub.answer = ["How are you?", "And now?"], ["I am ", "well. How", " are you? Fine"]
    assert await agent.understand(SOUND) == "How are you?"
    assert [sentence async for sentence in agent.answer()] == ["I am well.", "How are you?", "Fine"]
    agent.said("I am well.")
    await agent.understand(SOUND)
    agent.said("")
    await agent.understand(SOUND)
    assert [sentence async for sentence in agent.answer()] == ["I am well.", "How are you?", "Fine"]
    assert stub.prompts()[-1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I am well."},
        {"role": "user", "content": "And now? And now?"},
    ]
    (sound,) = [sound async for sound in voice.speak("Hello.", "anna")]
    assert (len(sound.pcm) / sound.rate, sound.text) == (pytest.approx(1, abs=0.02), "Hello.")
    await voice.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("slow", "does not answer in time"),
        ("error", "answered 404: no such model"),
        ("nonsense", "not understood|no sound"),
        ("gone", "cannot be reached"),
    ],
)
async def test_bad_endpoints_are_told_of_in_words(client: Client, stub: OpenAIStub, fault: str, words: str) -> None:
    stub.fault = fault
    recognition, model, voice = parts(client, stub.url if fault != "gone" else f"http://127.0.0.1:{free_port()}/v1")
    told = []
    with pytest.raises(EndpointError) as error:
        await recognition.text(SOUND)
    told.append(str(error.value))
    if fault != "nonsense":
        with pytest.raises(EndpointError) as error:
            [text async for text in model.reply([])]
        told.append(str(error.value))
    else:  # a page of HTML has no event in it: nothing is answered, which the conversation tells
        assert [text async for text in model.reply([])] == []
    with pytest.raises(VoiceError) as failed:
        [sound async for sound in voice.speak("Hello.", "anna")]
    told.append(str(failed.value))
    assert all(any(part in text for part in words.split("|")) for text in told), told
    assert not [text for text in told if "Traceback" in text or "httpx" in text or "127.0.0.1" in text]
    await voice.close()


async def test_what_the_settings_name_is_asked_with_its_key(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_TTS_URL", stub.url)
    monkeypatch.setenv("KDTALKER_TTS_VOICE", "anna")
    monkeypatch.setenv("KDTALKER_TTS_KEY", "a secret")
    seen: list[str | None] = []
    services = Services(Settings())
    hooks: dict[str, list[object]] = {"request": [], "response": []}

    async def note(request: httpx.Request) -> None:
        seen.append(request.headers.get("authorization"))

    hooks["request"].append(note)
    services._client._http.event_hooks = hooks  # type: ignore[assignment]
    try:
        assert services.voices.default == "anna"
        assert [voice.name for voice in await services.voices.listed()][:2] == ["anna", "af"]
        voice = await services.voices.find("anna")
        assert voice is not None
        (piece,) = [await services.piece(sound) async for sound in voice.speak("Hello.", "anna")]
        assert (piece.text, piece.speech.frames) == ("Hello.", 25)
        assert stub.asked == [
            ("tts", {"model": "tts-1", "input": "Hello.", "voice": "anna", "response_format": "wav"}),
        ]
        assert seen == ["Bearer a secret"]
        assert await services.voices.find("de+f2") is services.voices.spare
        assert await services.voices.find("nobody") is None
    finally:
        await services.close()


async def test_where_a_voice_fails_another_one_speaks_and_it_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_TTS_URL", f"http://127.0.0.1:{free_port()}/v1")
    services, told = Services(Settings()), []
    spoken = Spoken(60, lambda kind, **members: None)
    voicing = Voicing("call", spoken, services, lambda kind, **members: told.append((kind, members["detail"])))
    utterance = spoken.add(services.voices.default)
    utterance.pending.extend(["Hello there.", "How are you?"])
    speaking = asyncio.create_task(voicing.run())
    try:
        async with asyncio.timeout(30):
            while utterance.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [piece.text for piece in utterance.pieces] == ["Hello there.", "How are you?"]
        assert all(piece.speech.frames > 10 and piece.words for piece in utterance.pieces)
        assert told == [("trouble", "The voice cannot be reached. Another voice speaks meanwhile.")]
        with pytest.raises(ConversationError, match="no voice 'nobody'"):
            await voicing.require("nobody")
    finally:
        speaking.cancel()
        await asyncio.wait([speaking])
        await services.close()


class Flute:
    """A voice as somebody else would write one, straight from docs/conversation.md."""

    default = "flute"

    async def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("flute", "en", "A flute")]

    async def has(self, voice: str) -> bool:
        return voice == "flute"

    async def speak(self, text: str, voice: str) -> AsyncIterator[Sound]:
        for _ in range(2):
            yield Sound(text, np.zeros(24_000, np.float32), 24_000)

    async def close(self) -> None: ...


async def test_a_voice_of_ones_own_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_VOICE", "tests.test_endpoints:Flute")
    services = Services(Settings())
    try:
        assert services.voices.default == "flute"
        voice = await services.voices.find("flute")
        assert voice is not None
        pieces = [await services.piece(sound) async for sound in voice.speak("Hello.", "flute")]
        assert [piece.speech.frames for piece in pieces] == [25, 25]
    finally:
        await services.close()
    monkeypatch.setenv("KDTALKER_VOICE", "tests.nothing:Flute")
    with pytest.raises(ValueError, match="nothing"):
        Settings()
