"""A conversation on the page from its first silence to its last trouble, with a stand-in for the OpenAI API."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from engines.media import load_speech
from tests.browser import RATE, Visit, visit
from tests.conftest import LiveServer, data_folder, start_server, stop_server
from tests.openai_stub import OpenAIStub, openai_stub
from tests.page_line import PageLine

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LONGEST = 3  # seconds of a turn
STORY = "Once upon a time there was a king. " + "He had a castle on a hill, and in the castle lived a cat. " * 8
# A microphone that picks up what it is given, when it is given it.
MICROPHONE = """
const room = new AudioContext({ sampleRate: 48000 });
const microphone = room.createMediaStreamDestination();
navigator.mediaDevices.getUserMedia = async () => microphone.stream.clone();
window.pickUp = ([sound, loop]) => {
  const pcm = new Int16Array(Uint8Array.from(atob(sound), (letter) => letter.charCodeAt(0)).buffer);
  const source = room.createBufferSource();
  source.buffer = room.createBuffer(1, pcm.length, 48000);
  source.buffer.copyToChannel(Float32Array.from(pcm, (value) => value / 32768), 0);
  source.loop = loop;
  source.connect(microphone);
  source.start();
  window.speaker = source;
};
"""
# Whose turn it was, one after another, and what the subtitles said.
NOTE = """() => {
  [window.turns, window.said] = [[], new Set()];
  const [turn, subtitles] = ["turn", "subtitles"].map((id) => document.getElementById(id));
  const look = () => {
    if (turn.dataset.turn && window.turns.at(-1) !== turn.dataset.turn) window.turns.push(turn.dataset.turn);
    for (const line of subtitles.children) window.said.add(line.textContent);
  };
  for (const part of [turn, subtitles])
    new MutationObserver(look).observe(part, { attributes: true, childList: true, subtree: true, characterData: true });
}"""


@dataclass(frozen=True)
class Assistant:
    """A running stand-in, on an event loop of its own; `leave` ends it."""

    stub: OpenAIStub
    leave: Callable[[], None]


@pytest.fixture
def assistant() -> Iterator[Assistant]:
    begun, over, stubs = threading.Event(), asyncio.Event(), []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with openai_stub() as stub:
            stubs.append(stub)
            begun.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert begun.wait(30)

    def leave() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(over.set)
            thread.join(30)

    yield Assistant(stubs[0], leave)
    leave()
    loop.close()


@pytest.fixture
def answering(assistant: Assistant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    url = assistant.stub.url
    folder = tmp_path_factory.mktemp("answering")
    live = start_server(folder, llm_url=url, stt_url=url, endpoint_timeout=20, turn_longest=LONGEST)
    yield live
    stop_server(live)


@pytest.fixture(scope="module")
def person(request: pytest.FixtureRequest) -> np.ndarray:
    """A second of somebody who speaks without a pause, i16 (samples,) at 48 kHz."""
    recorded = data_folder() / "speech" / "en_male_address.flac"
    if recorded.exists():
        sound = load_speech(recorded).playback
    else:
        print("no recorded voice is beside this checkout: espeak-ng speaks")
        sound = request.getfixturevalue("speak")("Will you please tell me another story about all of this?")
    loud = np.flatnonzero(np.abs(sound.astype(int)) > 2000)[0]
    return np.asarray(sound[loud : loud + RATE], np.int16)


@dataclass(frozen=True)
class Conversation:
    """What a test does in one, and what it reads of it."""

    visitor: Visit
    stub: OpenAIStub
    voice: str  # base64

    def say(self, endless: bool = False) -> None:
        """As people do, again where nobody listened, which on a full machine may happen."""
        page = self.visitor.page
        page.evaluate("() => { window.turns.length = 0; }")
        for _ in range(4):
            page.evaluate("window.pickUp", [self.voice, endless])
            for _ in range(80):
                page.wait_for_timeout(100)
                if "listening" in self.turns:
                    return
            page.evaluate("window.speaker.stop()")
        pytest.fail(f"nobody listens: {self.turns}, {page.inner_text('#trouble')}")

    @property
    def turns(self) -> str:
        return " ".join(self.visitor.page.evaluate("window.turns"))

    @property
    def said(self) -> list[str]:
        said: list[str] = self.visitor.page.evaluate("[...window.said]")
        return said

    @property
    def asked(self) -> list[float]:
        """Seconds of each turn that was to be recognised."""
        return [what for kind, what in self.stub.asked if kind == "stt"]

    def answered(self) -> None:
        """Wait until the avatar began to answer."""
        self.visitor.until(lambda: "listening thinking speaking" in self.turns, 60)

    def over(self) -> None:
        self.visitor.until(lambda: self.turns.endswith("idle"), 60)


def test_a_conversation_from_its_first_silence_to_its_last_trouble(
    chromium: Browser, answering: LiveServer, assistant: Assistant, person: np.ndarray
) -> None:
    stub = assistant.stub
    stub.heard, stub.answer = ["Tell me a story."], [STORY]
    with visit(chromium, answering.url) as visitor, PageLine(visitor.page).opened() as line:
        visitor.page.add_init_script(MICROPHONE)
        page = visitor.open()
        page.evaluate(NOTE)
        page.get_by_role("radio", name="The assistant").check(force=True)
        visitor.call()
        assert not page.evaluate("document.getElementById('video').muted"), "the assistant is to be heard"
        talk = Conversation(visitor, stub, base64.b64encode(person.astype("<i2").tobytes()).decode())

        # A silent user is left alone.
        page.wait_for_timeout(3000)
        assert not stub.asked
        assert not set(talk.turns.split()) - {"idle"}

        # A question, and two barge-ins; the model learns what was heard of its answers alone.
        talk.say()
        talk.answered()
        for heard in ("Another one.", "That is enough, thank you."):
            page.wait_for_timeout(2500)
            stub.heard = [heard]
            if heard.endswith("thank you."):
                stub.answer = ["You are welcome."]
            talk.say()
            talk.answered()
        talk.over()
        assert {"You: Tell me a story.", "Once upon a time there was a king.", "You: Another one."} <= set(talk.said)
        assert "You are welcome." in talk.said
        assert len(talk.asked) == 3
        prompt = stub.prompts()[-1]
        assert [message["role"] for message in prompt] == ["system", *["user", "assistant"] * 2, "user"]
        for message in prompt[2::2]:
            assert STORY.startswith(message["content"])
            assert 0 < len(message["content"]) < len(STORY) - 10

        # A user who never stops is answered all the same.
        talk.say(endless=True)
        talk.answered()
        assert talk.asked[3] == pytest.approx(LONGEST, abs=0.8)
        page.evaluate("window.speaker.stop()")
        talk.over()

        # A network that is lost for five seconds costs neither the call nor what was talked about.
        line.lost()
        visitor.state("reconnecting")
        page.wait_for_timeout(5000)
        line.restored()
        page.wait_for_selector("video.shown", timeout=60_000)
        visitor.state("live")
        before = len(stub.prompts()[-1])
        talk.say()
        talk.answered()
        talk.over()
        assert len(stub.prompts()[-1]) > before
        assert stub.prompts()[-1][:6] == prompt
        visitor.complaints[:] = [said for said in visitor.complaints if "ERR_INTERNET_DISCONNECTED" not in said]

        # Endpoints that are wrong or gone are told of; the call stays.
        stub.fault = "error"
        for words in ("no such model", "cannot be reached"):
            page.evaluate("document.getElementById('trouble').textContent = ''")
            talk.say()
            visitor.until(lambda words=words: words in page.inner_text("#trouble"), 60)  # type: ignore[misc]
            talk.over()
            assistant.leave()
        assert page.get_attribute("body", "data-state") == "live"
        (session,) = visitor.sessions
        assert httpx.get(f"{session}/stats").json()["state"] == "live"
