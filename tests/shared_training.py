"""Trains a small denoiser in as many processes as torchrun started: `python -m torch.distributed.run ... FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from engines.networks.denoiser import Denoiser
from tests.test_train_published import SMALL, performances
from training.loop import learn
from training.published import NoiseRecipe, NoiseTask, statistics
from training.team import open_team


def main(folder: Path) -> None:
    recipe = NoiseRecipe(network=SMALL, steps=6, rate=3e-3, warm_up=2, check_every=3, windows=4, parts=2)
    with open_team("cpu") as team:
        made = performances()
        torch.manual_seed(team.rank)  # processes must agree although they began apart
        model = Denoiser(SMALL)
        task = NoiseTask(recipe, made, statistics(made), team.device)
        run = learn(model, task, recipe, keep=lambda run: None, team=team)
        torch.save({"model": model.state_dict(), "history": run.history}, folder / f"{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
