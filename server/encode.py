"""Encoders of one avatar stream: pictures on a thread of their own, sound where it is cut.

Packets leave with the pts of their tick; when they are sent is the business of `server.tracks`.
"""

from __future__ import annotations

import asyncio
import functools
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

from engines.types import FPS, FRAME_SIZE, PLAYBACK_RATE, PLAYBACK_SAMPLES, ByteArray, IntArray
from server.rate import ReceiverRate

VIDEO_CLOCK = 90_000  # RFC 7741, RFC 6184
PICTURE_PTS = VIDEO_CLOCK // FPS
PACKET_SAMPLES = PLAYBACK_SAMPLES // 2
WAITING_PICTURES = 2  # then the oldest gives way: the newest is what a viewer should see
KEYFRAME_BITS = 200_000  # what a key frame of 512 x 512 may take at the least
KEYFRAME_PAUSE = 0.5  # seconds: a receiver repeats its request until the picture is there
# Quantisers below which bits buy what nobody sees: of 1200 kbit/s a face then takes 740 and has 47.2 dB instead of
# 48.2 (VP8), or 580 and 47.0 instead of 47.8 (H.264). Above them blocks show in even backgrounds.
FINEST_VP8, FINEST_H264 = 8, 17
BITRATE_STEP = 0.25  # of the bitrate: smaller changes are not worth the key frame they cost
ON_REQUEST = 3000  # pictures between key frames that nobody asked for: two minutes
SIDES = ((384, 200_000), (256, 110_000))  # pixels of a side, and bits a second below which they look best
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
        # 10, the default, takes a third longer.
        codec.options = {"application": "voip", "frame_duration": "20", "compression_level": "5"}
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
    codec.gop_size = ON_REQUEST
    codec.thread_count = 1
    return codec


def vp8(width: int, height: int, bitrate: int) -> VideoCodecContext:
    """libvpx for a live call: constant bitrate, no look-ahead, no temporal denoiser.

    Not `error-resilient`: lost packets are asked for again or answered with a key frame, and independent
    entropy contexts would cost bits in every frame. A key frame may be as large as a clean face needs and
    no larger, so that it does not hold up the frames behind it.
    """
    codec = _context("libvpx", width, height, bitrate)
    codec.qmin, codec.qmax = FINEST_VP8, 56
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
        "static-thresh": "1",  # 300 takes a fifth less time, and leaves the key frame's blocks in even backgrounds
    }
    return codec


BASELINE = {"profile": "baseline", "level": "3.1", "forced-idr": "1"}  # what every receiver of H.264 takes (RFC 7742)


