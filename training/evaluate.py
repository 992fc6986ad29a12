"""Streaming evaluation of the exported files: lips, silence, seams, life.

Everything is generated hop by hop by the sampler that runs in production, from the ONNX files. Clips of
the split ``held_out`` were never looked at before; they are for this table only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.audio import log_mel
from engines.face_mesh import FaceModel, face_model
from engines.profile import EMBEDDED
from engines.runtime.base import open_engine
from engines.sampler import Sampler
from engines.types import FPS, SPEECH_RATE, SPEECH_SAMPLES, FloatArray
from training.baselines import fit_loudness, loudness
from training.corpus import Item, lid_curve, measuring_matrix, rest_values
from training.generate import Encode, features_of, per_number, silent_feature, stream
from training.metrics import lip_curves, lip_score

SEEDS = (11, 23, 37)
BLINK = -0.05  # change of the lids' gap, eye distances


@dataclass(frozen=True, slots=True)
class Bench:
    """Exported networks and what is needed to measure them."""

    sampler: Sampler
    encode: Encode
    face: FaceModel
    measures: FloatArray

    def generate(self, items: list[Item], seed: int, shuffled: bool = False) -> list[FloatArray]:
        features = features_of(items, self.encode)
        if shuffled:
            features = [_other(features, index) for index in range(len(features))]
        canonical = [item.canonical for item in items]
        return stream(self.sampler, self.face, features, canonical, silent_feature(self.encode), seed)

    def speak(self, sound: FloatArray, canonical: FloatArray, seed: int) -> FloatArray:
        """Motion (T, 70) for a sound f32 (samples,)."""
        item_mel, frames = log_mel(sound), len(sound) // SPEECH_SAMPLES
        from engines.audio import mel_windows

        features = self.encode(mel_windows(item_mel, EMBEDDED.mel, frames))
        return stream(self.sampler, self.face, [features], [canonical], silent_feature(self.encode), seed)[0]


def open_bench(folder: Path) -> Bench:
    """Bench around ``audio_encoder.onnx`` and ``window.onnx``."""
    encoder, face = open_engine(folder / "audio_encoder.onnx"), face_model()
    sampler = Sampler(
        open_engine(folder / "window.onnx"),
        EMBEDDED.window,
        per_number(face, *EMBEDDED.guidance),
        per_number(face, *EMBEDDED.temperature),
    )
    return Bench(sampler, lambda windows: encoder.run(mel=windows)["feature"], face, measuring_matrix(face))


def _other(features: list[FloatArray], index: int) -> FloatArray:
    """Features of the next clip, cut or repeated to this clip's length."""
    return np.resize(features[(index + 1) % len(features)], features[index].shape)


def lips(bench: Bench, items: list[Item], train: list[Item]) -> dict[str, Any]:
    """Ours, loudness-to-jaw and shuffled sound against the truth, with a bootstrap interval over clips."""
    truth = [lip_curves(item.motion, bench.measures) for item in items]
    line = fit_loudness(train, bench.measures)
    ours = [[lip_curves(m, bench.measures) for m in bench.generate(items, seed)] for seed in SEEDS]
    wrong = [lip_curves(m, bench.measures) for m in bench.generate(items, SEEDS[0], shuffled=True)]
    loud = [loudness(item) @ line for item in items]
    scores = [asdict(lip_score(curves, truth)) for curves in ours]
    table: dict[str, Any] = {"clips": len(items), "seconds": sum(len(item.motion) for item in items) / FPS}
    table["ours"] = _mean(scores)
    table["loudness"] = asdict(lip_score(loud, truth))
    table["shuffled"] = asdict(lip_score(wrong, truth))
    table["interval"] = _bootstrap(ours, truth)
    table["lag_frames"] = _lag(ours[0], truth)
    return table


def _mean(scores: list[dict[str, Any]]) -> dict[str, Any]:
    first = scores[0]
    return {
        key: _mean([score[key] for score in scores])
        if isinstance(value, dict)
        else round(float(np.mean([score[key] for score in scores])), 4)
        for key, value in first.items()
    }


