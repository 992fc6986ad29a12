"""Fits `engines.life`: a vector autoregression of head pose, blinks as a renewal process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.audio import mel_windows
from engines.face_mesh import FaceModel
from engines.life import POSE, LifeModel, loudness
from engines.motion import EXPRESSION
from engines.types import FPS, FloatArray
from training.batches import WINDOW
from training.corpus import LARGEST, Item, lid_curve
from training.keypoints import BROWS, IRISES, LIDS

ORDER = 6  # ticks of past pose
SHORTEST = 100  # frames; shorter clips say nothing about sway
BEFORE, AFTER = 5, 10  # frames around the moment of closed eyes
LID_CLOSED = -0.065  # change of the lids' gap, eye distances
LID_GAP = 0.10  # of open eyes at rest


def _smooth(values: FloatArray, width: float = 1.0) -> FloatArray:
    """Gaussian along time: takes off the tracker's own trembling."""
    reach = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    padded = np.pad(values, ((3, 3), (0, 0)), "edge")
    return np.stack([np.convolve(padded[:, k], kernel / kernel.sum(), "valid") for k in range(values.shape[1])], 1)


def _poses(items: list[Item]) -> tuple[list[FloatArray], list[FloatArray]]:
    """Poses of long clips brought to one typical amplitude, loudness of each frame."""
    chosen = [
        item
        for item in items
        if item.clip.dataset == "clips"
        and len(item.motion) >= SHORTEST
        and np.abs(item.motion[:, POSE]).max() < LARGEST
    ]
    poses = [_smooth(item.motion[:, POSE] - item.motion[:, POSE].mean(0)) for item in chosen]
    sizes = [float(np.sqrt((pose[:, 1:4] ** 2).mean())) for pose in poses]
    typical = float(np.median(sizes))
    levels = []
    for item in chosen:
        windows = mel_windows(item.mel.T, WINDOW, len(item.motion))
        levels.append(np.array([loudness(window) for window in windows], np.float32))
    return [pose * typical / size for pose, size in zip(poses, sizes, strict=True)], levels


def _regression(poses: list[FloatArray], levels: list[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Regression (7 p, 7), innovation factor (7, 7), variance in silence and what speech adds (2,)."""
    inputs, targets, loud = [], [], []
    for pose, level in zip(poses, levels, strict=True):
        lagged = [pose[ORDER - 1 - k : len(pose) - 1 - k] for k in range(ORDER)]
        inputs.append(np.concatenate(lagged, axis=1))
        targets.append(pose[ORDER:])
        loud.append(level[ORDER:])
    x, y, e = np.concatenate(inputs), np.concatenate(targets), np.concatenate(loud)
    regression = np.linalg.solve(x.T @ x + 1e-3 * len(x) * 1e-2 * np.eye(x.shape[1]), x.T @ y)
    residual = y - x @ regression
    energy = (residual**2 / (residual**2).mean(0)).mean(1)
    slope, base = np.polyfit(e, np.minimum(energy, np.quantile(energy, 0.99)), 1)
    swing = np.array([max(base, 0.2), max(slope, 0.0)])
    swing /= swing[0] + swing[1] * e.mean()
    return regression, np.linalg.cholesky(np.cov(residual.T) + 1e-9 * np.eye(7)), swing


def blink_moments(motion: FloatArray, face: FaceModel) -> list[int]:
    """Frames in which the eyes are shut, one per blink."""
    lid = lid_curve(motion, face)
    moments: list[int] = []
    for frame in range(BEFORE, len(lid) - AFTER):
        here = lid[frame]
        open_before, open_after = lid[frame - BEFORE : frame].max(), lid[frame : frame + AFTER].max()
        deepest = here == lid[frame - 3 : frame + 4].min()
        fresh = not moments or frame - moments[-1] > AFTER // 2
        if fresh and deepest and here < LID_CLOSED and min(open_before, open_after) > here + 0.045:
            moments.append(frame)
    return moments


def _numbers(face: FaceModel, points: np.ndarray, least: float) -> np.ndarray:
    """Numbers of the keypoints of which at least this share acts on the points."""
    energy = face.mixing**2
    chosen = (energy[points].sum(0) / energy.sum(0) >= least) & ~face.mouth
    return EXPRESSION.start + np.flatnonzero(np.repeat(chosen, 3))


def fit_life(items: list[Item], face: FaceModel) -> LifeModel:
    """All parameters from training clips."""
    poses, levels = _poses(items)
    regression, innovation, swing = _regression(poses, levels)
    lids = _numbers(face, LIDS, 0.3)
    drivers = np.setdiff1d(np.concatenate([_numbers(face, BROWS, 0.5), _numbers(face, IRISES, 0.5)]), lids)
    around, pauses, still_lids, still_drivers = [], [], [], []
    for item in items:
        if item.clip.dataset == "lrcar":
            continue
        physical = face.normalisation.denormalise(item.motion)
        moments = blink_moments(item.motion, face)
        if item.clip.dataset == "clips":
            around += [physical[m - BEFORE : m + AFTER][:, lids] for m in moments]
            pauses += list(np.diff(moments) / FPS)
        quiet = np.ones(len(physical), bool)
        for m in moments:
            quiet[max(0, m - BEFORE) : m + AFTER] = False
        still_lids.append(physical[quiet][:, lids])
        still_drivers.append(physical[quiet][:, drivers])
    x, y = np.concatenate(still_drivers), np.concatenate(still_lids)
    coupling = np.linalg.solve(x.T @ x + 1e-2 * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1]), x.T @ y)
    profile = _profile(np.stack(around), face, lids)
    logs = np.log(pauses)
    model = LifeModel(
        regression=regression.astype(np.float32),
        innovation=innovation.astype(np.float32),
        swing=swing.astype(np.float32),
        deviation=face.normalisation.std[POSE],
        pause_mean=float(logs.mean()),
        pause_spread=float(logs.std()),
        profile=profile,
        lids=lids,
        drivers=drivers,
        coupling=coupling.astype(np.float32),
    )
    return replace(model, deviation=model.deviation * _amplitude(model, poses, levels))


def _amplitude(model: LifeModel, poses: list[FloatArray], levels: list[FloatArray]) -> FloatArray:
    """What brings the deviation of every pose number, in clips of the same length and loudness, to that of people.

    Least squares over short clips forgets slow sway, and more of it in some numbers than in others.
    """
    made = [model.advance(model.begin(seed), level)[0] / model.deviation for seed, level in enumerate(levels * 4)]
    ratio = np.median([pose.std(0) for pose in poses], axis=0) / np.median([pose.std(0) for pose in made], axis=0)
    return np.clip(ratio, 0.7, 1.6).astype(np.float32)


def _profile(around: FloatArray, face: FaceModel, lids: np.ndarray) -> FloatArray:
    """Mean blink (K, L), zero at both ends, scaled so that the eyes just close."""
    mean = np.median(around, axis=0)
    base = np.linspace(0, 1, len(mean))[:, None]
    change = mean - ((1 - base) * mean[:2].mean(0) + base * mean[-2:].mean(0))
    change *= np.minimum(1, np.minimum(np.arange(len(mean)), np.arange(len(mean))[::-1]) / 2)[:, None]
    motion = np.tile(face.normalisation.mean, (len(mean), 1))
    motion[:, EXPRESSION] = 0
    motion[:, lids] = change
    gap = lid_curve(face.normalisation.normalise(motion), face)
    return (change * (-LID_GAP / gap.min())).astype(np.float32)


def save_life(model: LifeModel, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: getattr(model, name) for name in LifeModel.__dataclass_fields__})
