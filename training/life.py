"""Fits `engines.life` to tracked people: head and brows, blinks and saccades, nods and lifted brows."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from engines.audio import mel_windows
from engines.eyes import EyesModel
from engines.face_mesh import FaceModel
from engines.life import PARTS, POSE, LifeModel, life_model, loudness
from engines.listening import ListeningModel
from engines.motion import EXPRESSION, PITCH
from engines.types import FPS, FloatArray
from training.batches import WINDOW
from training.corpus import LARGEST, Item, lid_curve
from training.keypoints import BROWS, IRISES, LIDS
from training.sway import Track, fit_sway

SHORTEST = 100  # frames; shorter clips say nothing about sway
BEFORE, AFTER = 5, 10  # frames around the moment of closed eyes
LID_CLOSED = -0.065  # change of the lids' gap, eye distances
LID_GAP = 0.10  # of open eyes at rest
NOD, LIFT = (7, 9), (10, 16)  # frames before and after the lowest head, the highest brows
NOD_DEPTH = 1.2  # degrees at least, down and up again
LIFT_HEIGHT = 0.012  # eye distances at least, up and down again
SEEN = 5  # gestures; where clips hold fewer, the shipped ones serve
SACCADE = 4.0  # times the median speed of the irises


def smooth(values: FloatArray, width: float = 1.0) -> FloatArray:
    """Gaussian along time: takes off the tracker's own trembling."""
    reach = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    padded = np.pad(values, ((3, 3), (0, 0)), "edge")
    return np.stack([np.convolve(padded[:, k], kernel / kernel.sum(), "valid") for k in range(values.shape[1])], 1)


def moving_clips(items: list[Item]) -> list[Item]:
    """Natural clips that are long enough to say how a head moves, and in which neither tracker nor camera jumped."""
    return [
        item
        for item in items
        if item.clip.dataset == "clips"
        and len(item.motion) >= SHORTEST
        and np.abs(item.motion[:, POSE]).max() < LARGEST
    ]


def levels_of(item: Item) -> FloatArray:
    """Loudness f32 (T,) of every frame of a clip."""
    windows = mel_windows(item.mel.T, WINDOW, len(item.motion))
    return np.array([loudness(window) for window in windows], np.float32)


def _numbers(face: FaceModel, points: np.ndarray, least: float) -> np.ndarray:
    """Numbers of the keypoints of which at least this share acts on the points."""
    energy = face.mixing**2
    chosen = (energy[points].sum(0) / energy.sum(0) >= least) & ~face.mouth
    return EXPRESSION.start + np.flatnonzero(np.repeat(chosen, 3))


def _same_size(clips: list[FloatArray], columns: slice) -> list[FloatArray]:
    """Clips (T, K) without their means, each brought to the median deviation of these columns."""
    centred = [clip - clip.mean(0) for clip in clips]
    sizes = [float(np.sqrt((clip[:, columns] ** 2).mean())) for clip in centred]
    return [clip * float(np.median(sizes)) / size for clip, size in zip(centred, sizes, strict=True)]


def _brow_heights(clips: list[FloatArray], face: FaceModel, brows: np.ndarray) -> tuple[list[FloatArray], FloatArray]:
    """Height of the brows (T,) in eye distances, without what the head's turns pretend; what (N,) lifts them by one."""
    rows = face.mixing[BROWS].mean(0)
    heights, numbers = [], []
    for motion in clips:
        angles = motion[:, 1:4] - motion[:, 1:4].mean(0)
        moved = np.c_[-motion[:, EXPRESSION.start + 1 :: 3] @ rows, motion[:, brows]]
        moved -= moved.mean(0)
        moved -= angles @ np.linalg.lstsq(angles, moved, rcond=None)[0]
        heights.append(moved[:, :1])
        numbers.append(moved[:, 1:])
    height = np.concatenate(heights)[:, 0]
    lifting = height @ np.concatenate(numbers) / (height @ height)
    lifting /= -(rows @ _vertical(lifting, brows))  # the other keypoints of the brows stay
    return _same_size(heights, slice(None)), lifting.astype(np.float32)


def _vertical(values: FloatArray, numbers: np.ndarray) -> FloatArray:
    """Downward part (21,) of these numbers of the expression."""
    motion = np.zeros(EXPRESSION.stop)
    motion[numbers] = values
    return motion[EXPRESSION.start + 1 :: 3]


def fit_life(items: list[Item], face: FaceModel) -> LifeModel:
    """All parameters from training clips."""
    clips = moving_clips(items)
    physical = [smooth(face.normalisation.denormalise(item.motion)) for item in clips]
    poses = _same_size([motion[:, POSE] for motion in physical], slice(1, 4))
    lids = _numbers(face, LIDS, 0.3)
    brows = np.setdiff1d(_numbers(face, BROWS, 0.5), lids)
    heights, lifting = _brow_heights(physical, face, brows)
    unit = np.r_[face.normalisation.std[POSE], np.concatenate(heights).std()]
    tracks = [
        Track(np.concatenate([pose, height], axis=1) / unit, levels_of(item))
        for pose, height, item in zip(poses, heights, clips, strict=True)
    ]
    return LifeModel(
        sway=fit_sway(tracks, unit),
        eyes=_fit_eyes(items, clips, face, lids, brows),
        listening=ListeningModel(nod_of(poses), _lift(heights)),
        brows=brows,
        lifting=lifting,
    )


