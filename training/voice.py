"""Fits the tables that say whether somebody speaks (`engines.voice`) on speech, other sounds and silences in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch.nn import functional as F

from training.corpus import Item
from training.recurrent import Listener
from training.scenes import OTHER, SPEECH, UNSURE, Scenes


@dataclass(frozen=True, slots=True)
class VoiceRecipe:
    """Everything that decides a fit."""

    features: int = 128
    state: int = 96
    steps: int = 1500
    sequences: int = 24
    rate: float = 2e-3
    seed: int = 0


def fit_voice(items: list[Item], path: Path, recipe: VoiceRecipe | None = None) -> dict[str, float]:
    """Fit, write the tables to `path`; shares of speech heard and of other sounds passed over, on validation clips."""
    recipe = recipe or VoiceRecipe()
    torch.manual_seed(recipe.seed)
    scenes = Scenes([item for item in items if item.clip.split == "train"], recipe.seed)
    network = Listener(recipe.features, recipe.state)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for _ in track(range(recipe.steps), "voice"):
        windows, kinds = (torch.from_numpy(array) for array in scenes.draw(recipe.sequences))
        loss = F.binary_cross_entropy_with_logits(network(windows), kinds.clamp(min=0).float(), reduction="none")
        loss = loss[kinds != UNSURE].mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    network.tables().save(path)
    unseen = Scenes([item for item in items if item.clip.split == "val"], recipe.seed + 1, sounds=20)
    windows, kinds = (torch.from_numpy(array) for array in unseen.draw(200))
    with torch.inference_mode():
        heard = torch.sigmoid(network(windows))
    return {
        "speech_heard": round(float((heard[kinds == SPEECH] > 0.5).float().mean()), 4),
        "others_passed_over": round(float((heard[kinds == OTHER] < 0.5).float().mean()), 4),
    }
