"""Films of talking people to tracks: a face mesh every 40 ms, in step with sound at 16 kHz.

The mesh is followed through the film's own frames and then interpolated to 25 frames a second, as in
the tracks the embedded profile was trained on. A film that cannot teach anything is refused with a
sentence for the person who recorded it. Results are kept in the cache folder, refusals too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from engines.media import load_speech
from engines.portrait.checks import SECOND_FACE
from engines.portrait.landmarks import DETECTOR_SIDE, FaceLandmarker
from engines.types import FPS, SPEECH_RATE, SPEECH_SAMPLES, ByteArray, FloatArray, KDTalkerError, SpeechError
from training.tracks import pack, unpack

VERSION = 1  # of the tracking; what was cached by another is made anew
ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SHORTEST, LONGEST_GAP = 2.0, 0.4  # seconds of a film; seconds for which a face may be lost
FOUND = 0.9  # share of the frames that must show the face
LOOK_AROUND = 0.5  # seconds between looks for further faces
CROWDED = 0.2  # share of those looks that may find one
JUMP, ZOOM = 0.6, 1.25  # eye distances and size ratio between two frames: more is a cut
THUMBNAIL = (48, 27)
CHANGE, UNUSUAL = 20.0, 6.0  # mean change of a thumbnail (of 255), and over the usual change: more is a cut
SPOKEN, LOUD = 0.1, 0.003  # share of frames above this root mean square (-50 dB)
LEFT_EYE, RIGHT_EYE = 33, 263

Progress = Callable[[float], None]


class UnusableFilmError(KDTalkerError):
    """The film cannot be learned from; the text says why and what to do about it."""


@dataclass(frozen=True, slots=True)
class Track:
    """`mesh` f32 (T, 478, 3) in pixels of the upright picture, `sound` f32 (640 T,), both beginning `start` seconds
    after the film's first picture."""

    mesh: FloatArray
    sound: FloatArray
    start: float = 0.0


@dataclass(slots=True)
class _Seen:
    """What was noted frame by frame. `times` in seconds; `meshes` where a face was found, else None."""

    times: list[float] = field(default_factory=list)
    meshes: list[FloatArray | None] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    crowded: list[bool] = field(default_factory=list)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise UnusableFilmError(f"it cannot be read as a film ({error.strerror})") from error


def pictures(path: Path) -> Iterator[tuple[float, ByteArray]]:
    """Time in seconds and upright picture u8 (H, W, 3) of every frame; raises UnusableFilmError."""
    with _opened(path) as container:
        if not container.streams.video:
            raise UnusableFilmError("it holds no picture")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.pts is not None:
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield float(frame.pts * (frame.time_base or Fraction(1))), np.ascontiguousarray(turned)


def _length(path: Path) -> float:
    """Seconds, as the file states them; 1 where it does not."""
    with _opened(path) as container:
        return (container.duration or av.time_base) / av.time_base


def _look(path: Path, landmarker: FaceLandmarker, progress: Progress) -> _Seen:
    seen, before, next_look = _Seen(), None, -1.0
    total = _length(path)
    for time, picture in pictures(path):
        shrink = min(1.0, DETECTOR_SIDE / max(picture.shape))
        small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else picture
        mesh = landmarker.follow(np.asarray(small, np.uint8))
        seen.times.append(time)
        seen.meshes.append(None if mesh is None else mesh / np.float32(shrink))
        thumbnail = cv2.resize(small, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        seen.changes.append(0.0 if before is None else float(np.abs(thumbnail - before).mean()))
        before = thumbnail
        if time >= next_look:
            sides = [box.side for box in landmarker.boxes(np.asarray(small, np.uint8))]
            seen.crowded.append(len(sides) > 1 and sides[1] > SECOND_FACE * sides[0])
            next_look = time + LOOK_AROUND
        progress(min(1.0, (time - seen.times[0]) / total))
    return seen


def _cut(seen: _Seen) -> float | None:
    """Time of the first cut: the picture changes at once, or the face is suddenly elsewhere."""
    usual = float(np.median(seen.changes[1:])) if len(seen.changes) > 1 else 0.0
    for index in range(1, len(seen.times)):
        if seen.changes[index] > max(CHANGE, UNUSUAL * usual):
            return seen.times[index]
        before, after = seen.meshes[index - 1], seen.meshes[index]
        if before is None or after is None:
            continue
        sizes = [float(np.linalg.norm(mesh[LEFT_EYE] - mesh[RIGHT_EYE])) for mesh in (before, after)]
        moved = float(np.linalg.norm(after.mean(0)[:2] - before.mean(0)[:2]))
        if moved > JUMP * max(sizes) or max(sizes) > ZOOM * min(sizes):
            return seen.times[index]
    return None


def _resample(seen: _Seen) -> tuple[FloatArray, float]:
    """Mesh (T, 478, 3) every 40 ms from the first found to the last, and the time of the first."""
    found = [k for k, mesh in enumerate(seen.meshes) if mesh is not None]
    if not found:
        raise UnusableFilmError("no face is seen in it; the face should fill a third of the picture's height or more")
    times = np.array([seen.times[k] for k in found])
    inside = found[-1] - found[0] + 1
    if len(found) < FOUND * inside:
        raise UnusableFilmError(
            f"the face is found in only {100 * len(found) / inside:.0f} % of the frames; more light, "
            "no hand before the mouth, and a head that faces the camera help"
        )
    gaps = np.diff(times)
    if len(gaps) and gaps.max() > LONGEST_GAP:
        raise UnusableFilmError(f"the face is lost at {times[gaps.argmax()] - seen.times[0]:.1f} s; cut the film there")
    meshes = np.stack([mesh for mesh in seen.meshes if mesh is not None])
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * FPS + 1e-6) + 1) / FPS
    low = np.clip(np.searchsorted(times, ticks, "right") - 1, 0, max(0, len(times) - 2))
    high = np.minimum(low + 1, len(times) - 1)
    part = (ticks - times[low]) / np.maximum(times[high] - times[low], 1e-6)
    share = np.clip(part, 0, 1)[:, None, None].astype(np.float32)
    return (1 - share) * meshes[low] + share * meshes[high], float(times[0])