def h264(width: int, height: int, bitrate: int) -> VideoCodecContext:
    """x264 for receivers without VP8: baseline, superfast; parameter sets before every key frame."""
    codec = _context("libx264", width, height, bitrate)
    codec.qmin = FINEST_H264
    codec.options = {
        **BASELINE,
        "preset": "superfast",
        "tune": "zerolatency",
        "maxrate": str(bitrate),
        "bufsize": str(bitrate // 2),
    }
    return codec


def nvenc(width: int, height: int, bitrate: int) -> VideoCodecContext:
    """The same stream from the encoder of an NVIDIA GPU, without look-ahead or a picture kept back."""
    codec = _context("h264_nvenc", width, height, bitrate)
    codec.options = {
        **BASELINE,
        "preset": "p4",
        "tune": "ull",
        "rc": "cbr",
        "zerolatency": "1",
        "delay": "0",
        "maxrate": str(bitrate),
        "bufsize": str(bitrate // 2),
    }
    return codec


Maker = Callable[[int, int, int], VideoCodecContext]  # width, height, bits a second -> an encoder not opened yet
PICTURE_CODECS: dict[str, Maker] = {"vp8": vp8, "h264": h264}


@functools.cache
def in_hardware(make: Maker = nvenc) -> bool:
    """Whether pictures can be encoded with `make` here, found out once by encoding one.

    FFmpeg lists h264_nvenc on every machine; whether a driver, a GPU and its encoder are there shows when it is opened
    (A100, H100 and H200 have none).
    """
    try:
        codec = make(FRAME_SIZE, FRAME_SIZE, 1_000_000)
        made = codec.encode(picture(0, np.zeros((FRAME_SIZE, FRAME_SIZE, 3), np.uint8))) + codec.encode(None)
        works = bool(made)
        why = "it returned nothing"
    except (av.FFmpegError, ValueError) as error:  # a ValueError: this build of FFmpeg does not know it
        works, why = False, str(error)
    if works:
        logger.info("H.264 is encoded by %s", codec.name)
    else:
        logger.info("H.264 is encoded by libx264; %s cannot be used here: %s", make.__name__, why)
    return works


def makers(codec: str) -> list[Maker]:
    """Encoders of "vp8" or "h264" that work here, the one to begin with first."""
    own = PICTURE_CODECS[codec]
    return [nvenc, own] if codec == "h264" and in_hardware() else [own]


def side_for(bitrate: int, largest: int) -> int:
    """Pixels of a picture's longer side, at most `largest`, that look best at so many bits a second."""
    return min([largest, *(side for side, below in SIDES if bitrate < below)])


class VideoEncoder:
    """One stream's pictures, encoded on one thread in the order they came.

    Made and used on the event loop, where `emit(tick, packet)` and `drop(cause)` are called too.
    `too_late(tick)` is asked on the thread, just before a picture is encoded: what nobody can see any more
    is skipped there (`late_before_encoding`) and never after, because every later picture of these formats
    is built on the one before. The queue holds two pictures and keeps the latest (`encoder_busy`). `rate`: pictures a
    second that come, at most.
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
        side: int = FRAME_SIZE,
        rate: int = FPS,
        keyframe_seconds: float = 0,
        keyframe_pause: float = KEYFRAME_PAUSE,
    ) -> None:
        self._codec = codec
        self._rate = ReceiverRate(bitrate, smallest_bitrate)
        self._most = bitrate
        self._side = side
        self._gop = round(keyframe_seconds * rate) or ON_REQUEST
        self.pixels = 0  # a picture's longer side is to have at most; 0 sets no limit beside `side`
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
        self._rate.estimated(bitrate)

    def report_loss(self, share: float) -> None:
        """Follow the receiver's losses: `share` of the packets since its last report."""
        self._rate.lost(share, time.monotonic())

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
        usable = makers(self._codec)
        bitrate, opened_at, keyframe_at = self._rate.bitrate, 0.0, 0.0
        side = side_for(bitrate, self._side)
        while (waiting := self._next()) is not None:
            tick, rgb = waiting
            if self._too_late(tick):
                self._loop.call_soon_threadsafe(self._drop, "late_before_encoding")
                continue
            now = time.monotonic()
            wanted = self._rate.bitrate
            pause = BITRATE_DOWN if wanted < bitrate else BITRATE_UP
            moved = abs(wanted - bitrate) > BITRATE_STEP * bitrate or wanted == self._most != bitrate
            if moved and now - opened_at > pause:
                codec, bitrate, side = None, wanted, side_for(wanted, self._side)
            rgb = shrunk(rgb, min(side, self.pixels or side))
            height, width = rgb.shape[:2]
            if codec is None or (codec.width, codec.height) != (width, height):
                codec, opened_at = usable[0](width, height, bitrate), now
                codec.gop_size = self._gop
                logger.debug("%s: %d x %d at %d bit/s", codec.name, width, height, bitrate)
            frame = picture(tick, rgb)
            if self._keyframe_wanted and now - keyframe_at > self._keyframe_pause:
                frame.pict_type = PictureType.I
                self._keyframe_wanted = False
            try:
                packets = codec.encode(frame)
            except av.FFmpegError:
                logger.exception("a picture could not be encoded; the encoder starts anew")
                self._loop.call_soon_threadsafe(self._drop, "encoder_error")
                codec = None
                del usable[:-1]  # a GPU takes so many streams and no more; the last one is software
                continue
            for packet in packets:
                if packet.is_keyframe:
                    keyframe_at = now
                self._loop.call_soon_threadsafe(self._emit, tick, packet)


def tick_of(packet: Packet[Any]) -> int | None:
    """The tick of a packet of pictures."""
    return None if packet.pts is None else packet.pts // PICTURE_PTS


def shrunk(rgb: ByteArray, side: int) -> ByteArray:
    """A picture whose longer side has `side` pixels at the most; sides stay even, as 4:2:0 needs them."""
    height, width = rgb.shape[:2]
    if max(height, width) <= side:
        return rgb
    size = [2 * round(length * side / max(height, width) / 2) for length in (width, height)]
    # Areas take 2.0 ms for 384 of 512 pixels, points between 0.4; only halves and less need areas.
    between = cv2.INTER_LINEAR if 2 * side > max(height, width) else cv2.INTER_AREA
    return np.asarray(cv2.resize(rgb, size, interpolation=between), np.uint8)


def picture(tick: int, rgb: ByteArray) -> av.VideoFrame:
    """u8 (height, width, 3) RGB, sides even -> what encoders take, with its tick's pts."""
    i420 = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
    frame = av.VideoFrame.from_numpy_buffer(i420, format="yuv420p")  # without a copy, which would take .2 ms
    frame.pts = tick * PICTURE_PTS
    frame.time_base = Fraction(1, VIDEO_CLOCK)
    return frame
