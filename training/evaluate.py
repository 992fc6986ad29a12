"""Streaming evaluation of the exported files: lips, silence, seams, life.

Everything is generated hop by hop by the sampler that runs in production, from the ONNX files. Clips of
the split ``held_out`` were never looked at before; they are for this table only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.audio import log_mel, mel_windows
from engines.face_mesh import FaceModel, face_model
from engines.networks.ddim import Ddim, DdimConfig
from engines.profile import EMBEDDED
from engines.runtime.opening import open_engine
from engines.sampler import Sampler
from engines.types import FPS, SPEECH_RATE, SPEECH_SAMPLES, FloatArray
from training.baselines import fit_loudness, loudness
from training.corpus import MEASURES, Item, items_of, measuring_matrix, rest_values
from training.generate import Encode, features_of, per_number, silent_feature, stream, torch_encoder, torch_sampler
from training.keypoints import explained
from training.life_metrics import life_table
from training.metrics import lip_curves, lip_score
from training.plots import plot_lips, plot_training
from training.shapes import Shape
from training.train import load_model

SEEDS = (11, 23, 37)


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
        windows = mel_windows(log_mel(sound), EMBEDDED.mel, len(sound) // SPEECH_SAMPLES)
        features = self.encode(windows)
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


def posterior_mean(checkpoint: Path) -> Bench:
    """The same network answering with its expectation: one step, no noise, no guidance."""
    model, saved = load_model(checkpoint)
    face = face_model()
    config = replace(DdimConfig(**saved["recipe"]["sampling"]), steps=1)
    loop = Ddim(model.denoiser, config, saved["context_shares"])
    sampler = torch_sampler(loop, face, guidance=(1.0, 1.0), temperature=(0.0, 0.0))
    return Bench(sampler, torch_encoder(model.encoder), face, measuring_matrix(face))


def lips(bench: Bench, mean: Bench, items: list[Item], train: list[Item]) -> dict[str, Any]:
    """Ours, loudness-to-jaw and shuffled sound against the truth, with a bootstrap interval over clips."""
    truth = [lip_curves(item.motion, bench.measures) for item in items]
    line = fit_loudness(train, bench.measures)
    ours = [[lip_curves(m, bench.measures) for m in bench.generate(items, seed)] for seed in SEEDS]
    wrong = [lip_curves(m, bench.measures) for m in bench.generate(items, SEEDS[0], shuffled=True)]
    loud = [loudness(item) @ line for item in items]
    scores = [asdict(lip_score(curves, truth)) for curves in ours]
    table: dict[str, Any] = {"clips": len(items), "seconds": sum(len(item.motion) for item in items) / FPS}
    table["ours"] = _mean(scores)
    expected = [lip_curves(m, bench.measures) for m in mean.generate(items, SEEDS[0])]
    table["posterior mean"] = asdict(lip_score(expected, truth))
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
    return {name: [round(float(low[k]), 3), round(float(high[k]), 3)] for k, name in enumerate(MEASURES)}


def _lag(ours: list[FloatArray], truth: list[FloatArray]) -> int:
    """Shift in frames at which the opening agrees best; positive: ours is late."""

    def agreement(shift: int) -> float:
        pairs = zip(ours, truth, strict=True)
        return float(np.mean([np.corrcoef(np.roll(o[:, 0], -shift)[6:-6], t[6:-6, 0])[0, 1] for o, t in pairs]))

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


def evaluate(shapes: list[Shape], folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Every table and picture; written to ``figures.json`` and PNG files beside the networks."""
    bench, mean = open_bench(folder), posterior_mean(checkpoint)
    items = items_of(shapes)
    natural = [item for item in items if item.clip.dataset == "clips"]
    train = [item for item in items if item.clip.split == "train"]
    groups = {
        "held in": [item for item in natural if item.clip.split == "train" and 100 < len(item.motion) <= 250][:8],
        "val": [item for item in natural if item.clip.split == "val"],
        "held out": [item for item in natural if item.clip.split == "held_out"],
        "studio, unseen sentences": [i for i in items if i.clip.dataset == "grid_s1" and i.clip.split == "val"][::8],
    }
    figures: dict[str, Any] = {"lips": {}, "keypoints": {}}
    for name, group in groups.items():
        figures["lips"][name] = lips(bench, mean, group, train)
        names = {item.clip.name for item in group}
        figures["keypoints"][name] = explained(face_model(), [s for s in shapes if s.clip.name in names])
    figures["closing"] = closing(bench, groups["held out"])
    figures["seams"] = seams(bench, groups["held out"])
    figures["life"] = life_table(bench.face, train)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    saved = torch.load(checkpoint, weights_only=True)
    plot_training(saved["history"], saved["step"], folder / "training.png")
    made = bench.generate(groups["held out"], SEEDS[0])
    curves = [
        (item.clip.name, item.clip.sound, lip_curves(item.motion, bench.measures), lip_curves(motion, bench.measures))
        for item, motion in zip(groups["held out"], made, strict=True)
    ]
    plot_lips(curves, folder / "lips.png")
    return figures
