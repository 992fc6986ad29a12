"""Random windows of random length, with the sound changed in every way that must not change the lips.

All changes happen on mel columns, so that they cost almost nothing: speed (columns and motion are
interpolated together), gain, tilt, formants (bands are shifted), telephone bands, noise, other voices,
stretches of silence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.audio import BANDS, SILENCE, MelWindow
from engines.face_mesh import FaceModel
from engines.types import FPS, SPEECH_RATE, FloatArray
from training.corpus import LARGEST, Item, mirror_matrix, mouth_numbers

WINDOW = MelWindow(columns=20, reach=1280)
COLUMNS_PER_FRAME = SPEECH_RATE / FPS / 200  # 3.2
LENGTHS = (10, 27)  # frames
MIX = {"grid_s1": 0.20, "lrcar": 0.55, "clips": 0.25}
DECIBEL = 0.08  # mel units
SILENCES = 0.18  # share of windows with a stretch in which nobody speaks
EASE = 3  # frames to close the mouth where silence is put in


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows of N frames.

    `mel` f32 (B, 80, K) and `starts` i64 (B, N): first of the 20 columns of each frame; `motion` f32
    (B, N, 70); `reference` f32 (B, 70), the frame before the window; `canonical` f32 (B, 70);
    `pose_weight` f32 (B,): how much the clip says about head motion; `silenced` bool (B,): a stretch is silent.
    """

    mel: FloatArray
    starts: NDArray[np.int64]
    motion: FloatArray
    reference: FloatArray
    canonical: FloatArray
    pose_weight: FloatArray
    silenced: NDArray[np.bool_]


def amplitude(mel: FloatArray) -> FloatArray:
    """Mel values in [-4, 4] -> linear amplitude, digital silence -> 0."""
    return np.where(mel <= SILENCE + 1e-3, 0.0, 10.0 ** ((mel + 4) * 0.625 - 4)).astype(np.float32)


def from_amplitude(amplitudes: FloatArray) -> FloatArray:
    """Inverse of `amplitude`."""
    return np.clip((np.log10(np.maximum(amplitudes, 1e-5)) + 4) / 0.625 - 4, -4, 4).astype(np.float32)


def _pose_weight(item: Item) -> float:
    """Short clips say little about head motion; clips in which the camera moved say nothing."""
    if np.abs(item.motion[:, :7]).max() >= LARGEST:
        return 0.0
    return 0.3 if item.clip.dataset == "lrcar" else 1.0


