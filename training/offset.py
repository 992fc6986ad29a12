"""How far the sound of a film is off its picture, and what is done about it.

Loudness follows the lips too loosely to tell (among 32 natural clips the best shift was the true one
within a frame in two of three). So the lips that the shipped model makes of the sound are compared with
those that were tracked: opening, width and jaw, high-passed, over all shifts within 15 frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engines.types import FPS, SPEECH_SAMPLES, FloatArray
from training.bench import Bench
from training.corpus import items_of
from training.shapes import shapes_of
from training.tracks import Clip
from training.videos import UnusableFilmError

REACH = 15  # frames
STILL = 25  # frames, of the moving mean that is taken off
MOST = 1500  # frames that are compared, from the middle of long clips
# Unseen natural clips in step: agreement .24 and more, margin .16 and more. With foreign sound the medians are .20 and
# .12, and 3 of 11 clips of 3 to 8 s pass. A shift, which is rare, has to be surer than none.
AGREEMENT, MARGIN, SHIFTED_MARGIN = 0.22, 0.12, 0.25
AROUND = 4  # frames beside the peak that belong to it
TOLERATED = 1  # frames; the tracker and the model are no more exact


@dataclass(frozen=True, slots=True)
class Offset:
    """`frames`: how late the sound is, negative: early. `agreement`: mean correlation of the lips there; `margin`:
    by how much it exceeds that at all other shifts."""

    frames: int
    agreement: float
    margin: float

    @property
    def sure(self) -> bool:
        margin = MARGIN if abs(self.frames) <= TOLERATED else SHIFTED_MARGIN
        return self.agreement >= AGREEMENT and self.margin >= margin

    def __str__(self) -> str:
        if abs(self.frames) <= TOLERATED:
            return "in step"
        return f"sound {1000 * abs(self.frames) // FPS} ms {'late' if self.frames > 0 else 'early'}"


def _moving(curve: FloatArray) -> FloatArray:
    """Curves (T, 3) without their moving mean."""
    padded = np.pad(curve, ((STILL // 2, STILL // 2), (0, 0)), "edge")
    sums = np.cumsum(np.concatenate([np.zeros((1, 3)), padded]), axis=0)
    return np.asarray(curve - (sums[STILL:] - sums[:-STILL]) / STILL, np.float32)


def compare(seen: FloatArray, heard: FloatArray) -> Offset:
    """Lips (T, 3) seen in the picture and made of the sound."""
    total, scores = len(seen), []
    for shift in range(-REACH, REACH + 1):
        a = _moving(seen[max(0, -shift) : total - max(0, shift)])
        b = _moving(heard[max(0, shift) : total - max(0, -shift)])
        scale = np.maximum(np.sqrt((a**2).sum(0) * (b**2).sum(0)), 1e-9)
        scores.append(float(((a * b).sum(0) / scale).mean()))
    best = int(np.argmax(scores))
    others = scores[: max(0, best - AROUND)] + scores[best + AROUND + 1 :]
    return Offset(best - REACH, scores[best], scores[best] - max(others))


def offset_of(clip: Clip, bench: Bench) -> Offset:
    """Offset of a tracked clip; `bench` holds the shipped model."""
    (item,) = items_of(shapes_of([clip], bench.face.template), bench.face)
    first = max(0, (len(item.motion) - MOST) // 2)
    part = slice(first, first + MOST)
    sound = clip.sound[part.start * SPEECH_SAMPLES : part.stop * SPEECH_SAMPLES]
    (made,) = bench.speak([sound], [item.canonical], seed=0)
    return compare(bench.lips(item.motion[part]), bench.lips(made))


def in_step(clip: Clip, offset: Offset) -> Clip:
    """The clip with its sound moved to its picture; raises UnusableFilmError where it is unclear how far or too far."""
    if not offset.sure:
        raise UnusableFilmError(
            f"lips and sound do not belong together (agreement {offset.agreement:.2f}, margin {offset.margin:.2f}): "
            "dubbed, off by more than half a second, mostly music or hardly any speech"
        )
    if abs(offset.frames) > REACH - 2:
        raise UnusableFilmError(f"the {offset}; more than {1000 * (REACH - 2) // FPS} ms are not corrected")
    seen, heard = kept_frames(len(clip.mesh), offset)
    sound = clip.sound[heard.start * SPEECH_SAMPLES : heard.stop * SPEECH_SAMPLES]
    return replace(clip, mesh=clip.mesh[seen], sound=sound)


def kept_frames(count: int, offset: Offset) -> tuple[slice, slice]:
    """Which of `count` frames stay of the picture and of the sound, so that both are in step."""
    late = offset.frames if abs(offset.frames) > TOLERATED else 0
    return slice(max(0, -late), count - max(0, late)), slice(max(0, late), count - max(0, -late))
