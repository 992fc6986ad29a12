"""Returned pictures recognised in what was spoken, by how far the mouth is open.

The same face mesh looks at the pictures that came back and at a film of the same words in which mouth and sound belong
together: our own offline rendering, or a film that another system made. What lies between the two curves is the delay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.sound import Places
from benchmarks.wire import Picture
from engines.media import Speech, resample
from engines.offline import frames, motions
from engines.pipeline import Talker
from engines.portrait.landmarks import FaceLandmarker
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE, ByteArray, FloatArray, Identity, KDTalkerError

UPPER, LOWER = 13, 14  # inner lips
EYES = 33, 263  # outer corners
WINDOW, STEP = 6.0, 1.0  # seconds
ALIKE = 0.6  # correlation from which the mouth is recognised
STILL = 0.004  # deviation of the opening, in eye distances, below which there is nothing to recognise
COARSE, FINE = 0.02, 0.001  # seconds between lags that are tried
DENSE = 20  # points for each of a curve's own
NOTHING = np.zeros((3, 0))


@dataclass(frozen=True, slots=True)
class Curve:
    """How far the mouth is open, in distances between the eyes: `opening` (n,) at seconds `at` (n,), rising."""

    at: FloatArray
    opening: FloatArray

    def dense(self) -> Curve:
        """The same curve between its points too, as far as its rate allows; on an even grid."""
        count = len(self.at)
        step = float(np.median(np.diff(self.at)))
        even = self.at[0] + step * np.arange(max(2, round((self.at[-1] - self.at[0]) / step) + 1))
        values = np.interp(even, self.at, self.opening)
        count = len(values)
        both = np.concatenate([values, values[::-1]])  # mirrored, so that the ends meet
        spectrum = np.fft.rfft(both)
        wide = np.fft.irfft(np.pad(spectrum, (0, DENSE * count + 1 - len(spectrum))), 2 * DENSE * count) * DENSE
        return Curve(even[0] + step / DENSE * np.arange(DENSE * (count - 1) + 1), wide[: DENSE * (count - 1) + 1])


def decoded(pictures: Iterable[Picture], codec: str) -> Iterator[tuple[float, ByteArray]]:
    """Media time and u8 (height, width, 3) RGB of every picture that can be decoded, in order."""
    if codec not in ("vp8", "vp9", "h264"):
        raise KDTalkerError(f"Pictures in '{codec}' cannot be decoded here.")
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    for picture in pictures:
        packet = av.Packet(picture.data)
        packet.pts = round(picture.media * 90_000)
        try:
            made = context.decode(packet)
        except av.FFmpegError:
            continue
        for frame in made:
            yield (frame.pts or 0) / 90_000, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def curve(film: Iterable[tuple[float, ByteArray]]) -> Curve:
    """Look at every picture (moment, u8 (H, W, 3)) of one film; those without a face are left out."""
    moments, openings = [], []
    with FaceLandmarker() as landmarker:
        for moment, picture in film:
            mesh = landmarker.follow(picture)
            if mesh is not None:
                unit = float(np.linalg.norm(mesh[EYES[0]] - mesh[EYES[1]]))
                moments.append(moment)
                openings.append(float(np.linalg.norm(mesh[UPPER] - mesh[LOWER])) / unit)
    return Curve(np.array(moments), np.array(openings))


def rendered(talker: Talker, identity: Identity, heard: FloatArray, seed: int) -> Iterator[tuple[float, ByteArray]]:
    """Our own film of sound f32 (samples,) at 48 kHz: seconds into the sound, picture."""
    pcm = resample(heard, PLAYBACK_RATE, SPEECH_RATE)
    speech = Speech(pcm, np.zeros(0, np.int16))
    rows = (tick.motion for tick in motions(talker, identity, speech, seed))
    number = 0
    for batch in frames(talker, identity, rows):
        for picture in batch:
            yield number / FPS, picture
            number += 1


def film_file(path: Path) -> Iterator[tuple[float, ByteArray]]:
    """Pictures of a video file and their moments in seconds."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield float(frame.time or 0.0), np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise KDTalkerError(f"{path} cannot be read as a film: {error}") from error


def find(seen: Curve, reference: Curve, lowest: float, highest: float) -> Places:
    """Where windows of `seen` (media time) lie in `reference` (time in the voice), with a lag between the limits."""
    found: list[tuple[float, float, float]] = []
    if len(seen.at) < 2 or len(reference.at) < 2:
        return Places(*NOTHING)
    known = reference.dense()
    length = min(WINDOW, float(seen.at[-1] - seen.at[0]))
    for begin in np.arange(seen.at[0], seen.at[-1] - length + 1e-6, STEP):
        inside = (seen.at >= begin) & (seen.at <= begin + length)
        at, opening = seen.at[inside], seen.opening[inside]
        if len(at) < FPS or opening.std() < STILL:
            continue
        rough = np.arange(lowest, highest, COARSE)
        best = rough[int(np.argmax(alike := _alike(at, opening, known, rough)))]
        fine = best + np.arange(-1.5 * COARSE, 1.5 * COARSE, FINE)
        alike = _alike(at, opening, known, fine)
        peak = int(alike.argmax())
        if alike[peak] >= ALIKE:
            found.append((begin + length / 2, fine[peak], float(alike[peak])))
    return Places(*np.array(found, np.float64).reshape(-1, 3).T)


def _alike(at: FloatArray, opening: FloatArray, known: Curve, lags: FloatArray) -> FloatArray:
    """Correlation of a stretch with the known curve, lag by lag; -1 where that does not reach."""
    where = at[None] - lags[:, None]
    values = np.interp(where, known.at, known.opening)
    values -= values.mean(1, keepdims=True)
    own = opening - opening.mean()
    norms = np.linalg.norm(values, axis=1) * np.linalg.norm(own)
    result = (values @ own) / np.maximum(norms, 1e-9)
    covered = (where[:, 0] >= known.at[0]) & (where[:, -1] <= known.at[-1])
    return np.asarray(np.where(covered, result, -1.0))
