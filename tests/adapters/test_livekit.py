"""The LiveKit avatar on LiveKit's own runner, sender and receiver; the room between them is `livekit_rooms`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed in this environment (make adapters)")

from livekit import rtc
from livekit.agents.voice.avatar import AvatarRunner, DataStreamAudioOutput, DataStreamAudioReceiver

from engines.types import FRAME_SIZE
from examples.livekit_avatar import AvatarVideo
from server.performance import Performance
from tests.adapters.conftest import tone
from tests.adapters.livekit_rooms import Room, joined

RATE = 24_000


@dataclass
class Call:
    """An agent, its avatar, and what is heard and seen of it."""

    agent: Room
    avatar: Room
    output: DataStreamAudioOutput
    finished: asyncio.Queue[tuple[float, bool]]
    video: AvatarVideo
    pictures: list[rtc.VideoFrame]
    picture: asyncio.Event

    async def say(self, seconds: float) -> None:
        for _ in range(round(10 * seconds)):
            await self.output.capture_frame(rtc.AudioFrame(tone(0.1, RATE), RATE, 1, RATE // 10))
        self.output.flush()

    async def over(self, within: float = 30) -> tuple[float, bool]:
        """Position and interruption of the next `playback_finished`."""
        async with asyncio.timeout(within):
            return await self.finished.get()


@pytest_asyncio.fixture
async def call(performance: Performance) -> AsyncIterator[Call]:
    agent, avatar = joined("agent", "avatar")
    video = AvatarVideo(performance)
    receiver = DataStreamAudioReceiver(avatar, sender_identity="agent")
    runner = AvatarRunner(avatar, audio_recv=receiver, video_gen=video, options=video.options)
    await runner.start()
    output = DataStreamAudioOutput(agent, destination_identity="avatar", sample_rate=RATE)
    finished: asyncio.Queue[tuple[float, bool]] = asyncio.Queue()
    output.on("playback_finished", lambda event: finished.put_nowait((event.playback_position, event.interrupted)))
    pictures: list[rtc.VideoFrame] = []
    async with asyncio.timeout(30):
        await avatar.local_participant.published.wait()
    picture = asyncio.Event()
    stream = rtc.VideoStream(avatar.local_participant.tracks[1], format=rtc.VideoBufferType.RGB24)

    async def watch() -> None:
        async for event in stream:
            pictures.append(event.frame)
            picture.set()

    watching = asyncio.create_task(watch())
    yield Call(agent, avatar, output, finished, video, pictures, picture)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await stream.aclose()
    await runner.aclose()
    await receiver.aclose()


async def seen(call: Call, count: int) -> None:
    """Wait until so many more pictures were seen."""
    async with asyncio.timeout(30):
        for _ in range(count):
            call.picture.clear()
            await call.picture.wait()


async def test_a_segment_is_spoken_to_its_end_and_said_to_be_over(call: Call) -> None:
    await seen(call, 5)
    assert call.finished.empty(), "an idle face plays nothing"
    for seconds in (1.0, 0.5):
        await call.say(seconds)
        position, interrupted = await call.over()
        assert not interrupted
        assert seconds <= position < seconds + 0.0401, "to the end of its last tick"
    assert call.agent.local_participant.streams == ["lk.audio_stream"] * 2
    told = [json.loads(payload) for method, payload in calls(call, "lk.playback_finished")]
    assert [event["interrupted"] for event in told] == [False, False]
    assert len(calls(call, "lk.playback_started")) == 2
    await seen(call, 5)
    assert {(frame.width, frame.height) for frame in call.pictures} == {(FRAME_SIZE, FRAME_SIZE)}
    assert len({bytes(frame.data) for frame in call.pictures}) > 10, "it moves"


async def test_clear_buffer_stops_it_and_tells_how_far_it_came(call: Call) -> None:
    await call.say(5.0)
    await seen(call, 30)
    call.output.clear_buffer()
    position, interrupted = await call.over()
    assert interrupted
    assert 0.2 < position < 4.0, "some of five seconds"
    assert call.agent.local_participant.calls == [("lk.clear_buffer", "")]
    before = len(call.pictures)
    await seen(call, 10)
    assert call.finished.empty(), "no second end of the same segment"
    assert len(call.pictures) >= before + 10, "the face stays"
    await call.say(0.3)
    position, interrupted = await call.over()
    assert not interrupted
    assert 0.3 <= position < 0.3401, "nothing of what was cut"


def calls(call: Call, method: str) -> list[tuple[str, str]]:
    return [made for made in call.avatar.local_participant.calls if made[0] == method]


def test_stereo_is_averaged(performance: Performance) -> None:
    video = AvatarVideo(performance)
    both = np.repeat(np.frombuffer(tone(0.2, RATE), np.int16), 2)
    asyncio.run(video.push_audio(rtc.AudioFrame(both.tobytes(), RATE, 2, len(both) // 2)))
    assert abs(performance.waiting - 0.2) < 0.01
