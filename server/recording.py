"""A call as an MP4 file: H.264 and AAC, stamped by the call's ticks, encoded and written by a thread of its own.

The pictures are encoded once more rather than copied: calls speak VP8, which MP4 players do not take, and what goes to
a peer changes its size and rate with the peer's line. The file is made of fragments and can be read while it grows; a
whole index takes their place when it is finished (`hybrid_fragmented`, FFmpeg 7.1).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from engines.mark import METADATA
from engines.types import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES, ByteArray, IntArray

WAITING_PICTURES = 8  # then the next one is left out, and the one before is shown for longer
WAITING_TICKS = 10 * FPS  # of sound; whoever is so far behind does not catch up
PATIENCE = FPS  # ticks that sound waits for its picture; then the picture before stands in for it
FRAGMENT = 2 * FPS  # pictures between key frames; what a crash may cost
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STOPPED, CALL_ENDED, DISK_FULL, FAILED = "stopped", "call ended", "disk full", "failed"
TOO_LONG, TOO_LARGE, TOO_SLOW = "time limit", "size limit", "machine too slow"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one recording: `seconds`, `size` in bytes, and the bytes that its disk keeps `free`."""

    seconds: float
    size: int
    free: int


class Recording:
    """One file. Made and used on the event loop, where `ended` is called too, once the file is closed.

    `still` u8 (h, w, 3), the avatar's picture, gives the film its size and stands in until the first picture comes.
    Nothing that goes wrong here reaches the call: it ends the recording, and `reason` says what it was.
    """

    def __init__(self, path: Path, still: ByteArray, bounds: Bounds, ended: Callable[[], None], name: str) -> None:
        self.path = path
        self.reason: str | None = None
        self.left_out = 0  # pictures that the machine was too busy for
        self.done = False
        self._bounds, self._ended, self._name = bounds, ended, name
        self._still: ByteArray | None = still
        self._seconds, self._size = 0.0, 0  # of the film when it was last asked
        self._items: deque[tuple[int, IntArray | None, ByteArray | None]] = deque()
        self._pictures = 0  # that wait
        self._changed = threading.Condition()
        self._film: _Film | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        threading.Thread(target=self._run, name=f"recording-{name}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Pictures and ticks of sound that are not written yet."""
        return len(self._items)

    def sound(self, tick: int, playback: IntArray) -> None:
        """i16 (1920,) of a tick; every tick has one, in order. The first one is where the film begins."""
        with self._changed:
            if self.reason is not None:
                return
            if len(self._items) >= WAITING_TICKS:
                self.reason = TOO_SLOW
            else:
                self._items.append((tick, playback, None))
            self._changed.notify()

    def picture(self, tick: int, rgb: ByteArray) -> None:
        """u8 (h, w, 3) of a tick, in order, some ticks after the sound; it is not to be written to afterwards."""
        with self._changed:
            if self.reason is not None:
                return
            if self._pictures >= WAITING_PICTURES:
                self.left_out += 1
                return
            self._pictures += 1
            self._items.append((tick, None, rgb))
            self._changed.notify()

    def stop(self, reason: str) -> None:
        """Finish the file with what has come; the first reason given is the one that is kept."""
        with self._changed:
            self.reason = self.reason or reason
            self._changed.notify()

    async def closed(self) -> None:
        """Wait until the file is whole; any number may wait."""
        await self._closed.wait()

    def stats(self) -> dict[str, Any]:
        if (film := self._film) is not None:
            self._seconds, self._size = film.seconds, film.size
        return {
            "state": "ended" if self.done else "running",
            "seconds": round(self._seconds, 2),
            "bytes": self._size,
            "pictures_left_out": self.left_out,
            "reason": self.reason,
        }

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in FULL
            with self._changed:
                self.reason = DISK_FULL if full else FAILED
            if not full:
                logger.exception("recording %s failed", self._name)
        finally:
            self._loop.call_soon_threadsafe(self._finished)

    def _finished(self) -> None:
        self.done = True
        self._items.clear()
        self.stats()
        self._film = None  # the file may lie there for hours; encoders and pictures need not
        logger.info("recording %s: %s", self._name, self.reason)
        self._closed.set()
        self._ended()

    def _write(self) -> None:
        assert self._still is not None
        film = self._film = _Film(self.path, self._still)
        self._still = None
        looked = 0.0
        try:
            while (item := self._next()) is not None:
                film.add(*item)
                if film.seconds >= self._bounds.seconds:
                    self.stop(TOO_LONG)
                elif film.size >= self._bounds.size:
                    self.stop(TOO_LARGE)
                elif time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    if shutil.disk_usage(self.path.parent).free < self._bounds.free:
                        self.stop(DISK_FULL)
        finally:
            film.close()

    def _next(self) -> tuple[int, IntArray | None, ByteArray | None] | None:
        with self._changed:
            while not self._items and self.reason is None:
                self._changed.wait()
            if not self._items or self.reason in (TOO_LONG, TOO_LARGE, DISK_FULL):
                return None
            item = self._items.popleft()
            self._pictures -= item[2] is not None
            return item


class _Film:
    """The file and its two encoders; tick k of the call stands k - first ticks after the film's beginning.

    25 pictures for every second of sound: a tick that has none repeats the one before, for those left out and for as
    long as a lost peer is waited for. Sound goes in with its tick's picture, so both end together.
    """

    def __init__(self, path: Path, still: ByteArray) -> None:
        self._disk = _Disk(path)
        try:
            self._container = av.open(
                self._disk, "w", format="mp4", options={"movflags": "+hybrid_fragmented+delay_moov+frag_keyframe"}
            )
            self._container.metadata.update(METADATA)
            height, width = (side - side % 2 for side in still.shape[:2])
            self._size = width, height
            self._video = _video(self._container, width, height)
            self._audio = self._container.add_stream("aac", rate=PLAYBACK_RATE, layout="mono", bit_rate=96_000)
        except BaseException:
            self._disk.close()
            raise
        self._shown = self._i420(still)
        self._first: int | None = None
        self._ahead: deque[IntArray] = deque()  # sound of the ticks that have no picture yet
        self._ticks = 0  # that are written

    @property
    def seconds(self) -> float:
        return self._ticks / FPS

    @property
    def size(self) -> int:
        return self._disk.size

    def add(self, tick: int, playback: IntArray | None, rgb: ByteArray | None) -> None:
        """What came for a tick; raises OSError where the disk takes no more."""
        if playback is not None:
            if self._first is None:
                self._first = tick
            self._ahead.append(playback)
            if len(self._ahead) > PATIENCE:
                self._put()
        if rgb is not None and self._first is not None:
            due = tick - self._first
            while self._ticks < due and len(self._ahead) > 1:
                self._put()
            if due >= self._ticks:
                self._shown = self._i420(rgb)
            if due == self._ticks and self._ahead:
                self._put()
        if self._disk.error is not None:
            raise self._disk.error

    def close(self) -> None:
        """Write the index; on a full disk the file keeps the fragments it has."""
        try:
            for stream in (self._video, self._audio):
                if self._ticks:
                    self._container.mux(stream.encode(None))
            self._container.close()
            if self._disk.error is not None:
                raise self._disk.error
        finally:
            self._disk.close()

    def _put(self) -> None:
        """Write the next tick: the picture that is shown, and the sound."""
        picture = av.VideoFrame.from_ndarray(self._shown, format="yuv420p")
        picture.pts, picture.time_base = self._ticks, Fraction(1, FPS)
        self._container.mux(self._video.encode(picture))
        sound = av.AudioFrame.from_ndarray(self._ahead.popleft()[None], format="s16", layout="mono")
        sound.sample_rate = PLAYBACK_RATE
        sound.pts, sound.time_base = self._ticks * PLAYBACK_SAMPLES, Fraction(1, PLAYBACK_RATE)
        self._container.mux(self._audio.encode(sound))
        self._ticks += 1

    def _i420(self, rgb: ByteArray) -> ByteArray:
        """A picture in the film's size, with bars where its shape is another."""
        width, height = self._size
        if rgb.shape[:2] != (height, width):
            zoom = min(width / rgb.shape[1], height / rgb.shape[0])
            inner = max(1, round(rgb.shape[1] * zoom)), max(1, round(rgb.shape[0] * zoom))
            small = cv2.resize(rgb, inner, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
            left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
            rgb = np.asarray(
                cv2.copyMakeBorder(
                    small, top, height - inner[1] - top, left, width - inner[0] - left, cv2.BORDER_CONSTANT
                ),
                np.uint8,
            )
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)


def _video(container: av.container.OutputContainer, width: int, height: int) -> VideoStream:
    stream = container.add_stream("libx264", rate=FPS)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = FRAGMENT
    stream.options = {"preset": "superfast", "crf": "23", "bf": "0", "maxrate": "3M", "bufsize": "6M"}
    return stream


class _Disk:
    """The file under the container. After a write that failed nothing is written any more, so that an index which
    does not fit destroys none of the fragments that are there; `error` says what it was."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.error: OSError | None = None
        self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "r+b", buffering=0)
        self._place = 0  # as the container sees it

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest and self.error is None:
            try:
                rest = rest[self._file.write(rest) or 0 :]
            except OSError as error:
                self.error = error
        self._place += len(data)
        self.size = max(self.size, self._place if self.error is None else self.size)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.error is None:
            self._place = self._file.seek(offset, whence)
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._file.close()
