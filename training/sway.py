"""Fits the state-space model of head and brows (`engines.life.SwayModel`) to tracked people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.life import MEMORY, STROKE, SwayModel, next_stress
from engines.types import FPS, FloatArray

ORDER = 6  # ticks of past pose
DRIFT = 2.0  # seconds: time constant of posture
BREATHS = 15  # a minute at rest; people take 12 to 20
BREATH_SPREAD = 0.985  # pole radius: a breath is as long as the last ones, but not quite
HUMP = range(-8, 9)  # ticks around a stressed syllable in which heads move more
HEIGHT = 5  # the pose's number that breath moves
BREATH_BAND = (0.18, 0.35)  # Hz


@dataclass(frozen=True, slots=True)
class Track:
    """One clip: smoothed pose and height of the brows f32 (T, 8), in deviations from their means; loudness f32 (T,)."""

    motion: FloatArray
    loudness: FloatArray


def stresses(levels: FloatArray) -> FloatArray:
    """1 where a stressed syllable begins, f32 (T,), as `LifeModel.advance` finds them."""
    memory, since, found = np.zeros(MEMORY), MEMORY, np.zeros(len(levels), np.float32)
    for tick, level in enumerate(levels):
        since = next_stress(memory, float(level), since)
        memory = np.append(memory[1:], level)
        found[tick] = since == 0
    return found


def _regression(tracks: list[Track]) -> tuple[FloatArray, list[FloatArray]]:
    """Regression (D p, D) of the newest-first past on the next, and what it leaves of every track."""
    pairs = []
    for track in tracks:
        lagged = [track.motion[ORDER - 1 - k : len(track.motion) - 1 - k] for k in range(ORDER)]
        pairs.append((np.concatenate(lagged, axis=1), track.motion[ORDER:]))
    x, y = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    weights = np.linalg.solve(x.T @ x + 1e-5 * len(x) * np.eye(x.shape[1]), x.T @ y)
    return weights, [target - past @ weights for past, target in pairs]


def _non_negative(x: FloatArray, y: FloatArray, rounds: int = 4000) -> FloatArray:
    """Least squares with non-negative weights, by projected gradients."""
    gram, moment = x.T @ x, x.T @ y
    step = 1 / float(np.linalg.eigvalsh(gram)[-1])
    weights = np.full(x.shape[1], 0.1)
    for _ in range(rounds):
        weights = np.maximum(0, weights - step * (gram @ weights - moment))
    return weights


def _energy(tracks: list[Track], residuals: list[FloatArray]) -> FloatArray:
    """Variance of the innovations of yaw, pitch and roll: at rest, by loudness, by a stroke; its mean is 1.

    People move before and after the syllable they stress. What moves before cannot be foreseen, so that a stroke gets
    the energy of the whole hump.
    """
    rows, values = [], []
    scale = np.concatenate(residuals)[:, 1:4].var(0)
    for track, residual in zip(tracks, residuals, strict=True):
        beats = stresses(track.loudness)
        columns = [np.ones_like(beats), track.loudness, *(np.roll(beats, lag) for lag in HUMP)]
        rows.append(np.stack(columns, axis=1)[ORDER:])
        values.append((residual[:, 1:4] ** 2 / scale).mean(1))
    x, y = np.concatenate(rows), np.concatenate(values)
    weights = _non_negative(x, np.minimum(y, np.quantile(y, 0.99)))
    energy = np.array([weights[0], weights[1], weights[2:].sum()])
    return energy / (energy @ [1, x[:, 1].mean(), x[:, 2].mean()])


def _breath_size(tracks: list[Track]) -> float:
    """Deviation of the head's height at the pace of breath that its angles do not explain."""
    sizes = []
    for track in tracks:
        if len(track.motion) < 8 * FPS:
            continue
        angles, height = track.motion[:, 1:4], track.motion[:, HEIGHT]
        rest = height - angles @ np.linalg.lstsq(angles, height, rcond=None)[0]
        power = np.abs(np.fft.rfft(rest)) ** 2
        pace = np.fft.rfftfreq(len(rest), 1 / FPS)
        band = (pace >= BREATH_BAND[0]) & (pace <= BREATH_BAND[1])
        sizes.append(np.sqrt(2 * power[band].sum()) / len(rest))
    return float(np.median(sizes)) if sizes else 0.0


