"""Lids and irises: blinks and saccades as renewal processes, fitted to tracked people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.chance import EYES, GAZE, normals
from engines.types import FPS, FloatArray

SHORTEST = 3  # ticks between saccades


@dataclass(frozen=True, slots=True)
class EyesState:
    """`progress`: share of the current `pause` (s) between blinks that has gone by. `blink`: ticks since the last
    blink began, `amplitude` its size, `blinks`: how many began. `gaze`, `target` f64 (2,): where the irises are and
    where they go; `fixation`: ticks until they jump again, `saccades`: how often they did.
    """

    progress: float
    pause: float
    blink: int
    amplitude: float
    blinks: int
    gaze: NDArray[np.float64]
    target: NDArray[np.float64]
    fixation: int
    saccades: int


@dataclass(frozen=True, slots=True)
class EyesModel:
    """Fitted parameters.

    `pause_mean`, `pause_spread`: of the logarithm of the seconds between blinks while speaking. `profile` f32 (K, L):
    change of the lids' numbers during a blink. `lids` i64 (L,): which of the 70 numbers they are. `drivers` i64 (D,)
    and `coupling` f32 (D, L): how brows and gaze move the lids between blinks. `irises` i64 (2,): the numbers that
    move the irises sideways and down; `steadying` f32 (3, 2): what they do, per degree of yaw, pitch and roll, to stay
    on what they look at. `fixation_mean`, `fixation_spread`: of the logarithm of the seconds between saccades;
    `gaze_deviation` f32 (2,): of where they go.
    """

    pause_mean: float
    pause_spread: float
    profile: FloatArray
    lids: NDArray[np.int64]
    drivers: NDArray[np.int64]
    coupling: FloatArray
    irises: NDArray[np.int64]
    steadying: FloatArray
    fixation_mean: float
    fixation_spread: float
    gaze_deviation: FloatArray

    @property
    def speaking_blinks(self) -> float:
        """Mean rate of blinks a minute while speaking."""
        return 60 / float(np.exp(self.pause_mean + self.pause_spread**2 / 2))

    def begin(self, seed: int) -> EyesState:
        """Open eyes on the viewer."""
        still = np.zeros(2)
        return EyesState(0.0, self._pause(seed, 0), len(self.profile), 1.0, 0, still, still, self._fixation(seed, 0), 0)

    def step(self, state: EyesState, seed: int, pace: float, roaming: float) -> tuple[FloatArray, EyesState]:
        """One tick: change of the lids (L,) and the state that follows, whose `gaze` is that of this tick.

        `pace`: blinks come this many times as often as while speaking. `roaming`: factor on how far the eyes go.
        """
        progress, pause, blink = state.progress + pace / (state.pause * FPS), state.pause, state.blink
        amplitude, blinks = state.amplitude, state.blinks
        if progress >= 1:
            blinks += 1
            progress, pause, blink = 0.0, self._pause(seed, blinks), 0
            amplitude = float(np.clip(1 + 0.1 * normals(seed, EYES, -blinks, 1)[0], 0.8, 1.1))
        lids = np.zeros(self.profile.shape[1], np.float32)
        if blink < len(self.profile):
            lids = np.asarray(amplitude * self.profile[blink], np.float32)
            blink += 1
        target, fixation, saccades = state.target, state.fixation - 1, state.saccades
        if fixation > 0:
            gaze = target
        else:
            saccades += 1
            fixation = self._fixation(seed, saccades)
            target = roaming * self.gaze_deviation * normals(seed, GAZE, -saccades, 2)
            gaze = (state.gaze + target) / 2  # two ticks: a saccade of a few degrees takes 30 to 50 ms
        return lids, EyesState(progress, pause, blink, amplitude, blinks, gaze, target, fixation, saccades)

    def _pause(self, seed: int, blinks: int) -> float:
        """Seconds to the next blink, counted while speaking."""
        draw = self.pause_mean + self.pause_spread * normals(seed, EYES, blinks, 1)[0]
        return max(float(np.exp(draw)), len(self.profile) / FPS)

    def _fixation(self, seed: int, saccades: int) -> int:
        """Ticks to the next saccade."""
        draw = self.fixation_mean + self.fixation_spread * normals(seed, GAZE, saccades, 1)[0]
        return max(round(float(np.exp(draw)) * FPS), SHORTEST)