def _sound(path: Path, begin: float) -> FloatArray:
    """Sound f32 at 16 kHz whose first sample belongs to the time `begin` of the file's clock."""
    try:
        pcm = load_speech(path).pcm
    except SpeechError as error:
        raise UnusableFilmError("it holds no sound that can be read") from error
    with _opened(path) as container:
        stream = container.streams.audio[0]
        first = float((stream.start_time or 0) * (stream.time_base or Fraction(0)))
    skip = round((begin - first) * SPEECH_RATE)
    return pcm[skip:] if skip >= 0 else np.pad(pcm, (-skip, 0))


def track(path: Path, progress: Progress = lambda share: None) -> Track:
    """Follow the one face of a film; raises UnusableFilmError with the reason where there is not exactly one, where
    the film is cut, too short or silent."""
    with FaceLandmarker() as landmarker:
        seen = _look(path, landmarker, progress)
    if sum(seen.crowded) > CROWDED * len(seen.crowded):
        raise UnusableFilmError("it shows several faces; only one person may be in the picture")
    moment = _cut(seen)
    if moment is not None:
        raise UnusableFilmError(f"it is cut at {moment - seen.times[0]:.1f} s; give every shot as a file of its own")
    mesh, begin = _resample(seen)
    sound = _sound(path, begin)
    frames = min(len(mesh), len(sound) // SPEECH_SAMPLES)
    if frames < SHORTEST * FPS:
        raise UnusableFilmError(f"only {frames / FPS:.1f} s show a face with sound; {SHORTEST:.0f} s are the least")
    mesh, sound = mesh[:frames], sound[: frames * SPEECH_SAMPLES]
    loud = np.sqrt((sound.reshape(frames, -1) ** 2).mean(1)) > LOUD
    if loud.mean() < SPOKEN:
        raise UnusableFilmError("it is silent; record with the microphone on and speak")
    return Track(mesh, sound, begin - seen.times[0])


def films(folder: Path) -> list[Path]:
    """Films in `folder` and below, sorted; raises KDTalkerError where there is none."""
    if not folder.is_dir():
        raise KDTalkerError(f"{folder} is no folder; give the one that holds your clips.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise KDTalkerError(f"{folder} holds no film ({', '.join(ENDINGS)}).")
    return found


class TrackCache:
    """What `track` said of films before, by their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tracks"

    def base(self, path: Path) -> Path:
        """Files of a film begin with this, without an ending."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return self._folder / f"{digest[:32]}-{VERSION}"

    def track(self, path: Path, progress: Progress = lambda share: None) -> Track:
        """As `track`, from the cache where the same film was tracked before."""
        base = self.base(path)
        verdict = base.with_suffix(".json")
        if not verdict.is_file():
            try:
                made = track(path, progress)
                pack(base, path.stem, made.mesh, made.sound)
                content = {"start": made.start}
            except UnusableFilmError as error:
                content = {"refused": str(error)}
            base.parent.mkdir(parents=True, exist_ok=True)
            verdict.write_text(json.dumps(content))  # last: what comes before it is whole
        content = json.loads(verdict.read_text())
        if "refused" in content:
            raise UnusableFilmError(content["refused"])
        mesh, sound = unpack(base)
        return Track(mesh, sound, content["start"])