def _chain(weights: FloatArray, innovation: FloatArray, energy: FloatArray) -> SwayModel:
    """Autoregression, drift of three angles and breath as one linear system; drift and breath have unit deviation
    and are not yet read out.
    """
    outputs = weights.shape[1]
    past, drift, breath = outputs * ORDER, 6, 2
    size = past + drift + breath
    transition, sources, readout = np.zeros((size, size)), np.zeros((outputs + 4, size)), np.zeros((size, outputs))
    transition[:past, :outputs] = weights
    transition[: past - outputs, outputs:past] = np.eye(past - outputs)
    sources[:outputs, :outputs] = innovation.T
    readout[:outputs] = np.eye(outputs)
    # Two leaky integrators in a row: smooth in speed.
    keep = np.exp(-1 / (DRIFT * FPS))
    for k in range(3):
        first, second = past + k, past + 3 + k
        transition[first, first] = transition[second, second] = keep
        transition[first, second] = 1 - keep
        sources[outputs + k, first] = 1
    angle = 2 * np.pi * BREATHS / 60 / FPS
    now, before = past + drift, past + drift + 1
    transition[now, now], transition[before, now] = 2 * BREATH_SPREAD * np.cos(angle), -(BREATH_SPREAD**2)
    transition[now, before] = 1
    sources[outputs + 3, now] = 1
    for source, number in [*((outputs + k, past + 3 + k) for k in range(3)), (outputs + 3, now)]:
        sources[source] /= np.sqrt(stationary(transition, sources[source : source + 1])[number, number])
    voiced = np.r_[np.ones(outputs), np.zeros(4)]
    return SwayModel(*(np.asarray(part, np.float64) for part in (transition, sources, readout, voiced, energy)))


def stationary(transition: FloatArray, sources: FloatArray) -> FloatArray:
    """Covariance (S, S) of the state after a long time, by doubling."""
    power, total = np.asarray(transition, np.float64), sources.T @ sources
    for _ in range(14):
        total = total + power.T @ total @ power
        power = power @ power
    return total


def simulate(model: SwayModel, levels: FloatArray, seed: int) -> FloatArray:
    """State f64 (T, S) after half a minute, stirred as in speech of this loudness."""
    rng = np.random.default_rng(seed)
    beats = stresses(levels)
    energy = model.energy[0] + model.energy[1] * levels
    energy[STROKE:] += model.energy[2] * beats[: len(beats) - STROKE]
    gain = np.sqrt(np.r_[np.ones(30 * FPS), energy])
    noise = rng.standard_normal((len(gain), len(model.sources)))
    noise *= 1 + model.voiced * (gain[:, None] - 1)
    state, states = np.zeros(len(model.transition)), np.empty((len(levels), len(model.transition)))
    for tick, driven in enumerate(noise @ model.sources):
        state = state @ model.transition + driven
        if tick >= 30 * FPS:
            states[tick - 30 * FPS] = state
    return states


def later(motions: Sequence[FloatArray]) -> FloatArray:
    """Correlation of every column of clips (T, K) with itself one second later, f64 (K,).

    Mean over clips, weighted by length: the median of so few short clips is off by .1 and more.
    """
    rows = [[np.corrcoef(column[:-FPS], column[FPS:])[0, 1] for column in motion.T] for motion in motions]
    return np.average(rows, axis=0, weights=[len(motion) for motion in motions])


def fit_sway(tracks: list[Track], deviation: FloatArray) -> SwayModel:
    """`deviation` f32 (8,): physical units of the tracks' numbers."""
    weights, residuals = _regression(tracks)
    innovation = np.linalg.cholesky(np.cov(np.concatenate(residuals).T) + 1e-9 * np.eye(weights.shape[1]))
    model = _chain(weights, innovation, _energy(tracks, residuals))
    past = len(model.transition) - 8
    states = [simulate(model, track.loudness, seed) for seed, track in enumerate(tracks * 6)]
    fast = [state @ model.readout for state in states]
    readout = np.array(model.readout, np.float64)
    readout[past + 6, HEIGHT] = _breath_size(tracks)
    wanted = later([track.motion[:, 1:4] for track in tracks])
    size = np.median([made.std(0) for made in fast], axis=0)
    for k in range(3):
        # How much of the angle is posture: what brings its memory over a second, in clips as long, to that of people.
        shares = np.linspace(0, 0.8, 17)
        distance = []
        for share in shares:
            mixed = [
                np.sqrt(1 - share) * made[:, 1 + k : 2 + k]
                + np.sqrt(share) * size[1 + k] * state[:, past + 3 + k, None]
                for made, state in zip(fast, states, strict=True)
            ]
            distance.append(abs(later(mixed)[0] - wanted[k]))
        share = shares[int(np.argmin(distance))]
        readout[:, 1 + k] *= np.sqrt(1 - share)
        readout[past + 3 + k, 1 + k] = np.sqrt(share) * size[1 + k]
    # Least squares over short clips forgets slow sway, and more of it in some numbers than in others.
    people = np.median([track.motion.std(0) for track in tracks], axis=0)
    ours = np.median([(state @ readout).std(0) for state in states], axis=0)
    readout *= np.clip(people / ours, 0.6, 1.8) * deviation
    return SwayModel(model.transition, model.sources, readout, model.voiced, model.energy)
