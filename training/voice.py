"""Fits the tables that say whether somebody speaks (`engines.voice`) on speech, other sounds and silences in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from training.corpus import Item
from training.recurrent import Listener, side_by_side
from training.scenes import OTHER, SPEECH, UNSURE, Scenes


@dataclass(frozen=True, slots=True)
class VoiceRecipe:
    """Everything that decides a fit."""

    features: int = 256
    state: int = 160
    steps: int = 7000
    sequences: int = 24
    rate: float = 2e-3
    changes: float = 3.0  # weight of the ticks that follow a change
    sounds: int = 250  # of every kind that is no speech
    fits: int = 2  # whose mean is the answer
    seed: int = 0


CHANGE = 8  # ticks


def changing(kinds: Tensor) -> Tensor:
    """1 in the ticks after speech begins or ends, else 0, of kinds (B, T): there an answer that is late is seen."""
    changed = F.pad((kinds[:, 1:] != kinds[:, :-1]).float(), (CHANGE, 0))
    return F.max_pool1d(changed, CHANGE, stride=1)


def fit_voice(items: list[Item], path: Path, recipe: VoiceRecipe | None = None) -> dict[str, float]:
    """Fit, write the tables to `path`; shares of speech heard and of other sounds passed over, on validation clips.

    What one fit takes for speech another may not, so that the mean of two serves voices that neither has heard.
    """
    recipe = recipe or VoiceRecipe()
    train = [item for item in items if item.clip.split == "train"]
    fits = [_fit(Scenes(train, recipe.seed + number, recipe.sounds), recipe, number) for number in range(recipe.fits)]
    network = side_by_side([fit.tables() for fit in fits])
    network.save(path)
    unseen = Scenes([item for item in items if item.clip.split == "val"], recipe.seed + recipe.fits, sounds=20)
    windows, kinds = unseen.draw(100)
    heard = np.stack([network.advance(scene, network.begin())[0] for scene in windows])
    return {
        "speech_heard": round(float((heard[kinds == SPEECH] > 0.5).mean()), 4),
        "others_passed_over": round(float((heard[kinds == OTHER] < 0.5).mean()), 4),
    }


def _fit(scenes: Scenes, recipe: VoiceRecipe, number: int) -> Listener:
    torch.manual_seed(recipe.seed + number)
    network = Listener(recipe.features, recipe.state)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for _ in track(range(recipe.steps), f"voice, {number + 1} of {recipe.fits}"):
        windows, kinds = (torch.from_numpy(array) for array in scenes.draw(recipe.sequences))
        loss = F.binary_cross_entropy_with_logits(network(windows), kinds.clamp(min=0).float(), reduction="none")
        weight = (kinds != UNSURE) * (1 + (recipe.changes - 1) * changing(kinds))
        loss = (weight * loss).sum() / weight.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()
