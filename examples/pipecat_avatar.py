"""A face for a Pipecat bot: a service that stands behind the voice and before the transport.

    from server.performance import open_performance

    avatar = AvatarService(open_performance(Path("photo.jpg").read_bytes()))
    pipeline = Pipeline([transport.input(), stt, llm, tts, avatar, transport.output()])

The transport wants `video_out_enabled=True`, 512 for `video_out_width` and `video_out_height`, 25 for
`video_out_framerate` and 48000 for `audio_out_sample_rate`.
"""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from engines.types import PLAYBACK_RATE
from server.live import live
from server.performance import Performance


class AvatarService(AIService):  # type: ignore[misc]  # unknown where Pipecat is not installed
    """Takes the voice's sound (`TTSAudioRawFrame`) and gives it back with its pictures, at 48 kHz and 25 a second.

    `TTSStoppedFrame` follows the last of its sound; an `InterruptionFrame` silences the face from the next tick on.
    """

    def __init__(self, performance: Performance) -> None:
        super().__init__(settings=ServiceSettings(model=None))
        self._performance = performance
        self._stopped: deque[TTSStoppedFrame] = deque()  # that wait for their sound
        self._context: str | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._showing: asyncio.Task[None] | None = None

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        self._showing = self.create_task(self._show())

    async def stop(self, frame: EndFrame) -> None:
        await self._leave()
        await super().stop(frame)

    async def cancel(self, frame: CancelFrame) -> None:
        await self._leave()
        await super().cancel(frame)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, EndFrame):
            self._performance.end()
            await self._quiet.wait()  # what was said before is spoken
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            samples = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
            self._performance.push(samples.mean(axis=1, dtype=np.float32) / np.float32(32768), frame.sample_rate)
            self._context = frame.context_id
            self._quiet.clear()
            return
        if isinstance(frame, TTSStoppedFrame) and not self._quiet.is_set():
            self._performance.end()
            self._stopped.append(frame)
            return
        if isinstance(frame, InterruptionFrame):
            self._performance.clear()
            self._stopped.clear()
            self._quiet.set()
        await self.push_frame(frame, direction)

    async def _show(self) -> None:
        size = self._performance.size
        async for moment in live(self._performance):
            if moment.picture is not None:
                picture = OutputImageRawFrame(image=moment.picture.tobytes(), size=size, format="RGB")
                picture.sync_with_audio = moment.speaks  # else it overtakes the sound that waits in the transport
                await self.push_frame(picture)
            if moment.speaks:
                await self.push_frame(
                    TTSAudioRawFrame(moment.playback.tobytes(), PLAYBACK_RATE, 1, context_id=self._context)
                )
            if moment.ends:
                if self._stopped:
                    await self.push_frame(self._stopped.popleft())
                if self._performance.finished:
                    self._quiet.set()

    async def _leave(self) -> None:
        if self._showing is not None:
            task, self._showing = self._showing, None
            await self.cancel_task(task)
