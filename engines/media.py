"""Sound files in, video files out (PyAV)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from engines.mark import METADATA
from engines.types import (
    FPS,
    FRAME_SIZE,
    PLAYBACK_RATE,
    SPEECH_RATE,
    SPEECH_SAMPLES,
    ByteArray,
    FloatArray,
    IntArray,
    KDTalkerError,
    SpeechError,
)

AAC_FRAME = 1024  # samples in one AAC-LC frame
FORMATS = "wav,flac,mp3,ogg"  # what is opened for strangers, by FFmpeg's names
CODECS = ("pcm_", "flac", "mp3", "vorbis", "opus")
CHANNELS, FASTEST = 8, 192_000
ASKED = "send a WAV, FLAC, MP3 or Ogg file."


@dataclass(frozen=True, slots=True)
class Speech:
    """One sound twice: `pcm` f32 at 16 kHz for the networks, `playback` i16 mono at 48 kHz for the file."""

    pcm: FloatArray
    playback: IntArray

    @property
    def frames(self) -> int:
        """Video frames that cover the sound; a last fraction of a frame counts as one."""
        return -(-len(self.pcm) // SPEECH_SAMPLES)


def speech_of(pcm: FloatArray, rate: int) -> Speech:
    """Mono sound f32 (samples,) at `rate` Hz, in both forms."""
    return _both(resample(pcm, rate, PLAYBACK_RATE))


def load_speech(path: Path) -> Speech:
    """Decode the first sound track of any file FFmpeg reads; channels are averaged.

    Raises SpeechError when the file is missing, is no sound or holds less than one video frame.
    """
    try:
        with av.open(str(path)) as container:
            return _speech(container, str(path))
    except FileNotFoundError:
        raise SpeechError(f"There is no file {path}.") from None
    except (av.error.FFmpegError, IsADirectoryError, PermissionError) as error:
        raise SpeechError(f"{path} cannot be read as sound ({error.strerror}); give a WAV or FLAC file.") from error


def read_speech(data: bytes, longest: float) -> Speech:
    """Decode a stranger's WAV, FLAC, MP3 or Ogg file; nothing but these formats is opened. Channels are averaged.

    Raises SpeechError for anything else, and for sound above `longest` seconds, which is not decoded any further.
    """
    try:
        with av.open(io.BytesIO(data), "r", container_options={"format_whitelist": FORMATS}) as container:
            for stream in container.streams.audio[:1]:
                codec: av.AudioCodecContext | None = stream.codec_context  # none for a number that FFmpeg does not know
                usual = codec is not None and codec.name.startswith(CODECS)
                if codec is None or not usual or codec.channels > CHANNELS or codec.sample_rate > FASTEST:
                    raise SpeechError(f"The file holds sound in a rare form; {ASKED}")
            return _speech(container, "The file", longest)
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        raise SpeechError(f"The file cannot be read as sound; {ASKED}") from error


def _speech(container: av.container.InputContainer, name: str, longest: float = math.inf) -> Speech:
    if not container.streams.audio:
        raise SpeechError(f"{name} holds no sound; give a WAV, FLAC, MP3 or similar file.")
    speech = _both(_decode(container, name, longest))
    if len(speech.pcm) < SPEECH_SAMPLES:
        milliseconds = len(speech.pcm) / SPEECH_RATE * 1000
        raise SpeechError(f"{name} holds {milliseconds:.0f} ms of sound; at least 40 ms are needed.")
    return speech


def _both(playback: FloatArray) -> Speech:
    pcm = resample(playback, PLAYBACK_RATE, SPEECH_RATE)
    return Speech(pcm, np.round(np.clip(playback, -1, 1) * 32767).astype(np.int16))


def _decode(container: av.container.InputContainer, name: str, longest: float) -> FloatArray:
    # Channels are averaged here: FFmpeg's own down-mix would be 3 dB louder on equal channels.
    resampler = av.AudioResampler(format="fltp", rate=PLAYBACK_RATE)
    parts: list[FloatArray] = []
    samples = 0
    for frame in _frames(container):
        for part in resampler.resample(frame):
            parts.append(part.to_ndarray().mean(0))
            samples += part.samples
        if samples > longest * PLAYBACK_RATE:
            raise SpeechError(f"{name} holds more than {longest:.0f} s of sound; send it in parts.")
    return np.nan_to_num(np.concatenate(parts)) if parts else np.empty(0, np.float32)


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame | None]:
    """All frames, and None to flush what comes after."""
    yield from container.decode(audio=0)
    yield None


def resample(sound: FloatArray, source: int, target: int) -> FloatArray:
    """Mono sound f32 (samples,) from one rate to another, both in Hz."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=target)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None], np.float32), format="fltp", layout="mono")
    frame.sample_rate = source
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


class FrameSink(Protocol):
    """Takes finished pictures in order."""

    def write(self, frames: ByteArray) -> None:
        """`frames` u8 (N, H, W, 3) RGB, of the file's size."""


@contextmanager
def video_file(path: Path, playback: IntArray, size: tuple[int, int] = (FRAME_SIZE, FRAME_SIZE)) -> Iterator[FrameSink]:
    """An MP4 being written: H.264 at 25 frames a second and `playback` (mono, 48 kHz) as AAC.

    `size`: width and height of the pictures, both even.

    The file appears under its name only when the block ends without an error.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata.update(METADATA)
            writer = _VideoWriter(container, playback, size)
            yield writer
            writer.finish()
        partial.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        raise KDTalkerError(f"{path} cannot be written ({error.strerror}).") from error
    finally:
        partial.unlink(missing_ok=True)


class _VideoWriter:
    """Interleaves sound with the pictures, so that a reader never has to seek."""

    def __init__(self, container: av.container.OutputContainer, playback: IntArray, size: tuple[int, int]) -> None:
        self._container = container
        self._playback = playback
        self._video = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        self._video.width, self._video.height = size
        self._video.pix_fmt = "yuv420p"
        self._audio = container.add_stream("aac", rate=PLAYBACK_RATE, layout="mono", bit_rate=128_000)
        self._pictures = 0
        self._samples = 0

    def write(self, frames: ByteArray) -> None:
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = self._pictures, Fraction(1, FPS)
            self._container.mux(self._video.encode(picture))
            self._pictures += 1
        self._write_sound(until=self._pictures * PLAYBACK_RATE // FPS)

    def finish(self) -> None:
        self._write_sound(until=len(self._playback) + AAC_FRAME)
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))

    def _write_sound(self, until: int) -> None:
        while self._samples < len(self._playback) and self._samples + AAC_FRAME <= until:
            part = self._playback[self._samples : self._samples + AAC_FRAME].astype(np.float32) / 32768
            sound = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = PLAYBACK_RATE, self._samples, Fraction(1, PLAYBACK_RATE)
            self._container.mux(self._audio.encode(sound))
            self._samples += len(part)
