"""What the sound does not decide: sway of the head and blinks, from a model fitted to tracked people.

Head pose is a vector autoregression whose innovations grow with the loudness of speech; blinks are a
renewal process with log-normal intervals and a mean lid trajectory. All parameters come out of
``weights/embedded/life.npz``, fitted by ``python -m training life``. A frame is a pure function of the
seed and of the loudness so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.types import FPS, FloatArray, WeightsError

POSE = slice(0, 7)  # scale, angles, translation
STREAM = 0x11FE  # second word of the Philox key: noise of its own, whatever the sampler draws


@dataclass(frozen=True, slots=True)
class Temper:
    """Settings that are a matter of taste, not of data.

    `pose_scale` times the tracked people's head motion; `idle_sway`: share of it while nobody speaks
    (the tracks hold almost no listening); `idle_blinks` a minute, while nobody speaks.
    """

    pose_scale: float = 1.0
    idle_sway: float = 0.5
    idle_blinks: float = 17.0


DEFAULT_TEMPER = Temper()


@dataclass(frozen=True, slots=True)
class LifeState:
    """What one call remembers. `past` f32 (p, 7): the latest poses, newest first, in deviations.

    `progress`: share of the current pause between blinks that has gone by. `blink`: ticks since the
    last blink began. `blinks`: how many began.
    """

    seed: int
    tick: int
    past: FloatArray
    progress: float
    pause: float
    blink: int
    amplitude: float
    blinks: int


@dataclass(frozen=True, slots=True)
class LifeModel:
    """Fitted parameters.

    `regression` f32 (7 p, 7): past poses, newest first, to the next. `innovation` f32 (7, 7): Cholesky
    factor, rows of noise are multiplied by its transpose. `swing` f32 (2,): variance of the innovation
    in silence and what full speech adds. `deviation` f32 (7,): units of the pose. `pause_mean`,
    `pause_spread`: of the logarithm of the seconds between blinks while speaking. `profile` f32 (K, L):
    change of the lids' numbers during a blink. `lids` i64 (L,): which of the 70 numbers they are.
    `drivers` i64 (D,) and `coupling` f32 (D, L): how brows and gaze move the lids between blinks.
    """

    regression: FloatArray
    innovation: FloatArray
    swing: FloatArray
    deviation: FloatArray
    pause_mean: float
    pause_spread: float
    profile: FloatArray
    lids: NDArray[np.int64]
    drivers: NDArray[np.int64]
    coupling: FloatArray

    def begin(self, seed: int) -> LifeState:
        """A call begins in the photo's pose, with open eyes."""
        pause = self._pause(seed, 0)
        past = np.zeros((len(self.regression) // 7, 7), np.float32)
        return LifeState(seed, 0, past, 0.0, pause, len(self.profile), 1.0, 0)

    def advance(
        self, state: LifeState, loudness: FloatArray, temper: Temper = DEFAULT_TEMPER
    ) -> tuple[FloatArray, FloatArray, LifeState]:
        """Pose offsets (H, 7) in physical units and lid changes (H, L) of the next H ticks.

        `loudness` f32 (H,), see `loudness`.
        """
        count = len(loudness)
        poses = np.empty((count, 7), np.float32)
        lids = np.zeros((count, self.profile.shape[1]), np.float32)
        past, progress, pause = state.past, state.progress, state.pause
        blink, amplitude, blinks = state.blink, state.amplitude, state.blinks
        slow = temper.idle_blinks / 60 * float(np.exp(self.pause_mean + self.pause_spread**2 / 2))
        for row, level in enumerate(np.clip(loudness, 0, 1)):
            noise = _noise(state.seed, state.tick + row, 7) @ self.innovation.T
            noise *= np.sqrt(self.swing[0] + self.swing[1] * level)
            noise *= temper.idle_sway + (1 - temper.idle_sway) * min(1.0, 4 * level)
            pose = past.reshape(-1) @ self.regression + noise
            past = np.concatenate([pose[None], past[:-1]]).astype(np.float32)
            poses[row] = temper.pose_scale * pose * self.deviation
            progress += (slow + (1 - slow) * level) / (pause * FPS)
            if progress >= 1:
                blinks += 1
                progress, pause, blink = 0.0, self._pause(state.seed, blinks), 0
                amplitude = float(np.clip(1 + 0.1 * _noise(state.seed, -blinks, 1)[0], 0.8, 1.1))
            if blink < len(self.profile):
                lids[row] = amplitude * self.profile[blink]
                blink += 1
        following = LifeState(state.seed, state.tick + count, past, progress, pause, blink, amplitude, blinks)
        return poses, lids, following

    def apply(self, motion: FloatArray, poses: FloatArray, lids: FloatArray) -> FloatArray:
        """Motion (H, 70) relative to rest, its head and lids replaced by what `advance` gave."""
        alive = np.array(motion, np.float32, copy=True)
        alive[:, POSE] = poses
        alive[:, 0] += 1
        alive[:, self.lids] = motion[:, self.drivers] @ self.coupling + lids
        return alive

    def _pause(self, seed: int, blinks: int) -> float:
        """Seconds to the next blink, counted while speaking."""
        draw = self.pause_mean + self.pause_spread * _noise(seed, -(2**31) - blinks, 1)[0]
        return max(float(np.exp(draw)), len(self.profile) / FPS)


def _noise(seed: int, tick: int, count: int) -> NDArray[np.float64]:
    """Unit normal numbers (count,) that belong to (seed, tick)."""
    bits = np.random.Philox(key=[seed, STREAM], counter=[0, 0, 0, tick + 2**32])
    return np.random.Generator(bits).standard_normal(count)


def loudness(window: FloatArray) -> float:
    """Loudness of a mel window (80, columns) from 0 (silence) to 1 (speech), by its middle third."""
    third = window.shape[1] // 3
    level = float(window[:, third:-third].mean())
    return float(np.clip((level + 2.5) / 2.0, 0.0, 1.0))


@cache
def life_model(folder: Path | None = None) -> LifeModel:
    """Parameters in `folder`, default: the shipped ones; raises WeightsError when the file is missing or not ours."""
    resource = (folder or files("engines") / "weights" / "embedded") / "life.npz"
    try:
        with as_file(resource) as path, np.load(path) as archive:
            values: dict[str, Any] = {name: archive[name] for name in LifeModel.__dataclass_fields__}
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"The life tables {resource} cannot be read ({error}); reinstall the package.") from error
    for name in ("pause_mean", "pause_spread"):
        values[name] = float(values[name])
    return LifeModel(**values)
