"""One encoder's pictures on their way to whoever watches them, and which of them come too late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from av.packet import Packet

from engines.types import ByteArray
from server.clock import SessionClock
from server.encode import KEYFRAME_PAUSE, VideoEncoder
from server.metrics import CallMetrics
from server.settings import Settings

TOLERATED = 0.024  # seconds past its moment that a picture is still worth showing
FROZEN = 0.2  # seconds without a picture after which a late one is better than none
STALE = 1.0  # seconds after which it is not: an engine stood still, and the next picture is of the present


class PictureStream:
    """Made and used on the event loop. `send(due, packet)` is called there for every encoded picture.

    `clock` is set once the call's time runs; pictures may be shown from then on.
    """

    def __init__(
        self,
        name: str,
        codec: str,
        settings: Settings,
        metrics: CallMetrics,
        send: Callable[[float, Packet[Any]], None],
        *,
        bitrate: int | None = None,
        keyframe_pause: float = KEYFRAME_PAUSE,
    ) -> None:
        """`bitrate`: a fixed one; else `follow` and `report_loss` move it between the settings' limits."""
        self.clock: SessionClock | None = None
        self._metrics, self._send = metrics, send
        self._encoder = VideoEncoder(
            codec,
            bitrate or settings.video_bitrate,
            bitrate or settings.min_video_bitrate,
            emit=self._emit,
            drop=metrics.dropped,
            too_late=self.too_late,
            name=name,
            side=settings.video_size,
            rate=settings.video_rate,
            keyframe_seconds=settings.keyframe_interval,
            keyframe_pause=keyframe_pause,
        )
        self.follow, self.report_loss = self._encoder.set_bitrate, self._encoder.report_loss
        self.request_keyframe = self._encoder.request_keyframe
        self._last_picture = time.monotonic()

    def show(self, tick: int, rgb: ByteArray, pixels: int) -> None:
        """Encode a picture u8 (height, width, 3), at most so many pixels wide, and send it at its due."""
        self._encoder.pixels = pixels
        self._encoder.put(tick, rgb)

    def too_late(self, tick: int, newest: bool = True) -> bool:
        """Whether a picture is past its moment; if nothing was seen for long, the newest one seldom is.

        Asked on the event loop and on the encoder's thread.
        """
        assert self.clock is not None
        frozen = self.clock.now() - self._last_picture > FROZEN
        return self.clock.late(tick) > (STALE if newest and frozen else TOLERATED)

    async def close(self) -> None:
        """Stop the encoder's thread; may be called twice."""
        await self._encoder.close()

    def _emit(self, tick: int, packet: Packet[Any]) -> None:
        assert self.clock is not None
        self._last_picture = self.clock.now()
        self._metrics.encoded()
        self._send(self.clock.showing(tick), packet)
