"""Conversations on a running server: who speaks, who interrupts whom, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.peer import PACKET, RATE, Peer, Voice
from engines.media import load_speech
from tests.conftest import LiveServer, start_server, stop_server
from tests.openai_stub import OpenAIStub, openai_stub
from tests.test_control import Channel, channel

pytestmark = pytest.mark.timeout(120)


async def until(control: Channel, kind: str, **members: Any) -> list[dict[str, Any]]:
    """All events up to one of this kind that has these members."""
    events = []
    while not events or events[-1]["type"] != kind or not members.items() <= events[-1].items():
        events.append(await control.next(30))
    return events


def only(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


async def test_texts_are_spoken_and_what_was_not_said_is_reported(server: LiveServer) -> None:
    async with Peer(server.url, query="?mode=speak") as peer, channel(peer) as (control, event):
        assert (event["mode"], event["turn"], event["voice"]) == ("speak", "idle", "en-us")
        await peer.pictures(3, within=30)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            voices = (await http.get("/voices")).json()
            assert {"name": "de", "language": "de", "description": "German, espeak-ng"} in voices["voices"]
            assert voices["default"] == "en-us"
            address = f"{peer.location}/speech"
            sent = await http.post(address, json={"text": "Good morning. This is it."})
            assert sent.status_code == 202
            events = await until(control, "spoken")
            assert [event["state"] for event in only(events, "turn")][-1] == "speaking"
            assert [event["text"] for event in only(events, "subtitle")] == ["Good morning.", "This is it."]
            assert events[-1] == {
                "type": "spoken",
                "id": sent.json()["id"],
                "said": "Good morning. This is it.",
                "unsaid": "",
                "interrupted": False,
            }
            assert (await until(control, "turn"))[-1]["state"] == "idle"
            stages = (await peer.stats())["stages_ms"]
            assert stages["cut"]["p50"] < stages["total"]["p50"], "where the time of a text's pictures went is told too"
            loud = np.abs(peer.heard().astype(float)).reshape(-1, 960).max(axis=1) > 1000
            assert 0.5 * RATE / 960 < loud.sum() < 4 * RATE / 960

            queued = await control.ask({"type": "speak", "text": "One. " * 40, "voice": "en-us+f3"})
            assert (queued["type"], queued["state"], queued["id"]) == ("speech", "queued", sent.json()["id"] + 1)
            for _ in range(3):
                await until(control, "subtitle")
            await control.socket.send('{"type": "interrupt"}')
            stopped = (await until(control, "spoken"))[-1]
            assert stopped["interrupted"]
            assert 1 <= stopped["said"].count("One.") < 5
            assert stopped["said"].count("One.") + stopped["unsaid"].count("One.") == 40
            assert (await until(control, "turn"))[-1]["state"] == "idle"
            for body, words in (
                ({"text": "..."}, "no word"),
                ({"text": "x" * 5000}, "4000"),
                ({"text": "a", "voice": "nobody"}, "no voice 'nobody'"),
                ({"texts": "a"}, "text: Field required"),
            ):
                refused = await http.post(address, json=body)
                assert refused.status_code == 422
                assert words in refused.json()["detail"]


async def test_modes_are_changed_in_a_call_and_refused_in_words(server: LiveServer) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        refused = await http.post("/sessions?mode=agent", content="x", headers={"Content-Type": "application/sdp"})
        assert refused.status_code == 422
        assert "KDTALKER_LLM_URL" in refused.json()["detail"]
    hum = np.round(6000 * np.sin(2 * np.pi * 300 * np.arange(20 * RATE) / RATE)).astype(np.int16)
    microphone = Microphone()
    microphone.pick_up(hum)
    async with Peer(server.url, microphone) as peer, channel(peer) as (control, event):
        assert event["mode"] == "mirror"
        await peer.pictures(3, within=30)
        assert await control.ask({"type": "mode", "mode": "speak"}) == {"type": "mode", "mode": "speak"}
        await asyncio.sleep(1)
        begun = len(peer.heard())
        await asyncio.sleep(1)
        assert np.abs(peer.heard()[begun:]).max() < 50, "the caller's own voice is not said any more"
        microphone.pick_up(hum[:0])
        assert (await peer.stats())["conversation"]["mode"] == "speak"
        assert "KDTALKER_LLM_URL" in (await control.ask({"type": "mode", "mode": "agent"}))["detail"]
        assert "mirror, agent, speak, push" in (await control.ask({"type": "mode", "mode": "x"}))["detail"]
        assert await control.ask({"type": "voice", "voice": "de"}) == {"type": "voice", "voice": "de"}
        assert "no voice" in (await control.ask({"type": "voice", "voice": "xx"}))["detail"]
        assert await control.ask({"type": "mode", "mode": "push"}) == {"type": "mode", "mode": "push"}
        tone = np.round(9000 * np.sin(2 * np.pi * 700 * np.arange(2 * 24_000) / 24_000)).astype("<i2")
        async with channel(peer, "?rate=24000") as (pushing, _):
            for at in range(0, len(tone), 12_000):
                await pushing.socket.send(tone[at : at + 12_000].tobytes())
            await pushing.socket.send('{"type": "end"}')
            events = await until(control, "speech", state="ended")
            assert events[-1]["seconds"] == pytest.approx(2, abs=0.09)
            assert "close the channel" in (await control.ask({"type": "mode", "mode": "mirror"}))["detail"]
        await asyncio.sleep(0.5)
        heard = peer.heard()[begun:].astype(float)
        loud = np.flatnonzero(np.abs(heard) > 4000)
        middle = heard[loud[0] : loud[-1]]
        assert len(middle) == pytest.approx(2 * RATE, abs=0.1 * RATE)
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(700, abs=5)


class Microphone(Voice):
    """One that picks up what it is told to, when it is told to."""

    def __init__(self) -> None:
        super().__init__(np.zeros(0, np.int16))

    def pick_up(self, sound: np.ndarray) -> None:
        """From now on i16 (samples,) at 48 kHz, then silence."""
        at = self._index * PACKET
        before = self._sound[:at]
        self._sound = np.concatenate([before, np.zeros(at - len(before), np.int16), sound])


class Loudspeaker(Voice):
    """A microphone beside a loudspeaker: it picks up what the peer hears, a quarter as loud, and `over` on top."""

    def __init__(self) -> None:
        super().__init__(np.zeros(0, np.int16))
        self.hears: Peer | None = None
        self.over = np.zeros(0, np.int16)
        self._behind: int | None = None  # samples from what is picked up back to what was heard

    def _made(self, samples: np.ndarray, pts: int) -> Any:
        heard = self.hears.heard() if self.hears is not None else np.zeros(0, np.int16)
        if self._behind is None and len(heard):
            self._behind = pts - len(heard) + 15 * PACKET  # 300 ms late, as a room's and its buffers' echo
        at = pts if self._behind is None else pts - self._behind
        echo = heard[at : at + PACKET] if at >= 0 else heard[:0]
        mixed = 0.25 * np.pad(echo, (0, PACKET - len(echo)))
        over, self.over = self.over[:PACKET], self.over[PACKET:]
        mixed[: len(over)] += over
        return super()._made(np.clip(mixed, -32768, 32767).astype(np.int16), pts)


@pytest.fixture(scope="module")
def person(data: Path) -> np.ndarray:
    """Somebody who speaks without a pause, i16 (samples,) at 48 kHz."""
    speech = load_speech(data / "speech" / "en_female_address.flac").playback
    loud = np.flatnonzero(np.abs(speech) > 2000)[0]
    return speech[loud : loud + 7 * RATE]


def monologue(times: int) -> str:
    return json.dumps({"type": "speak", "text": "I talk to myself, and I hear what I say. " * times})


async def test_an_avatar_is_not_interrupted_by_itself_but_by_a_caller(server: LiveServer, person: np.ndarray) -> None:
    microphone = Loudspeaker()
    async with Peer(server.url, microphone, query="?mode=speak") as peer, channel(peer) as (control, _):
        microphone.hears = peer
        await peer.pictures(3, within=30)
        await control.socket.send(monologue(1))
        events = await until(control, "spoken")
        assert not events[-1]["interrupted"]
        assert "listening" not in [event["state"] for event in only(events, "turn")]
        await control.socket.send(monologue(3))
        await until(control, "subtitle")
        await asyncio.sleep(1.5)
        microphone.over = person[: 2 * RATE]
        stopped = (await until(control, "spoken"))[-1]
        assert stopped["interrupted"]
        assert stopped["said"]
        assert stopped["unsaid"]
        assert (await until(control, "turn"))[-1]["state"] == "listening"
        assert (await until(control, "turn"))[-1]["state"] == "idle"


@pytest.fixture
async def stub() -> AsyncIterator[OpenAIStub]:
    async with openai_stub() as stub:
        yield stub


async def test_a_voice_from_elsewhere_speaks_and_where_it_fails_another_one_does(
    stub: OpenAIStub, tmp_path: Path
) -> None:
    own = start_server(tmp_path, tts_url=stub.url, tts_voice="anna")
    try:
        async with Peer(own.url, query="?mode=speak") as peer, channel(peer) as (control, event):
            assert event["voice"] == "anna"
            await peer.pictures(3, within=30)
            begun = len(peer.heard())
            await control.socket.send('{"type": "speak", "text": "Hello."}')
            assert (await until(control, "spoken"))[-1]["said"] == "Hello."
            assert ("tts", "anna") in [(path, asked["voice"]) for path, asked in stub.asked]
            await asyncio.sleep(0.5)
            heard = peer.heard()[begun:].astype(float)
            loud = np.flatnonzero(np.abs(heard) > 4000)
            tone = heard[loud[0] : loud[-1]]
            assert len(tone) == pytest.approx(RATE, abs=0.1 * RATE)
            assert np.argmax(np.abs(np.fft.rfft(tone))) * RATE / len(tone) == pytest.approx(500, abs=5)

            stub.fault = "error"
            await control.socket.send('{"type": "speak", "text": "Are you there? I am."}')
            events = await until(control, "spoken")
            assert [each["detail"] for each in only(events, "trouble")] == [
                "The voice answered 404: no such model. Another voice speaks meanwhile."
            ]
            assert events[-1]["said"] == "Are you there? I am."
            assert not events[-1]["unsaid"]
    finally:
        stop_server(own)


STORY = ["Once there was a king. ", "He had seven sons and seven daughters, and a very old horse. ", "The end."]


async def test_a_conversation_with_everything_in_it(stub: OpenAIStub, person: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    own = start_server(folder, llm_url=stub.url, turn_longest=2, endpoint_timeout=5)
    microphone = Microphone()
    tasks = own.metric("kdtalker_event_loop_tasks")
    try:
        async with Peer(own.url, microphone, query="?mode=agent") as peer, channel(peer) as (control, event):
            assert (event["mode"], event["turn"]) == ("agent", "idle")
            await peer.pictures(3, within=30)

            # A question; the first sentence is spoken while the rest is not even written.
            stub.heard, stub.answer = ["Tell me a story."], STORY
            stub.more.clear()
            microphone.pick_up(person[:RATE])
            events = await until(control, "subtitle", who="avatar")
            assert [event["state"] for event in only(events, "turn")][:2] == ["listening", "thinking"]
            assert only(events, "subtitle")[0]["text"] == "Tell me a story."
            assert only(events, "subtitle")[1]["text"] == "Once there was a king."
            stub.more.set()
            await until(control, "subtitle", who="avatar")

            # The first barge-in, in the second sentence.
            await asyncio.sleep(0.5)  # the subtitle comes when the sentence is cut, a little before it is heard
            stub.heard = ["Stop, another one."]
            microphone.pick_up(person[: int(1.2 * RATE)])
            events = await until(control, "spoken")
            told = events[-1]
            assert told["interrupted"]
            assert told["said"].startswith("Once there was a king.")
            assert told["unsaid"].endswith("The end.")
            assert f"{told['said']} {told['unsaid']}" == "".join(STORY)
            assert "listening" in [event["state"] for event in only(await until(control, "turn"), "turn")]

            # It is answered, and the second barge-in meets that answer; the model learns what was heard alone.
            await until(control, "subtitle", who="avatar")
            prompt = stub.prompts()[-1]
            assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
            assert prompt[2]["content"] == told["said"]
            await until(control, "subtitle", who="avatar")
            stub.heard, stub.answer = ["Thanks."], ["You are welcome."]
            microphone.pick_up(person[:RATE])
            assert (await until(control, "spoken"))[-1]["interrupted"]
            assert (await until(control, "spoken"))[-1]["said"] == "You are welcome."
            assert (await until(control, "turn"))[-1]["state"] == "idle"

            # A silent user is left alone.
            asked = len(stub.asked)
            with pytest.raises(TimeoutError):
                await control.next(2)
            assert len(stub.asked) == asked

            # A user who never stops is answered all the same.
            microphone.pick_up(np.tile(person[:RATE], 14))
            events = await until(control, "spoken")
            assert not events[-1]["interrupted"]
            assert stub.asked[asked][1] == pytest.approx(2, abs=0.8)
            microphone.pick_up(np.zeros(0, np.int16))

            # Endpoints that are slow, wrong or gone are told of; the call stays.
            for fault, words in (("slow", "in time"), ("error", "no such model")):
                stub.fault = fault
                await asyncio.sleep(1)
                microphone.pick_up(person[:RATE])
                assert words in (await until(control, "trouble"))[-1]["detail"]
                assert (await until(control, "turn", state="idle"))[-1]["state"] == "idle"
            stub.fault = ""
            microphone.pick_up(person[:RATE])
            assert (await until(control, "spoken"))[-1]["said"] == "You are welcome."
            await peer.pictures(5, within=30)

            assert own.metric('kdtalker_events_total{event="interrupted"}') == 2
            assert own.metric('kdtalker_events_total{event="trouble"}') == 2

            # Whoever leaves in the middle of an answer leaves nothing.
            stub.fault = "slow"
            microphone.pick_up(person[:RATE])
            await until(control, "turn", state="thinking")
        async with asyncio.timeout(30):
            while own.metric("kdtalker_event_loop_tasks") > tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert " ERROR " not in own.log.read_text()
    finally:
        stop_server(own)
