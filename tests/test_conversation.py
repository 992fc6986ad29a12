"""Conversations on a running server: who speaks, who interrupts whom, and what is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.peer import RATE, Peer
from tests.conftest import LiveServer
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
    async with Peer(server.url, hum) as peer, channel(peer) as (control, event):
        assert event["mode"] == "mirror"
        await peer.pictures(3, within=30)
        assert await control.ask({"type": "mode", "mode": "speak"}) == {"type": "mode", "mode": "speak"}
        await asyncio.sleep(1)
        begun = len(peer.heard())
        await asyncio.sleep(1)
        assert np.abs(peer.heard()[begun:]).max() < 50, "the caller's own voice is not said any more"
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
