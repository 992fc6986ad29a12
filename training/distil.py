"""Learning from what several trained networks answer on average (knowledge distillation, arXiv 1503.02531).

Networks that differ in their seed err differently, and their mean errs less than most of them. A trained network learns
it here, so that a call costs no more. Where a stretch of sound was made silent, closed lips are learned instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from engines.face_mesh import FaceModel, face_model
from engines.networks.denoiser import DenoiserConfig
from training.batches import Batches
from training.bench import digest_of
from training.corpus import Item
from training.loop import Run, learn, products
from training.team import ALONE
from training.train import Checkpoint, Chooser, Noised, Objective, Recipe, load_model

SHARE = 0.8  # of the teachers' answer in what is learned; the rest is what was tracked
STUDENT = Recipe(steps=2000, rate=6e-4, warm_up=50, ema=0.997)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Batches of `recipe` in `folder`, one file each, with what the `teachers`' checkpoints answer on average.

    Every student learns from the same ones, in an order of its own.
    """

    folder: Path
    teachers: tuple[Path, ...]
    count: int = 2000
    recipe: Recipe = field(default_factory=lambda: Recipe(seed=777))

    def write(self, items: list[Item], mirror: np.ndarray[Any, Any], face: FaceModel) -> None:
        """Make those that do not exist yet, from training clips."""
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.recipe
        batches = Batches(items, face, mirror, recipe.seed, recipe.mix, recipe.silences)
        objective = Objective(face, items, recipe)
        models = [load_model(path)[0] for path in self.teachers]
        for number in track(range(self.count), "lessons"):
            path = self._path(number)
            if path.is_file():
                continue
            seed = np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0].item()
            noised = objective.noised(batches.draw(recipe.frames, number), seed)
            with torch.inference_mode(), products(ALONE.device, recipe.half):
                answer = torch.stack([noised.ask(model) for model in models]).mean(0)
            partial = path.with_suffix(".partial")
            torch.save({part.name: getattr(noised, part.name) for part in fields(Noised)} | {"v": answer}, partial)
            partial.replace(path)

    def read(self, number: int) -> Noised:
        """A batch as a student learns it."""
        saved: dict[str, Tensor] = torch.load(self._path(number), weights_only=True)
        answer = saved.pop("v")
        noised = Noised(**saved)
        share = torch.where(noised.silenced, 0.0, SHARE)[:, None, None]
        return noised.answered(share * answer + (1 - share) * noised.v)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.pt"


class DistilTask:
    """What `learn` needs to know of a student."""

    def __init__(self, recipe: Recipe, items: list[Item], lessons: Lessons, face: FaceModel) -> None:
        self._recipe, self._lessons = recipe, lessons
        self._objective = Objective(face, [item for item in items if item.clip.split == "train"], recipe)
        self._choose = Chooser([item for item in items if item.clip.split == "val"], face, recipe)

    def loss(self, model: nn.Module, step: int, part: int) -> tuple[Tensor, dict[str, float]]:
        turn, place = divmod(step - 1, self._lessons.count)
        order = np.random.default_rng([self._recipe.seed, turn]).permutation(self._lessons.count)
        return self._objective.answering(model, self._lessons.read(int(order[place])))

    def check(self, smooth: nn.Module) -> dict[str, float]:
        return self._choose(smooth)


def distil(
    student: Path, lessons: Lessons, items: list[Item], mirror: np.ndarray[Any, Any], recipe: Recipe, path: Path
) -> Checkpoint:
    """Teach a trained student; saves what scored best on the validation clips to `path`."""
    face = face_model()
    lessons.write([item for item in items if item.clip.split == "train"], mirror, face)
    model, saved = load_model(student)
    network = DenoiserConfig(**saved["recipe"]["network"])
    recipe = replace(recipe, network=network, taught=tuple(digest_of(teacher) for teacher in lessons.teachers))

    def checkpoint(run: Run) -> Checkpoint:
        return Checkpoint(recipe, run.best, run.best_step, [*saved["history"], *run.history])

    task = DistilTask(recipe, items, lessons, face)
    return checkpoint(learn(model, task, recipe, keep=lambda run: checkpoint(run).save(path)))
