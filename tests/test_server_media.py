"""Calls with a running server, by real peers: what a viewer sees and hears."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from aiortc.codecs.vpx import VpxPayloadDescriptor

from benchmarks.faults import dyed, enrolled
from benchmarks.peer import PACKET, RATE, Peer
from engines.portrait.landmarks import FaceLandmarker
from tests.conftest import LiveServer

pytestmark = pytest.mark.timeout(120)

ENVELOPE = RATE // 50
INNER_LIPS, EYE_CORNERS = (13, 14), (33, 263)  # of the face mesh
SENTENCE = "Ma ma ma, bah bah bah, we all know how many mouths move a lot while people talk."


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


def lips_apart(pictures: list[tuple[float, np.ndarray]], first: float, last: float) -> np.ndarray:
    """How far the lips are apart between two moments, in distances of the eyes, in about 40 pictures."""
    shown = [picture for moment, picture in pictures if first <= moment < last]
    apart = []
    with FaceLandmarker() as landmarker:
        for picture in shown[:: 1 + len(shown) // 40]:
            mesh = landmarker.mesh(picture)
            assert mesh is not None, "every picture shows a face"
            lips, eyes = (np.linalg.norm(mesh[a] - mesh[b]) for a, b in (INNER_LIPS, EYE_CORNERS))
            apart.append(lips / eyes)
    return np.array(apart)


def place(needle: np.ndarray, hay: np.ndarray) -> tuple[int, float]:
    """Where `needle` lies in `hay` and how well it fits there (correlation)."""
    needle, hay = needle - needle.mean(), hay - hay.mean()
    size = 1 << (len(needle) + len(hay)).bit_length()
    product = np.fft.irfft(np.fft.rfft(hay, size) * np.conj(np.fft.rfft(needle, size)), size)
    at = int(np.argmax(product[: len(hay) - len(needle)]))
    return at, float(np.corrcoef(needle, hay[at : at + len(needle)])[0, 1])


def envelope(sound: np.ndarray) -> np.ndarray:
    """Level of each 20 ms."""
    whole = sound[: len(sound) // ENVELOPE * ENVELOPE].reshape(-1, ENVELOPE).astype(float)
    return np.asarray(np.sqrt((whole**2).mean(axis=1)))


async def test_the_face_talks_while_there_is_speech_and_settles_after_it(
    server: LiveServer, speak: Callable[[str], np.ndarray]
) -> None:
    speech = speak(SENTENCE)
    sound = np.concatenate([silence(2), speech, silence(30)])
    async with Peer(server.url, sound) as peer:
        await peer.pictures(25, within=30)
        assert peer.voice is not None
        length = len(speech) / RATE
        await asyncio.sleep(2 + length + 4)
        began = peer.voice.sent_at[0] + 2.0
        stats = await peer.stats()
    pictures = peer.received.pictures
    assert pictures[0][1].shape == (512, 512, 3)
    assert pictures[0][1].std() > 20, "a face, not a plain picture"

    talking = lips_apart(pictures, began + 0.5, began + length)
    settled = lips_apart(pictures, began + length + 1.5, began + length + 4)
    assert talking.max() > 0.1
    assert talking.std() > 3 * settled.std()
    assert settled.max() < 0.05

    # The voice comes back, later by the networks' look-ahead and never earlier. Its loudness is compared and
    # not its waveform, because on a busy machine the server may have to stretch the sound a little.
    at, fit = place(envelope(speech), envelope(peer.heard()))
    assert fit > 0.8
    delay = peer.received.sound[0][0] + at * ENVELOPE / RATE - began
    assert 0.16 < delay < 2

    assert stats["state"] == "live"
    assert stats["frames"] > 25
    assert stats["added_latency_ms"]["p50"] > 160
    assert stats["microphone"]["connected"]


async def test_timestamps_are_those_of_the_ticks(server: LiveServer) -> None:
    async with Peer(server.url, silence(1)) as peer:
        await peer.pictures(60, within=30)
    sound = [timestamp for _, timestamp in peer.received.timestamps["audio"]]
    assert len(sound) > 80
    assert {b - a for a, b in itertools.pairwise(sound)} == {PACKET}, "no gap, no repetition"
    shown = list(dict.fromkeys(timestamp for _, timestamp in peer.received.timestamps["video"]))
    steps = [b - a for a, b in itertools.pairwise(shown)]
    assert all(step > 0 and step % 3600 == 0 for step in steps)
    assert steps.count(3600) > len(steps) / 2


async def test_a_viewer_without_a_microphone_sees_a_face_too(server: LiveServer) -> None:
    async with Peer(server.url) as peer:
        await peer.pictures(10, within=30)
        stats = await peer.stats()
    assert not stats["microphone"]["connected"]
    assert stats["microphone"]["frames"] == 0


def parts(picture: np.ndarray) -> np.ndarray:
    """Mean colour f64 (256, 3) of the squares that a picture is made of, 16 a side."""
    side = len(picture) // 16
    return picture.reshape(16, side, 16, side, 3).mean(axis=(1, 3)).reshape(-1, 3)


async def test_two_calls_share_no_pixel_and_no_sample(server: LiveServer) -> None:
    time = np.arange(60 * RATE) / RATE
    tones = [(8000 * np.sin(2 * np.pi * pitch * time)).astype(np.int16) for pitch in (300, 1100)]
    red, blue = [await enrolled(server.url, dyed(channel)) for channel in (0, 2)]
    async with (
        Peer(server.url, tones[0], query=f"?avatar={red}") as low,
        Peer(server.url, tones[1], query=f"?avatar={blue}") as high,
    ):
        assert low.location != high.location
        await asyncio.gather(low.pictures(25, within=60), high.pictures(25, within=60))
        await asyncio.sleep(1)
    for peer, own, other, channel in ((low, 300, 1100, 0), (high, 1100, 300, 2)):
        assert len(peer.received.pictures) >= 25
        colours = np.concatenate([parts(picture) for _, picture in peer.received.pictures])
        assert (colours[:, channel] > colours[:, 2 - channel] + 20).all(), "every part of every picture is its own"
        heard = peer.heard()
        packets = heard[: len(heard) // PACKET * PACKET].reshape(-1, PACKET).astype(float)
        levels = np.abs(np.fft.rfft(packets * np.hanning(PACKET)))[:, [own * PACKET // RATE, other * PACKET // RATE]]
        assert (levels[:, 0] > levels[:, 0].max() / 2).sum() > 25, "half a second of its own voice at least"
        assert levels[:, 1].max() < levels[:, 0].max() / 10, "no packet of the other's, however late its own came"


async def test_a_deleted_call_is_gone_for_both(server: LiveServer) -> None:
    peer = Peer(server.url, tidy=False)
    async with peer:
        await peer.pictures(3, within=30)
        closed = asyncio.Event()
        peer.connection.on("connectionstatechange", closed.set)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.delete(peer.location)).status_code == 204
            assert (await client.get(f"{peer.location}/stats")).status_code == 404
            assert (await client.delete(peer.location)).status_code == 404
        await asyncio.wait_for(closed.wait(), 10)
    assert server.metric("kdtalker_sessions") == 0


async def until_empty(server: LiveServer, within: float) -> None:
    async with asyncio.timeout(within):
        while server.metric("kdtalker_sessions"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_peer_that_hangs_up_ends_its_call(server: LiveServer) -> None:
    async with Peer(server.url, tidy=False) as peer:
        await peer.pictures(3, within=30)
    await until_empty(server, within=15)
    assert server.metric('kdtalker_sessions_ended_total{reason="peer lost"}') >= 1


def is_key_frame(payload: bytes) -> bool:
    """Whether a VP8 picture that begins with this RTP payload depends on no other (RFC 7741, 4.3)."""
    return not VpxPayloadDescriptor.parse(payload)[1][0] & 1


async def test_a_lost_picture_is_repaired_by_a_key_frame(server: LiveServer) -> None:
    async with Peer(server.url) as peer:
        await peer.pictures(25, within=30)
        known = len(peer.received.starts)
        await peer.ask_for_a_picture()
        await peer.pictures(25, within=30)
    key_frames = [is_key_frame(payload) for payload in peer.received.starts.values()]
    assert key_frames[0]
    assert any(key_frames[known:])


async def test_twenty_calls_leave_nothing_behind(server: LiveServer) -> None:
    watched = ("process_open_fds", "kdtalker_event_loop_tasks", "kdtalker_threads")

    async def one_call() -> None:
        async with Peer(server.url, silence(0.1)) as peer:
            await peer.pictures(1, within=30)

    for _ in range(3):
        await one_call()  # what is loaded once for all is loaded now
    before = {name: server.metric(name) for name in watched}
    memory = server.metric("process_resident_memory_bytes")
    for _ in range(20):
        await one_call()
    await asyncio.sleep(0.2)
    assert {name: server.metric(name) for name in watched} == before
    assert server.metric("process_resident_memory_bytes") - memory < 20e6
    assert server.metric("kdtalker_sessions") == 0