class Batches:
    """Endless supply of augmented batches, each a pure function of the seed, the step and the part of the step."""

    def __init__(
        self,
        items: list[Item],
        face: FaceModel,
        mirror: np.ndarray,
        seed: int,
        mix: dict[str, float] | None = None,
        silences: float = SILENCES,
    ) -> None:
        self._items = items
        self._seed = seed
        self._silences = silences
        self._rng = np.random.default_rng(seed)  # begun anew with every batch
        self._mirror, self._mirror_offset = mirror_matrix(face, mirror)
        self._mouth = mouth_numbers(face)
        self._rest = face.rest()
        self._chance = self._sampling(items, MIX if mix is None else mix)

    @staticmethod
    def _sampling(items: list[Item], mix: dict[str, float]) -> FloatArray:
        """Chance of every clip: data sets at their share, inside a set by length."""
        chance = np.array([len(item.motion) for item in items], np.float64)
        names = np.array([item.clip.dataset for item in items])
        for name in set(names):
            chance[names == name] *= mix[name] / chance[names == name].sum()
        return chance / chance.sum()

    def draw(self, frames: int, step: int = 0, part: int = 0) -> Batch:
        """About `frames` frames in windows of one random length."""
        self._rng = np.random.default_rng([self._seed, step, part])
        length = int(self._rng.integers(LENGTHS[0], LENGTHS[1] + 1))
        picks = self._rng.choice(len(self._items), max(1, frames // length), p=self._chance)
        windows = [self._window(self._items[pick], length) for pick in picks]
        columns = np.stack([window[0] for window in windows])
        starts = np.stack([window[1] for window in windows])
        motion = np.stack([window[2] for window in windows])
        columns, silenced = self._change_sound(columns, motion)
        items = [self._items[pick] for pick in picks]
        return Batch(
            mel=np.ascontiguousarray(np.swapaxes(columns, 1, 2)),
            starts=starts,
            motion=motion[:, 1:],
            reference=motion[:, 0],
            canonical=self._canonical(items),
            pose_weight=np.array([_pose_weight(item) for item in items], np.float32),
            silenced=silenced,
        )

    def _window(self, item: Item, length: int) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
        """Mel columns (K, 80), where each frame's begin (N,), motion (1 + N, 70)."""
        rng, total = self._rng, len(item.motion)
        speed = float(np.clip((total - 2) / (length + 1), 0.5, rng.uniform(0.87, 1.15)))
        first = rng.uniform(0, max(0.0, total - 1 - speed * length))
        phase = int(rng.integers(5))  # where between two mel columns a frame begins
        times = np.clip(first + speed * np.arange(length + 1), 0, total - 1)
        low = np.minimum(times.astype(int), total - 2)
        part = (times - low)[:, None].astype(np.float32)
        motion = (1 - part) * item.motion[low] + part * item.motion[low + 1]
        if rng.random() < 0.5:
            motion = motion @ self._mirror + self._mirror_offset
        starts = np.array([WINDOW.start(phase + frame) for frame in range(1, length + 1)])
        grid = np.arange(starts[0], starts[-1] + WINDOW.columns)
        position = COLUMNS_PER_FRAME * first + speed * (grid - COLUMNS_PER_FRAME * phase)
        position = np.clip(position, 0, len(item.mel) - 1)
        low = np.minimum(position.astype(int), len(item.mel) - 2)
        part = (position - low)[:, None].astype(np.float32)
        columns = (1 - part) * item.mel[low] + part * item.mel[low + 1]
        longest = int(np.ceil(COLUMNS_PER_FRAME * (length - 1))) + 1 + WINDOW.columns
        columns = np.pad(columns, ((0, longest - len(columns)), (0, 0)), "edge")
        return columns, starts - starts[0], motion.astype(np.float32)

    def _change_sound(self, columns: FloatArray, motion: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Columns (B, K, 80) changed, and where silence was put in (B,).

        There `motion` (B, 1 + N, 70) is eased to closed lips.
        """
        rng, (batch, count, _) = self._rng, columns.shape
        bands = np.arange(BANDS)
        shift = np.where(rng.random(batch) < 0.7, rng.normal(0, 2.0, batch), 0)  # formants, in bands
        position = np.clip(bands + shift[:, None] * bands / 40, 0, BANDS - 1.001)
        low = position.astype(int)
        part = (position - low)[:, None].astype(np.float32)
        rows = np.arange(batch)[:, None, None], np.arange(count)[None, :, None]
        columns = (1 - part) * columns[(*rows, low[:, None])] + part * columns[(*rows, low[:, None] + 1)]
        gain = rng.uniform(-10, 10, (batch, 1)) + rng.normal(0, 5, (batch, 1)) * (bands / 40 - 1)
        telephone = rng.random(batch) < 0.1
        gain[telephone] -= 45.0 * ((bands < 4) | (bands > 58))
        sound = amplitude(columns) * 10 ** (gain[:, None] / 20)
        level = np.sqrt((sound**2).mean((1, 2))) + 1e-3
        silenced = rng.random(batch) < self._silences
        for row in np.flatnonzero(silenced):
            self._silence(sound[row], motion[row])
        noisy = rng.random(batch) < 0.8
        ratio = 10 ** (-rng.uniform(3, 45, batch) / 20) * noisy
        colour = 10 ** (rng.normal(0, 6, (batch, 1)) * (bands / 40 - 1) / 20)
        colour /= np.sqrt((colour**2).mean(1, keepdims=True))
        flutter = 10 ** (rng.normal(0, 1.5, sound.shape).astype(np.float32) / 20)
        noise = (level * ratio)[:, None, None] * colour[:, None] * flutter
        others = np.where(rng.random(batch) < 0.2, 10 ** (-rng.uniform(12, 30, batch) / 20), 0)
        babble = others[:, None, None] * np.roll(sound, 1, 0)
        return from_amplitude(np.sqrt(sound**2 + noise**2 + babble**2)), silenced

    def _silence(self, sound: FloatArray, motion: FloatArray) -> None:
        """Silences a stretch of one window in place, closes the mouth there."""
        frames = len(motion)
        begin = int(self._rng.integers(-frames // 2, frames - 2))
        end = begin + int(self._rng.integers(5, 2 * frames))
        lead = WINDOW.columns - 4.4  # columns between a frame's first column and its own time
        first, last = (int(COLUMNS_PER_FRAME * (edge - 1) + lead) for edge in (begin, end))
        first, last = max(0, first), min(max(0, last), len(sound))
        sound[first:last] = 0
        time = np.arange(frames)
        open_share = np.clip(np.maximum((begin + EASE - time) / EASE, (time - end + EASE) / EASE), 0, 1)
        share = open_share[:, None].astype(np.float32)
        motion[:, self._mouth] = share * motion[:, self._mouth] + (1 - share) * self._rest[self._mouth]

    def _canonical(self, items: list[Item]) -> FloatArray:
        """Canonical tokens, blurred and half of them another person's, so that they cannot be learned by heart."""
        rng = self._rng
        tokens = np.stack([item.canonical for item in items])
        swapped = rng.random(len(tokens)) < 0.5
        others = rng.integers(len(self._items), size=len(tokens))
        tokens[swapped] = np.stack([self._items[i].canonical for i in others])[swapped]
        tokens[:, 7:] += rng.normal(0, 0.3, tokens[:, 7:].shape)
        return tokens.astype(np.float32)
