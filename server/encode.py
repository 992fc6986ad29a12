"""Encoders of one avatar stream: pictures on a thread of their own, sound where it is cut.

Packets leave with the pts of their tick; when they are sent is the business of `server.tracks`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from engines.types import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES, ByteArray, IntArray

VIDEO_CLOCK = 90_000  # RFC 7741, RFC 6184
PICTURE_PTS = VIDEO_CLOCK // FPS
PACKET_SAMPLES = PLAYBACK_SAMPLES // 2
WAITING_PICTURES = 2  # then the oldest gives way: the newest is what a viewer should see
KEYFRAME_BITS = 200_000  # what a key frame of 512 x 512 may take at the least
KEYFRAME_PAUSE = 0.5  # seconds: a receiver repeats its request until the picture is there
BITRATE_STEP = 0.25  # of the bitrate: smaller changes are not worth the key frame they cost
BITRATE_DOWN, BITRATE_UP = 2.0, 8.0  # seconds between changes: quick when the line is poor, patient when it is good

logger = logging.getLogger(__name__)


class SpeechEncoder:
    """Opus, mono, 20 ms packets; pts = tick * 1920 + {0, 960} in 1/48000 s."""

    def __init__(self, bitrate: int) -> None:
        codec = av.CodecContext.create("libopus", "w")
        assert isinstance(codec, av.AudioCodecContext)
        codec.bit_rate = bitrate
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = PLAYBACK_RATE
        codec.time_base = Fraction(1, PLAYBACK_RATE)
        codec.options = {"application": "voip", "frame_duration": "20"}
        self._codec = codec

    def encode(self, tick: int, playback: IntArray) -> tuple[Packet[Any], Packet[Any]]:
        """i16 (1920,) -> its two packets."""
        packets = []
        for half in range(2):
            samples = playback[half * PACKET_SAMPLES : (half + 1) * PACKET_SAMPLES]
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = PLAYBACK_RATE
            frame.time_base = Fraction(1, PLAYBACK_RATE)
            frame.pts = tick * PLAYBACK_SAMPLES + half * PACKET_SAMPLES
            (packet,) = self._codec.encode(frame)
            packet.pts = packet.dts = frame.pts  # libopus shifts them by its look-ahead
            packet.time_base = frame.time_base
            packets.append(packet)
        return packets[0], packets[1]


def _context(name: str, width: int, height: int, bitrate: int) -> VideoCodecContext:
    codec = av.CodecContext.create(name, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height = width, height
    codec.pix_fmt = "yuv420p"
    codec.bit_rate = bitrate
    codec.framerate = Fraction(FPS)
    codec.time_base = Fraction(1, VIDEO_CLOCK)
    codec.gop_size = 3000  # key frames are sent when asked for
    codec.thread_count = 1
    return codec


def vp8(width: int, height: int, bitrate: int) -> VideoCodecContext:
    """libvpx for a live call: constant bitrate, no look-ahead, no temporal denoiser.

    Not `error-resilient`: lost packets are asked for again or answered with a key frame, and independent
    entropy contexts would cost bits in every frame. A key frame may be as large as a clean face needs and
    no larger, so that it does not hold up the frames behind it.
    """
    codec = _context("libvpx", width, height, bitrate)
    codec.qmin, codec.qmax = 2, 56
    codec.options = {
        "deadline": "realtime",
        "cpu-used": "-6",
        "lag-in-frames": "0",
        "minrate": str(bitrate),
        "maxrate": str(bitrate),
        "bufsize": str(max(bitrate * 8 // 10, 3 * KEYFRAME_BITS)),
        "rc_init_occupancy": str(max(bitrate * 6 // 10, 2 * KEYFRAME_BITS)),  # the first picture takes half of it
        "max-intra-rate": str(max(600, 100 * KEYFRAME_BITS * FPS // bitrate)),
        "undershoot-pct": "100",
        "overshoot-pct": "15",
        "static-thresh": "1",
    }
    return codec


def h264(width: int, height: int, bitrate: int) -> VideoCodecContext:
    """x264 for receivers without VP8: baseline, superfast; parameter sets before every key frame."""
    codec = _context("libx264", width, height, bitrate)
    codec.options = {
        "preset": "superfast",
        "tune": "zerolatency",
        "profile": "baseline",
        "level": "3.1",
        "maxrate": str(bitrate),
        "bufsize": str(bitrate // 2),
        "forced-idr": "1",
    }
    return codec


PICTURE_CODECS: dict[str, Callable[[int, int, int], VideoCodecContext]] = {"vp8": vp8, "h264": h264}


class VideoEncoder:
    """One stream's pictures, encoded on one thread in the order they came.

    Made and used on the event loop, where `emit(tick, packet)` and `drop(cause)` are called too.
    `too_late(tick)` is asked on the thread, just before a picture is encoded: what nobody can see any more
    is skipped there (`late_before_encoding`) and never after, because every later picture of these formats
    is built on the one before. The queue holds two pictures and keeps the latest (`encoder_busy`).
    """

    def __init__(
        self,
        codec: str,
        bitrate: int,
        smallest_bitrate: int,
        emit: Callable[[int, Packet[Any]], None],
        drop: Callable[[str], None],
        too_late: Callable[[int], bool],
        name: str,
        keyframe_pause: float = KEYFRAME_PAUSE,
    ) -> None:
        self._format = PICTURE_CODECS[codec]
        self._largest, self._smallest = bitrate, smallest_bitrate
        self._wanted = bitrate
        self.pixels = 0  # of a picture's side; smaller ones are made before encoding, 0 leaves them as they come
        self._emit, self._drop, self._too_late = emit, drop, too_late
        self._keyframe_pause = keyframe_pause
        self._pictures: deque[tuple[int, ByteArray]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._keyframe_wanted = False
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        threading.Thread(target=self._run, name=f"encoder-{name}", daemon=True).start()

    def put(self, tick: int, rgb: ByteArray) -> None:
        """Queue a picture u8 (height, width, 3) RGB; it is not to be written to afterwards."""
        with self._changed:
            if len(self._pictures) == WAITING_PICTURES:
                self._pictures.popleft()
                self._drop("encoder_busy")
            self._pictures.append((tick, rgb))
            self._changed.notify()

    def request_keyframe(self) -> None:
        """The receiver lost the picture: make one of the next frames a key frame."""
        self._keyframe_wanted = True

    def set_bitrate(self, bitrate: int) -> None:
        """Follow the receiver's estimate (bits a second), within this stream's limits."""
        self._wanted = min(max(bitrate, self._smallest), self._largest)

    async def close(self) -> None:
        """Stop the thread and wait for it; may be called twice."""
        with self._changed:
            self._closing = True
            self._pictures.clear()
            self._changed.notify()
        await self._stopped.wait()

    def _next(self) -> tuple[int, ByteArray] | None:
        with self._changed:
            while not self._pictures and not self._closing:
                self._changed.wait()
            return None if self._closing else self._pictures.popleft()

    def _run(self) -> None:
        try:
            self._encode_all()
        finally:
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _encode_all(self) -> None:
        codec: VideoCodecContext | None = None
        bitrate, opened_at, keyframe_at = self._wanted, 0.0, 0.0
        while (picture := self._next()) is not None:
            tick, rgb = picture
            if self._too_late(tick):
                self._loop.call_soon_threadsafe(self._drop, "late_before_encoding")
                continue
            now = time.monotonic()
            if 0 < self.pixels < len(rgb):
                rgb = np.asarray(cv2.resize(rgb, (self.pixels, self.pixels), interpolation=cv2.INTER_AREA), np.uint8)
            height, width = rgb.shape[:2]
            wanted = self._wanted
            pause = BITRATE_DOWN if wanted < bitrate else BITRATE_UP
            moved = abs(wanted - bitrate) > BITRATE_STEP * bitrate or wanted == self._largest != bitrate
            if codec is None or (moved and now - opened_at > pause) or (codec.width, codec.height) != (width, height):
                codec, bitrate, opened_at = self._format(width, height, wanted), wanted, now
                logger.debug("%d x %d at %d bit/s", width, height, bitrate)
            frame = _picture(tick, rgb)
            if self._keyframe_wanted and now - keyframe_at > self._keyframe_pause:
                frame.pict_type = PictureType.I
                self._keyframe_wanted = False
            try:
                packets = codec.encode(frame)
            except av.FFmpegError:
                logger.exception("a picture could not be encoded; the encoder starts anew")
                self._loop.call_soon_threadsafe(self._drop, "encoder_error")
                codec = None
                continue
            for packet in packets:
                if packet.is_keyframe:
                    keyframe_at = now
                self._loop.call_soon_threadsafe(self._emit, tick, packet)


def tick_of(packet: Packet[Any]) -> int | None:
    """The tick of a packet of pictures."""
    return None if packet.pts is None else packet.pts // PICTURE_PTS


def _picture(tick: int, rgb: ByteArray) -> av.VideoFrame:
    i420 = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
    frame = av.VideoFrame.from_ndarray(i420, format="yuv420p")
    frame.pts = tick * PICTURE_PTS
    frame.time_base = Fraction(1, VIDEO_CLOCK)
    return frame
