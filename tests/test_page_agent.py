"""A conversation on the page: a voice asks and interrupts, and a stand-in for the OpenAI API answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from tests.browser import ALLOW, RATE, launch, visit, write_wave
from tests.conftest import LiveServer, start_server, stop_server
from tests.openai_stub import OpenAIStub, openai_stub

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

ANSWER = "Once upon a time there was a king. " + "He had a castle on a hill, and in the castle lived a cat. " * 8
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


@pytest.fixture
def stub() -> Iterator[OpenAIStub]:
    """A running one, on an event loop of its own."""
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
    yield stubs[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(30)
    loop.close()


@pytest.fixture
def asking(driver: Playwright, speak: Callable[[str], np.ndarray], tmp_path: Path) -> Iterator[Browser]:
    """A browser whose microphone asks every few seconds."""
    sound = np.concatenate([speak("Please tell me a long story."), np.zeros(4 * RATE, np.int16)])
    microphone = write_wave(tmp_path / "asking.wav", sound)
    browser = launch(driver, ALLOW, f"--use-file-for-fake-audio-capture={microphone}")
    yield browser
    browser.close()


@pytest.fixture
def answering(stub: OpenAIStub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    stub.heard, stub.answer = ["Tell me a story."], [ANSWER]
    live = start_server(tmp_path_factory.mktemp("answering"), llm_url=stub.url, stt_url=stub.url, endpoint_timeout=3)
    yield live
    stop_server(live)


def test_a_voice_asks_and_interrupts_and_trouble_is_told(
    asking: Browser, answering: LiveServer, stub: OpenAIStub
) -> None:
    with visit(asking, answering.url) as visitor:
        page = visitor.open()
        page.evaluate(NOTE)
        page.get_by_role("radio", name="The assistant").check(force=True)
        visitor.call()
        assert not page.evaluate("document.getElementById('video').muted"), "the assistant is to be heard"
        story = "listening thinking speaking listening thinking speaking listening"
        visitor.until(lambda: story in " ".join(page.evaluate("window.turns")), 120)
        said = page.evaluate("[...window.said]")
        assert "You: Tell me a story." in said
        assert "Once upon a time there was a king." in said
        stub.fault = "error"
        page.wait_for_selector("#trouble:not(:empty)", timeout=60_000)
        assert page.get_attribute("body", "data-state") == "live"
        assert httpx.get(f"{visitor.sessions[0]}/stats").json()["state"] == "live"
