"""Pictures and sound to an RTMP server: H.264 and AAC in FLV, by FFmpeg."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from fractions import Fraction
from urllib.parse import urlsplit

import av
import numpy as np
from av.codec.context import Flags
from av.video.stream import VideoStream

from engines.types import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES, ByteArray, IntArray
from server.clock import SessionClock
from server.encode import makers, picture
from server.present_outlet import OutletError

KEYFRAMES = 2 * FPS  # pictures from one to the next, as the platforms ask
SOUND_BITRATE = 128_000
PATIENCE = 5.0  # seconds for the connection to stand, and for the last packets to leave
GIVEN_UP = 0.5  # seconds for the thread where nothing goes out any more; it ends by itself later
SENDING = {
    "fifo_format": "flv",
    "format_opts": f"flvflags=no_duration_filesize:rw_timeout={round(PATIENCE * 1e6)}",
    "queue_size": "120",  # packets, some 1.6 seconds
}
PORTS = {"rtmp": 1935, "rtmps": 443}
WAITING = 2 * FPS  # ticks that may wait to be sent; then the line is too thin


class RtmpOutlet:
    """One connection. Opened, fed and closed on the event loop; a thread of its own encodes, and one of FFmpeg's sends.

    The second one (FFmpeg's `fifo`) is there because a server that does not answer would hold every thread of Python.
    What it meets comes back a little later, as `failure`.
    """

    def __init__(self, url: str, size: tuple[int, int], bitrate: int) -> None:
        self.failure: str | None = None
        self.left_out = 0  # each is sent, or the connection has failed
        self._url, self._size, self._bitrate = url, size, bitrate
        self._items: deque[tuple[int, IntArray, ByteArray | None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._clock: SessionClock | None = None
        self._thread = threading.Thread(target=self._run, name="rtmp", daemon=True)

    async def open(self) -> None:
        """Raises OutletError where nobody takes connections."""
        parts = urlsplit(self._url)
        try:
            async with asyncio.timeout(PATIENCE):
                _, probe = await asyncio.open_connection(parts.hostname, parts.port or PORTS[parts.scheme])
            probe.close()
        except TimeoutError:
            raise OutletError("it does not answer") from None
        except (OSError, ValueError) as error:
            raise OutletError(f"it takes no connections ({_reason(error)})") from error
        self._thread.start()

    def begin(self, clock: SessionClock) -> None:
        self._clock = clock

    def put(self, tick: int, playback: IntArray, rgb: ByteArray | None) -> None:
        """Sound i16 (1920,) and picture u8 (H, W, 3) of a tick, every tick in order; `failure` says what went wrong."""
        with self._changed:
            if len(self._items) >= WAITING:
                self.failure = self.failure or "the line is too thin or the server has stopped reading"
            else:
                self._items.append((tick, playback, rgb))
            self._changed.notify()

    async def close(self) -> None:
        """What was put is sent, unless something failed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 2 * PATIENCE if self.failure is None else GIVEN_UP)

    def _run(self) -> None:
        try:
            with av.open(self._url, "w", format="fifo", options=SENDING) as container:
                video, audio = self._streams(container)
                while (item := self._next()) is not None:
                    self._send(container, video, audio, *item)
                if self.failure is None:
                    container.mux(video.encode(None))
                    container.mux(audio.encode(None))
        except (av.FFmpegError, OSError, ValueError) as error:
            self.failure = self.failure or _reason(error)

    def _next(self) -> tuple[int, IntArray, ByteArray | None] | None:
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait()
            return self._items.popleft() if self._items and self.failure is None else None

    def _streams(self, container: av.container.OutputContainer) -> tuple[VideoStream, av.AudioStream]:
        maker = makers("h264")[0](*self._size, self._bitrate)
        options = {**maker.options, "profile": "main", "maxrate": str(self._bitrate), "bufsize": str(2 * self._bitrate)}
        video = container.add_stream(maker.name, rate=FPS, options=options)
        assert isinstance(video, VideoStream)
        video.width, video.height = self._size
        video.pix_fmt = "yuv420p"
        video.codec_context.bit_rate = self._bitrate
        video.codec_context.gop_size = KEYFRAMES
        audio = container.add_stream("aac", rate=PLAYBACK_RATE, layout="stereo", bit_rate=SOUND_BITRATE)
        assert isinstance(audio, av.AudioStream)
        for codec in (video.codec_context, audio.codec_context):
            codec.flags |= Flags.global_header
        return video, audio

    def _send(
        self,
        container: av.container.OutputContainer,
        video: VideoStream,
        audio: av.AudioStream,
        tick: int,
        playback: IntArray,
        rgb: ByteArray | None,
    ) -> None:
        assert self._clock is not None, "begin first"
        frame = av.AudioFrame.from_ndarray(np.repeat(playback, 2)[None], format="s16", layout="stereo")
        frame.sample_rate, frame.time_base = PLAYBACK_RATE, Fraction(1, PLAYBACK_RATE)
        frame.pts = tick * PLAYBACK_SAMPLES
        packets = audio.encode(frame)
        if rgb is not None:
            shown = picture(tick, rgb)
            shown.pts, shown.time_base = tick, Fraction(1, FPS)
            packets += video.encode(shown)
        time.sleep(max(0.0, self._clock.due(tick) - self._clock.now()))
        container.mux(packets)


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error)
    return {"Input/output error": "the server closed the connection or refuses this stream"}.get(told, told)


def without_key(url: str) -> str:
    """The address without its last part, which is the key that lets others publish too."""
    parts = urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{folder}"
