"""Streaming evaluation: lips, closing, bilabials, robustness, rendered video, seams, life.

Everything is generated hop by hop by the sampler that runs in production: the shipped networks from their ONNX files,
the same recipe trained with other seeds from its checkpoints. Clips of the split ``held_out`` are for this alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engines.face_mesh import face_model
from engines.profile import AS_MADE, Parts
from engines.runtime.opening import open_engine
from engines.talkers import open_talker
from engines.types import FloatArray, KDTalkerError
from engines.understanding import Understanding
from training.baselines import fit_loudness
from training.bench import Bench, checkpoint_bench, digest_of, open_bench
from training.bilabials import bilabials
from training.closing import closing
from training.corpus import Item, items_of
from training.keypoints import explained
from training.life_metrics import life_table
from training.lips import SEEDS, lip_table, split_half
from training.metrics import border_ratio, lip_curves
from training.plots import plot_lips, plot_training
from training.rendered import contact_sheet, rendered
from training.robustness import robustness
from training.shapes import Shape
from training.tracks import REPOSITORY

AVATAR = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"
SECOND_PORTRAIT = "p5_older_man_glasses.jpg"
EXPECTATION = {"guidance": AS_MADE, "temperature": Parts(mouth=0.0, rest=0.0), "rescale": AS_MADE}
VOICES = 12  # clips whose sound makes the babble


@dataclass(frozen=True, slots=True)
class Groups:
    """Clips by what they are for. "held in" and "val" chose, "held out" only judge."""

    lips: dict[str, list[Item]]
    arabic: list[Item]
    studio: list[Item]
    train: list[Item]

    @property
    def held_out(self) -> list[Item]:
        return self.lips["held out"]


def groups_of(items: list[Item]) -> Groups:
    natural = [item for item in items if item.clip.dataset == "clips"]
    studio = [item for item in items if item.clip.dataset == "grid_s1" and item.clip.split == "val"]
    return Groups(
        lips={
            "held in": [i for i in natural if i.clip.split == "train" and 100 < len(i.motion) <= 250][:8],
            "val": [i for i in natural if i.clip.split == "val"],
            "held out": [i for i in natural if i.clip.split == "held_out"],
            "studio, unseen sentences": studio[::8],
        },
        arabic=[i for i in items if i.clip.dataset == "lrcar" and i.clip.split == "val"][::3],
        studio=studio,
        train=[i for i in items if i.clip.split == "train"],
    )


def check_exported(folder: Path, checkpoint: Path) -> None:
    """Raise KDTalkerError unless the files in `folder` were exported from `checkpoint`."""
    engine = open_engine(folder / "window.onnx")
    exported = json.loads(engine.metadata["weights"])
    engine.close()
    if exported != digest_of(checkpoint):
        raise KDTalkerError(
            f"{folder}/window.onnx was not exported from {checkpoint}; run `python -m export.to_onnx {checkpoint}` "
            "first."
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated, and on what.

    `runs`: the exported networks, then the same recipe trained with other seeds. `others`: what they are compared with.
    """

    runs: Sequence[Bench]
    others: dict[str, Bench]
    groups: Groups
    shapes: list[Shape]
    root: Path
    folder: Path

    @property
    def voices(self) -> list[FloatArray]:
        """Sounds that babble is made of."""
        return [item.clip.sound for item in self.groups.train if item.clip.dataset == "clips"][:VOICES]

    def lips(self) -> dict[str, Any]:
        line = fit_loudness(self.groups.train, self.runs[0].measures)
        tables = {}
        for name, group in self.groups.lips.items():
            tables[name] = lip_table(self.runs, self.others, group, line) | {"tracker": split_half(self._shapes(group))}
        tables["unseen presenters, Arabic"] = lip_table(self.runs, self.others, self.groups.arabic, line, pooled=True)
        return tables

    def keypoints(self) -> dict[str, Any]:
        return {name: explained(face_model(), self._shapes(group)) for name, group in self.groups.lips.items()}

    def closing(self) -> dict[str, Any]:
        return closing(self.runs, self.groups.held_out, self.voices)

    def bilabials(self) -> dict[str, Any]:
        return bilabials(self.runs, self.groups.studio, self.groups.held_out, self.root)

    def robustness(self) -> dict[str, Any]:
        arabic = _one_presenter(self.groups.arabic)
        return robustness(self.runs, self.groups.held_out, arabic, self.voices, self.root)

    def seams(self) -> dict[str, Any]:
        return seams(self.runs, self.groups.held_out)

    def life(self) -> dict[str, Any]:
        natural = [*self.groups.train, *self.groups.lips["val"], *self.groups.held_out]
        return life_table(self.runs[0], natural)

    def rendered(self) -> dict[str, Any]:
        talker = open_talker()
        contact_sheet(talker, self.runs[0], self.groups.held_out[0], AVATAR, self.folder / "frames.jpg")
        photos = {"avatar": AVATAR, "older man with glasses": self.root / "portraits" / SECOND_PORTRAIT}
        return rendered(self.runs[0], talker, self.groups.held_out, photos)

    def _shapes(self, items: list[Item]) -> list[Shape]:
        names = {item.clip.name for item in items}
        return [shape for shape in self.shapes if shape.clip.name in names]


