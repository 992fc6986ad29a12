"""Trains a small model in as many processes as torchrun started: `python -m torch.distributed.run ... FOLDER PARTS`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from engines.face_mesh import face_model
from tests.test_training import RECIPE, talking_items
from training.loop import learn
from training.shapes import mirror_of
from training.team import open_team
from training.train import MotionModel, MotionTask


def main(folder: Path, parts: int) -> None:
    face, recipe = face_model(), replace(RECIPE, steps=6, check_every=3, frames=60, parts=parts)
    with open_team("cpu") as team:
        torch.manual_seed(team.rank)  # processes must agree although they began apart
        task = MotionTask(recipe, talking_items(), mirror_of(face.template), face, team)
        model = MotionModel(recipe.network)
        if team.size == 1:
            torch.manual_seed(0)
        run = learn(model, task, recipe, keep=lambda run: None, team=team)
        torch.save({"model": model.state_dict(), "history": run.history}, folder / f"{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
