"""Streamed motion measured on tracked clips: lips, seams, smoothness. Held-out clips are never looked at here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.audio import mel_windows
from engines.face_mesh import FaceModel, face_model
from engines.networks.ddim import PREFIX, Ddim
from engines.profile import EMBEDDED, WindowPlan
from engines.runtime.base import Array, Engine, TensorSpec, example_inputs
from engines.sampler import Sampler
from engines.types import FPS, FloatArray
from training.bench import as_in_calls, understood
from training.corpus import Item, items_of, measuring_matrix
from training.generate import Encode, silent_feature, stream
from training.metrics import FIGURES, border_ratio, score_rows, sizes
from training.shapes import shapes_of
from training.tracks import data_folder, read_clips

SEEDS = (11, 23, 37)  # of the noise
SHORTEST, LONGEST, MOST = 100, 250, 8  # frames and number of the training clips that are looked at


@dataclass(frozen=True, slots=True)
class Quality:
    """What one way of sampling gives; lips as means over clips and noise seeds, by group of clips and figure.

    `jump`, `bend`: first and second difference of the lips at hop borders over those elsewhere (medians; None where
    every frame is a border). `roughness`: second difference over the tracked one, borders or not.
    """

    jump: float | None
    bend: float | None
    roughness: float
    lips: Mapping[str, Mapping[str, float]]


class Clips:
    """Natural clips for choosing, heard as in a call: those of the validation split and the first that training saw
    ("held in").
    """

    def __init__(self, encode: Encode) -> None:
        self.face: FaceModel = face_model()
        self.measures = measuring_matrix(self.face)
        clips = [clip for clip in read_clips(data_folder(), ("clips",)) if clip.split in ("train", "val")]
        items = items_of(shapes_of(clips, self.face.template))
        seen = [item for item in items if item.clip.split == "train" and SHORTEST < len(item.motion) <= LONGEST]
        self.groups = {"held in": seen[:MOST], "val": [item for item in items if item.clip.split == "val"]}
        self.items: list[Item] = [item for group in self.groups.values() for item in group]
        windows = [mel_windows(item.mel.T, EMBEDDED.mel, len(item.motion)) for item in self.items]
        self.heard = understood(windows, encode, as_in_calls())
        self.silence = silent_feature(encode)

    def measure(self, sampler: Sampler, seeds: Sequence[int] = SEEDS) -> Quality:
        canonical = [item.canonical for item in self.items]
        truth = [item.motion @ self.measures for item in self.items]
        features, *beside = self.heard
        scores, runs = [], []
        for number, seed in enumerate(seeds):
            lead = number * sampler.plan.new // len(seeds)  # frames of silence, so that borders fall elsewhere
            later = [_after(lead, self.silence, features), *(_after(lead, np.float32(0), each) for each in beside)]
            made = stream(sampler, self.face, later[0], canonical, self.silence, seed, *later[1:])
            curves = [motion @ self.measures for motion in made]
            scores.append(score_rows([curve[lead:] for curve in curves], truth))
            runs += curves
        mean, lips, first = np.mean(scores, axis=0), {}, 0
        for name, group in self.groups.items():
            row = mean[first : first + len(group)].mean(0)
            lips[name] = {figure: round(float(value), 3) for figure, value in zip(FIGURES, row, strict=True)}
            first += len(group)
        return Quality(
            border_ratio(runs, sampler.plan.new, 1),
            border_ratio(runs, sampler.plan.new, 2),
            round(float(np.median(sizes(runs, 2)) / np.median(sizes(truth, 2))), 3),
            lips,
        )


def _after(lead: int, silence: FloatArray | np.float32, rows: Sequence[FloatArray]) -> list[FloatArray]:
    """Every one of `rows` (T, ...) after `lead` times `silence`."""
    return [np.concatenate([np.repeat(np.asarray(silence)[None], lead, axis=0), row]) for row in rows]


def milliseconds(engine: Engine, frames: int, runs: int = 200) -> float:
    """Median time of one window of a single call, buffers prepared."""
    engine.warm([1], frames=frames)
    arrays = example_inputs(engine.inputs, {"batch": 1, "frames": frames})
    out = engine.run(**arrays)
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        engine.run(out, **arrays)
        times.append(time.perf_counter() - began)
    return round(1e3 * float(np.median(times)), 3)


def per_second(window: float, hop: int) -> float:
    """Milliseconds a window -> milliseconds a second of speech."""
    return round(window * FPS / hop, 2)


class ImpliedNoise:
    """A loop as an engine that re-noises a committed frame with the noise which its own last prediction implies:
    what, with the clean result, makes up the state before the last step. Follows one batch of calls from its beginning.
    """

    runtime, metadata, name = "torch", dict[str, str](), "window"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, loop: Ddim, plan: WindowPlan) -> None:
        self._loop, self._plan = loop, plan
        self._begun: list[FloatArray] = []  # implied noise of the next context, calls that have not advanced yet
        self._kept: FloatArray | None = None
        self._seen = torch.empty(0)
        loop.denoiser.register_forward_pre_hook(self._look)

    def _look(self, _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._seen = arguments[0]

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        plan, settled = self._plan, arrays["mask"].any()
        if settled:
            if self._kept is None:
                self._kept = np.concatenate(self._begun)
            arrays["noise"] = arrays["noise"].copy()
            arrays["noise"][:, : plan.committed] = self._kept
        with torch.inference_mode():
            motion = self._loop(**{name: torch.from_numpy(array) for name, array in arrays.items()})
            state, last = self._seen[: len(motion), PREFIX:], self._loop.schedule.steps[-1]
            implied = ((state - last.signal * motion) / last.noise).numpy()
        if not settled:
            end = plan.length - plan.lookahead
            self._begun.append(implied[:, end - plan.committed : end])
        else:
            known = np.concatenate([arrays["noise"][:, : plan.committed], implied[:, plan.committed :]], axis=1)
            self._kept = known[:, plan.new : plan.new + plan.committed]
        return {"motion": motion.numpy()}

    def hold(self, **tables: Array) -> None: ...

    def warm(self, batches: Sequence[int], **sizes: int) -> None: ...

    def close(self) -> None: ...


def folder_of_weights() -> Path:
    """The shipped networks of the embedded profile."""
    import engines

    return Path(engines.__file__).parent / "weights" / "embedded"