COMPARED = ("lips", "closing", "bilabials", "seams")  # parts measured on an earlier model too
PARTS = (*COMPARED, "keypoints", "robustness", "life", "rendered", "before")


def evaluate(
    shapes: list[Shape],
    folder: Path,
    checkpoints: Sequence[Path],
    root: Path,
    regression: Path | None = None,
    before: Path | None = None,
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """Tables and pictures; written to ``figures.json`` and PNG files beside the networks.

    `checkpoints`: the one that was exported to `folder`, then the same recipe's with other seeds. `regression`: a
    checkpoint of `kdtalker train regression`, left out where there is none. `before`: exported files of an earlier
    model, taken to hear everything as speech. `parts`: what of `PARTS` is measured; of the others the figures in the
    file are kept.
    """
    check_exported(folder, checkpoints[0])
    runs = [open_bench(folder), *(checkpoint_bench(path) for path in checkpoints[1:])]
    others = {"one step": checkpoint_bench(checkpoints[0], steps=1, **EXPECTATION)}
    measured: dict[str, Any] = {"training_seeds": len(runs), "noise_seeds": len(SEEDS)}
    if regression is not None and regression.is_file():
        others["regression"] = checkpoint_bench(regression, **EXPECTATION)
        measured["regression_steps"] = torch.load(regression, weights_only=True)["step"]
    subject = Subject(runs, others, groups_of(items_of(shapes)), shapes, root, folder)
    measured |= {part: getattr(subject, part)() for part in PARTS if part in parts and part != "before"}
    if "before" in parts and before is not None:
        earlier = replace(subject, runs=[replace(open_bench(before), understanding=Understanding())], others={})
        measured["before"] = {part: getattr(earlier, part)() for part in COMPARED}
    target = folder / "figures.json"
    kept = json.loads(target.read_text()) if target.is_file() else {}
    figures = {part: value for part, value in kept.items() if part in (*PARTS, "regression_steps")} | measured
    target.write_text(json.dumps(figures, indent=1) + "\n")
    _plots(runs[0], subject.groups.held_out, folder, checkpoints[0])
    return figures


def _one_presenter(items: list[Item], clips: int = 6) -> list[Item]:
    """The first clips of the presenter who has most of them."""
    people = [item.clip.person for item in items]
    most = max(dict.fromkeys(people), key=people.count)
    return [item for item in items if item.clip.person == most][:clips]


def _plots(bench: Bench, items: list[Item], folder: Path, checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    plot_training(saved["history"], saved["step"], folder / "training.png")
    made = bench.generate(items, SEEDS[0])
    curves = [
        (item.clip.name, item.clip.sound, lip_curves(item.motion, bench.measures), lip_curves(motion, bench.measures))
        for item, motion in zip(items, made, strict=True)
    ]
    plot_lips(curves, folder / "lips.png")


def seams(runs: Sequence[Bench], items: list[Item]) -> dict[str, float | None]:
    """Jump and second difference of the mouth at hop borders, as shares of those elsewhere."""
    curves = [motion @ bench.measures for bench in runs for seed in SEEDS for motion in bench.generate(items, seed)]
    hop = runs[0].sampler.plan.new
    return {"jump": border_ratio(curves, hop, 1), "second_difference": border_ratio(curves, hop, 2)}
