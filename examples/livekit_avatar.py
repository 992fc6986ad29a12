"""An avatar in a LiveKit room: the agent's speech in, the face that speaks it out.

In the agent's job, the sound goes to the avatar instead of the room:

    session.output.audio = DataStreamAudioOutput(room, destination_identity="kdtalker", sample_rate=24_000)

and this worker joins the room under that name, with a token whose attribute `lk.publish_on_behalf` names the agent:

    python examples/livekit_avatar.py wss://host.example.org TOKEN [PHOTO]

It follows LiveKit's avatar protocol: sound by byte stream `lk.audio_stream`, interruption by RPC `lk.clear_buffer`,
and `lk.playback_finished` with the position that was reached.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    DataStreamAudioReceiver,
    VideoGenerator,
)

from engines.types import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES
from server.live import live
from server.performance import Performance, open_performance

PHOTO = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "iris.png"


class AvatarVideo(VideoGenerator):  # type: ignore[misc]  # unknown where LiveKit is not installed
    """What `AvatarRunner` asks for pictures. Sound of any rate; it comes back at 48 kHz, with its pictures."""

    def __init__(self, performance: Performance) -> None:
        self._performance = performance

    @property
    def options(self) -> AvatarOptions:
        width, height = self._performance.size
        return AvatarOptions(
            video_width=width, video_height=height, video_fps=FPS, audio_sample_rate=PLAYBACK_RATE, audio_channels=1
        )

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        if isinstance(frame, AudioSegmentEnd):
            self._performance.end()
        else:
            samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
            self._performance.push(samples.mean(axis=1, dtype=np.float32) / np.float32(32768), frame.sample_rate)

    def clear_buffer(self) -> None:
        self._performance.clear()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Sound is passed on only while the avatar speaks: the runner counts it for `playback_position`."""
        width, height = self._performance.size
        async for moment in live(self._performance):
            if moment.picture is not None:
                yield rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, moment.picture.tobytes())
            if moment.speaks:
                yield rtc.AudioFrame(moment.playback.tobytes(), PLAYBACK_RATE, 1, PLAYBACK_SAMPLES)
            if moment.ends:
                yield AudioSegmentEnd()


async def join(url: str, token: str, photo: bytes) -> None:
    """Be the avatar of the room's agent until the room closes."""
    avatar = AvatarVideo(await asyncio.to_thread(open_performance, photo))
    room = rtc.Room()
    await room.connect(url, token)
    runner = AvatarRunner(room, audio_recv=DataStreamAudioReceiver(room), video_gen=avatar, options=avatar.options)
    await runner.start()
    try:
        await runner.wait_for_complete()
    finally:
        await runner.aclose()
        await room.disconnect()


if __name__ == "__main__":
    asyncio.run(join(sys.argv[1], sys.argv[2], Path(sys.argv[3] if len(sys.argv) > 3 else PHOTO).read_bytes()))