def _bootstrap(runs: list[list[FloatArray]], truth: list[FloatArray], draws: int = 500) -> dict[str, list[float]]:
    """5 and 95 % quantiles of the correlations when clips are drawn anew."""
    per_clip = np.array([
        [list(lip_score([run[k]], [truth[k]]).correlation.values()) for k in range(len(truth))] for run in runs
    ]).mean(0)  # fmt: skip
    rng = np.random.default_rng(0)
    means = np.stack([per_clip[rng.integers(len(truth), size=len(truth))].mean(0) for _ in range(draws)])
    low, high = np.quantile(means, [0.05, 0.95], axis=0)
    return {name: [round(float(low[k]), 3), round(float(high[k]), 3)] for k, name in enumerate(("opening", "width", "jaw"))}


def _lag(ours: list[FloatArray], truth: list[FloatArray]) -> int:
    """Shift in frames at which the opening agrees best; positive: ours is late."""
    def agreement(shift: int) -> float:
        return float(np.mean([np.corrcoef(np.roll(o[:, 0], -shift)[6:-6], t[6:-6, 0])[0, 1] for o, t in zip(ours, truth, strict=True)]))

    return max(range(-5, 6), key=agreement)


def closing(bench: Bench, items: list[Item]) -> dict[str, Any]:
    """Opening above rest after speech stops, as a share of the mean in speech: at 200 ms and over two seconds.

    Followed by digital silence, room noise or breath-like noise.
    """
    rng = np.random.default_rng(0)
    length = 2 * SPEECH_RATE
    breath = np.convolve(rng.standard_normal(length), np.hanning(9), "same") * np.hanning(length) * 0.01
    tails = {"silence": np.zeros(length), "room noise": 0.002 * rng.standard_normal(length), "breath": breath}
    closed = rest_values(bench.face) @ bench.measures
    figures = {}
    for name, tail in tails.items():
        at, later, spoken = [], [], []
        for item in items:
            sound = np.concatenate([item.clip.sound, tail]).astype(np.float32)
            opening = (bench.speak(sound, item.canonical, SEEDS[0]) @ bench.measures - closed)[:, 0]
            end = len(item.motion)
            spoken.append(opening[:end].mean())
            at.append(opening[end + 5])
            later.append(np.abs(opening[end + 5 :]).max())
        figures[name] = {
            "at_200_ms": round(float(np.mean(at) / np.mean(spoken)), 3),
            "largest_after": round(float(np.mean(later) / np.mean(spoken)), 3),
        }
    return figures


def seams(bench: Bench, items: list[Item]) -> dict[str, float]:
    """Jump and second difference of the mouth at hop borders, as shares of those elsewhere."""
    jumps: dict[bool, list[float]] = {True: [], False: []}
    bends: dict[bool, list[float]] = {True: [], False: []}
    for motion in bench.generate(items, SEEDS[0]):
        curves = motion @ bench.measures
        first = np.linalg.norm(np.diff(curves, axis=0), axis=1)
        second = np.linalg.norm(np.diff(curves, 2, axis=0), axis=1)
        for frame, value in enumerate(first, 1):
            jumps[frame % EMBEDDED.window.new == 0].append(value)
        for frame, value in enumerate(second, 1):
            bends[frame % EMBEDDED.window.new == 0].append(value)
    return {
        "jump": round(float(np.median(jumps[True]) / np.median(jumps[False])), 3),
        "second_difference": round(float(np.median(bends[True]) / np.median(bends[False])), 3),
    }


def life(bench: Bench, motions: list[FloatArray]) -> dict[str, Any]:
    """Blinks a minute, and how much the head moves, of normalised motions (T, 70)."""
    blinks = frames = 0
    deviations, speeds = [], []
    for motion in motions:
        shut = lid_curve(motion, bench.face) < BLINK
        blinks += int((shut[1:] & ~shut[:-1]).sum())
        frames += len(motion)
        pose = bench.face.normalisation.denormalise(motion)[:, 1:4]
        deviations.append(pose.std(0))
        speeds.append(np.abs(np.diff(pose, axis=0)).mean(0))
    return {
        "blinks_a_minute": round(blinks / frames * FPS * 60, 1),
        "pose_deviation": np.round(np.mean(deviations, 0), 2).tolist(),
        "pose_speed": np.round(np.mean(speeds, 0), 3).tolist(),
    }
