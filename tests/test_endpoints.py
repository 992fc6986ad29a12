"""Speech recognition, language models and voices over HTTP: what is asked, and what becomes of bad answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from server.agent import Agent
from server.endpoints import Address, Client, EndpointError, LanguageModel, Recognition, RemoteVoice
from server.services import Services
from server.settings import Settings
from server.voices import VoiceError
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
