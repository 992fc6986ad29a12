"""The avatar's two tracks release packets by time; the microphone becomes ticks."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError
from av.packet import Packet

from benchmarks.peer import Voice, connect
from server import aiortc_door as door
from server.ice import Network
from server.metrics import CallMetrics, Metrics
from server.tracks import AT_ONCE, BACKLOG, UNHEARD, AvatarAudioTrack, AvatarVideoTrack, MicrophoneReader, UnheardSound


@pytest.fixture
def metrics() -> CallMetrics:
    return CallMetrics(Metrics())


def pair(tick: int) -> tuple[Packet, Packet]:
    packets = Packet(b"a"), Packet(b"b")
    packets[0].pts, packets[1].pts = 1920 * tick, 1920 * tick + 960
    return packets


async def test_sound_is_released_at_its_due_and_20_ms_later(metrics: CallMetrics) -> None:
    track = AvatarAudioTrack(metrics)
    due = time.monotonic() + 0.05
    track.put(due, pair(0), arrival=due - 0.2)
    moments = []
    for expected in (0, 960):
        packet = await track.recv()
        assert packet.pts == expected
        moments.append(time.monotonic() - due)
    assert moments[0] >= 0
    assert moments[1] >= 0.02
    report = metrics.snapshot()
    assert report["added_latency_ms"]["p50"] >= 200
    assert report["lateness_ms"]["audio"]["p50"] >= 0


async def test_late_packets_leave_at_once_and_in_order(metrics: CallMetrics) -> None:
    track = AvatarAudioTrack(metrics)
    past = time.monotonic() - 10
    for tick in range(5):
        track.put(past + 0.04 * tick, pair(tick))
    assert [(await track.recv()).pts for _ in range(10)] == [960 * number for number in range(10)]


async def test_a_stopped_track_says_so_to_whoever_waits(metrics: CallMetrics) -> None:
    track = AvatarVideoTrack(metrics)
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0.01)
    track.stop()
    with pytest.raises(MediaStreamError):
        await waiting


async def test_what_nobody_asks_for_is_bounded_and_counted(metrics: CallMetrics) -> None:
    voice, picture = AvatarAudioTrack(metrics), AvatarVideoTrack(metrics)
    for tick in range(BACKLOG + 5):
        voice.put(0.0, pair(tick))
        picture.put(0.0, Packet(b"p"))
    assert (await voice.recv()).pts == 1920 * 5, "the oldest sound goes"
    drops = metrics.snapshot()["drops"]
    assert drops == {"sound_unsent": 10, "picture_unsent": BACKLOG + 1}


async def test_a_microphone_becomes_ticks_of_its_sound() -> None:
    time_axis = np.arange(48_000 * 3) / 48_000
    sent = (9000 * np.sin(2 * np.pi * (300 + 200 * time_axis) * time_axis)).astype(np.int16)
    browser, server = RTCPeerConnection(RTCConfiguration(iceServers=[])), door.peer_connection(Network())
    voice = Voice(sent)
    browser.addTransceiver(voice, direction="sendonly")
    receiving = server.addTransceiver("audio", direction="recvonly")
    door.hand_on_at_once(receiving.receiver)
    await connect(browser, server)
    microphone = MicrophoneReader()
    reading = asyncio.ensure_future(microphone.read(receiving.receiver.track))
    origin = await asyncio.wait_for(microphone.best_cut(), 10)
    ticks = []
    for tick in range(50):
        await asyncio.sleep(max(0.0, origin + 0.04 * (tick + 1) - time.monotonic()))
        ticks.append(microphone.take(tick, origin + 0.04 * (tick + 1)))
    await browser.close()
    await server.close()
    await asyncio.wait_for(reading, 5)

    assert [speech.tick for speech, _ in ticks] == list(range(50))
    assert {speech.pcm.shape for speech, _ in ticks} == {(640,)}
    assert {speech.playback.shape for speech, _ in ticks} == {(1920,)}
    assert sum(arrival is None for _, arrival in ticks) < 10, "cuts begin with the first packets"
    heard = np.concatenate([speech.playback for speech, _ in ticks])[24_000:]
    similarity = np.correlate(sent.astype(np.float64), heard[24_000:33_600].astype(np.float64), "valid")
    best = int(np.argmax(similarity))
    assert np.corrcoef(sent[best : best + 9600], heard[24_000:33_600])[0, 1] > 0.98
    slow = np.concatenate([speech.pcm for speech, _ in ticks])[8_000:]
    assert np.abs(slow).max() == pytest.approx(np.abs(heard).max() / 32768, rel=0.05)


async def test_sound_that_waits_is_taken_at_once_and_keeps_its_place() -> None:
    unheard = UnheardSound()
    dropped = [unheard.put(np.full(640, tick, np.float32)) for tick in range(UNHEARD + 3)]
    assert dropped.count(True) == 3
    sound: list[float] = []
    while not unheard.empty:
        part = (await unheard.take()).reshape(-1, 640)[:, 0]
        assert len(part) <= AT_ONCE
        sound += part.tolist()
    assert sound == [0, 0, 0, *range(3, UNHEARD + 3)], "silence stands for what was given up"
    unheard.put(np.ones(640, np.float32))
    assert (await unheard.take()).tolist() == [1.0] * 640