def _gesture(around: list[FloatArray], size: float, column: int) -> FloatArray:
    """Median course (K, N), zero at both ends, whose peak in one column is `size`."""
    course = np.median(around, axis=0)
    share = np.linspace(0, 1, len(course))[:, None]
    course = course - ((1 - share) * course[:2].mean(0) + share * course[-2:].mean(0))
    distance = np.arange(len(course))
    course *= np.minimum(1, np.minimum(distance, distance[::-1]) / 3)[:, None]
    return np.asarray(course * size / course[:, column].max(), np.float32)


def _peaks(curve: FloatArray, reach: tuple[int, int], least: float) -> list[tuple[int, float]]:
    """Frames at which a curve is higher than on both sides by `least`, and by how much it is."""
    found: list[tuple[int, float]] = []
    before, after = reach
    for frame in range(before, len(curve) - after):
        left, right = curve[frame - before : frame], curve[frame + 1 : frame + after]
        height = float(curve[frame] - max(left.min(), right.min()))
        if curve[frame] > max(left.max(), right.max()) and height >= least:
            found.append((frame, height))
    return found


def nod_of(poses: list[FloatArray]) -> FloatArray:
    """Course of the pose (K, 7) while the head goes down and comes up again."""
    found = [(pose, frame, size) for pose in poses for frame, size in _peaks(pose[:, PITCH], NOD, NOD_DEPTH)]
    if len(found) < SEEN:
        return life_model().listening.nod
    around = [pose[frame - NOD[0] : frame + NOD[1]] for pose, frame, _ in found]
    return _gesture(around, float(np.median([size for *_, size in found])), PITCH)


def _lift(heights: list[FloatArray]) -> FloatArray:
    """Course of the brows' height (J,) while they go up and come down again."""
    found = [(brow, frame, size) for brow in heights for frame, size in _peaks(brow[:, 0], LIFT, LIFT_HEIGHT)]
    if len(found) < SEEN:
        return life_model().listening.lift
    around = [brow[frame - LIFT[0] : frame + LIFT[1]] for brow, frame, _ in found]
    return _gesture(around, float(np.median([size for *_, size in found])), 0)[:, 0]


def _fit_eyes(items: list[Item], clips: list[Item], face: FaceModel, lids: np.ndarray, brows: np.ndarray) -> EyesModel:
    """Blinks of all natural clips, saccades of those in `clips`."""
    drivers = np.setdiff1d(np.concatenate([brows, _numbers(face, IRISES, 0.5)]), lids)
    around, pauses, still_lids, still_drivers, seconds, blinks = [], [], [], [], 0.0, 0
    for item in items:
        if item.clip.dataset == "lrcar":
            continue
        physical = face.normalisation.denormalise(item.motion)
        moments = blink_moments(item.motion, face)
        if item.clip.dataset == "clips":
            around += [physical[m - BEFORE : m + AFTER][:, lids] for m in moments]
            pauses += list(np.diff(moments) / FPS)
            seconds += len(physical) / FPS
            blinks += len(moments)
        quiet = np.ones(len(physical), bool)
        for m in moments:
            quiet[max(0, m - BEFORE) : m + AFTER] = False
        still_lids.append(physical[quiet][:, lids])
        still_drivers.append(physical[quiet][:, drivers])
    x, y = np.concatenate(still_drivers), np.concatenate(still_lids)
    coupling = np.linalg.solve(x.T @ x + 1e-2 * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1]), x.T @ y)
    spread = float(np.log(pauses).std())
    irises = _numbers(face, IRISES, 0.5)[:2]
    steadying, fixations, deviation = _gaze([face.normalisation.denormalise(i.motion) for i in clips], irises)
    if len(fixations) >= SEEN:
        fixation_mean, fixation_spread = float(np.log(fixations).mean()), float(np.log(fixations).std())
    else:
        fixation_mean, fixation_spread = life_model().eyes.fixation_mean, life_model().eyes.fixation_spread
    return EyesModel(
        # Short clips hold no long pauses: the mean comes from the count.
        pause_mean=float(np.log(seconds / blinks)) - spread**2 / 2,
        pause_spread=spread,
        profile=_blink(np.stack(around), face, lids),
        lids=lids,
        drivers=drivers,
        coupling=coupling.astype(np.float32),
        irises=irises,
        steadying=steadying,
        fixation_mean=fixation_mean,
        fixation_spread=fixation_spread,
        gaze_deviation=deviation,
    )


def _gaze(clips: list[FloatArray], irises: np.ndarray) -> tuple[FloatArray, list[float], FloatArray]:
    """How irises make up for the head's turns (3, 2), seconds between saccades, deviation (2,) of where they go.

    Medians over people: some look at the camera all the time, others read.
    """
    turns, fixations, spread = [], [], []
    for motion in clips:
        angles, gaze = (motion[:, part] - motion[:, part].mean(0) for part in (slice(1, 4), irises))
        steady = np.linalg.lstsq(angles, gaze, rcond=None)[0]
        turns.append(steady)
        roaming = smooth(gaze - angles @ steady, 0.7)
        speed = np.linalg.norm(np.diff(roaming, axis=0), axis=1)
        jumps = np.flatnonzero(speed > SACCADE * np.median(speed))
        jumps = jumps[np.diff(jumps, prepend=-FPS) > 2]
        fixations += list(np.diff(jumps) / FPS)
        spread.append(roaming.std(0))
    deviation = np.median(spread, axis=0)
    return np.median(turns, axis=0).astype(np.float32), fixations, deviation.astype(np.float32)


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


def _blink(around: FloatArray, face: FaceModel, lids: np.ndarray) -> FloatArray:
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
    values: dict[str, Any] = {"brows": model.brows, "lifting": model.lifting}
    for part in PARTS:
        inner = getattr(model, part)
        values |= {f"{part}.{field.name}": getattr(inner, field.name) for field in fields(inner)}
    np.savez_compressed(path, **values)
