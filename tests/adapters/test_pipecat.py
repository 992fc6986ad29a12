"""The Pipecat service in a real pipeline, and through Pipecat's own WebRTC to a peer."""

from __future__ import annotations

import asyncio

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

pytest.importorskip("pipecat", reason="pipecat-ai is not installed in this environment (make adapters)")

from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.tests.utils import SleepFrame, run_test
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

from engines.types import FPS, FRAME_SIZE, PLAYBACK_RATE, PLAYBACK_SAMPLES
from examples.pipecat_avatar import AvatarService
from server.performance import Performance
from tests.adapters.conftest import tone

RATE = 24_000


def speech(seconds: float) -> list[Frame]:
    """As a voice sends it: faster than it is spoken, in pieces of 100 ms."""
    pieces = round(seconds * 10)
    return [
        TTSStartedFrame(context_id="one"),
        *(TTSAudioRawFrame(tone(0.1, RATE), RATE, 1, context_id="one") for _ in range(pieces)),
        TTSStoppedFrame(context_id="one"),
    ]


def level(frame: TTSAudioRawFrame) -> int:
    return int(np.abs(np.frombuffer(frame.audio, np.int16)).max())


async def test_sound_comes_back_with_its_pictures_and_the_stop_after_it(performance: Performance) -> None:
    sent = [SleepFrame(0.4), *speech(1.0)]
    down, _ = await run_test(AvatarService(performance), frames_to_send=sent, start_timeout=30)
    sounds = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    pictures = [frame for frame in down if isinstance(frame, OutputImageRawFrame)]
    assert [len(frame.audio) for frame in sounds] == 25 * [2 * PLAYBACK_SAMPLES]
    assert {(frame.sample_rate, frame.num_channels, frame.context_id) for frame in sounds} == {
        (PLAYBACK_RATE, 1, "one")
    }
    assert min(map(level, sounds)) > 5000, "the whole second, and no hole in it"
    assert {(frame.size, frame.format, len(frame.image)) for frame in pictures} == {
        ((FRAME_SIZE, FRAME_SIZE), "RGB", 3 * FRAME_SIZE**2)
    }
    kinds = [type(frame) for frame in down]
    assert kinds.index(TTSStartedFrame) < kinds.index(TTSAudioRawFrame)
    assert kinds.index(TTSStoppedFrame) > max(at for at, kind in enumerate(kinds) if kind is TTSAudioRawFrame)
    synced = [at for at, frame in enumerate(down) if isinstance(frame, OutputImageRawFrame) and frame.sync_with_audio]
    assert synced
    assert all(kinds[at + 1] is TTSAudioRawFrame for at in synced), "a picture goes just before its sound"
    assert len({frame.image for frame in pictures}) > 10, "it moves"


async def test_an_interruption_silences_it(performance: Performance) -> None:
    sent = [*speech(5.0), SleepFrame(1.0), InterruptionFrame(), SleepFrame(0.6), *speech(0.2), SleepFrame(0.8)]
    down, _ = await run_test(AvatarService(performance), frames_to_send=sent, start_timeout=30)
    kinds = [type(frame) for frame in down]
    cut = kinds.index(InterruptionFrame)
    again = max(at for at, kind in enumerate(kinds) if kind is TTSStartedFrame)
    assert 5 <= kinds[:cut].count(TTSAudioRawFrame) < 60, "some of it was spoken, and much was not"
    assert kinds[cut:again].count(TTSAudioRawFrame) <= 1, "what was on its way"
    assert kinds[cut:again].count(OutputImageRawFrame) >= 5, "the face stays"
    assert kinds[again:].count(TTSAudioRawFrame) == 5
    assert kinds.count(TTSStoppedFrame) == 1, "of the second utterance; the first was cut"


async def test_it_leaves_nothing_behind(performance: Performance) -> None:
    await run_test(AvatarService(performance), frames_to_send=[], start_timeout=30)
    assert [task for task in asyncio.all_tasks() if "_show" in task.get_name()] == []


async def test_a_peer_hears_and_sees_it_through_pipecats_own_webrtc(performance: Performance) -> None:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("audio", direction="sendrecv")
    peer.addTransceiver("video", direction="sendrecv")
    pictures: set[bytes] = set()
    sizes: set[tuple[int, int]] = set()
    loud, moving = asyncio.Event(), asyncio.Event()
    watching: list[asyncio.Task[None]] = []

    async def watch(track: MediaStreamTrack) -> None:
        while True:
            frame = await track.recv()
            if isinstance(frame, av.VideoFrame):
                sizes.add((frame.width, frame.height))
                pictures.add(frame.to_ndarray(format="gray").tobytes())
                if len(pictures) > 20:
                    moving.set()
            elif np.abs(frame.to_ndarray()).max() > 5000:
                loud.set()

    peer.on("track", lambda track: watching.append(asyncio.create_task(watch(track))))
    connection = SmallWebRTCConnection()
    transport = SmallWebRTCTransport(
        connection,
        TransportParams(
            audio_out_enabled=True,
            audio_out_sample_rate=PLAYBACK_RATE,
            video_out_enabled=True,
            video_out_width=FRAME_SIZE,
            video_out_height=FRAME_SIZE,
            video_out_framerate=FPS,
        ),
    )
    pipeline = Pipeline([transport.input(), AvatarService(performance), transport.output()])
    worker = PipelineWorker(pipeline, enable_rtvi=False)
    runner = WorkerRunner(handle_sigint=False)
    await peer.setLocalDescription(await peer.createOffer())
    await connection.initialize(peer.localDescription.sdp, "offer")
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await peer.setRemoteDescription(RTCSessionDescription(connection.get_answer()["sdp"], "answer"))
    async with asyncio.timeout(40):
        await moving.wait()
        assert not loud.is_set(), "it has not spoken yet"
        await worker.queue_frames(speech(2.0))
        await loud.wait()
    assert (FRAME_SIZE, FRAME_SIZE) in sizes
    await worker.cancel()
    await running
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    await peer.close()
