"""Fits the tables that say whether somebody speaks (`engines.voice`) on speech, other sounds and silences in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch.nn import functional as F

from engines.audio import BANDS
from engines.types import FloatArray
from training.batches import COLUMNS_PER_FRAME, WINDOW, amplitude, from_amplitude
from training.corpus import Item
from training.recurrent import Listener
from training.sounds import amplitude_bank

TICKS = 60
COLUMNS = int(np.ceil(COLUMNS_PER_FRAME * TICKS)) + WINDOW.columns
NOW = slice(13, 18)  # columns of a window that sound while its frame is shown
AUDIBLE = 10 ** (-25 / 20)  # of a clip's loud moments: from there on it is speech that moves lips
SPEECH, OTHER, UNSURE = 1, 0, -1


@dataclass(frozen=True, slots=True)
class VoiceRecipe:
    """Everything that decides a fit."""

    features: int = 96
    state: int = 64
    steps: int = 2500
    sequences: int = 24
    rate: float = 2e-3
    seed: int = 0


class Scenes:
    """Endless scenes in which people speak, fall silent, breathe, and music plays. A pure function of the seed."""

    def __init__(self, items: list[Item], seed: int) -> None:
        self._rng = np.random.default_rng([seed, 0x501CE])
        self._speech = [amplitude(item.mel) for item in items if len(item.mel) > 40]
        self._others = amplitude_bank(seed, each=120)
        self._chance = np.array([len(speech) for speech in self._speech], np.float64) ** 0.5
        self._chance /= self._chance.sum()

    def draw(self, count: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Windows f32 (B, T, 80, K), and what each frame is, (B, T)."""
        scenes = [self._scene() for _ in range(count)]
        return np.stack([scene[0] for scene in scenes]), np.stack([scene[1] for scene in scenes])

    def _scene(self) -> tuple[FloatArray, NDArray[np.int64]]:
        rng = self._rng
        sound = np.zeros((COLUMNS, BANDS), np.float32)
        kinds = np.full(COLUMNS, OTHER)
        at, speaks = 0, bool(rng.random() < 0.5)
        gain = 10 ** (rng.uniform(-22, 10) / 20)
        while at < COLUMNS:
            length = min(int(rng.uniform(25, 220)), COLUMNS - at)
            part = slice(at, at + length)
            if speaks:
                spoken = self._speech[rng.choice(len(self._speech), p=self._chance)]
                length = min(length, len(spoken))
                first = int(rng.integers(len(spoken) - length + 1))
                part = slice(at, at + length)
                sound[part] = gain * spoken[first : first + length] / max(float(np.quantile(_level(spoken), 0.9)), 1e-4)
                loud = _level(spoken)
                audible = loud[first : first + length] > AUDIBLE * np.quantile(loud, 0.95)
                kinds[part] = np.where(audible, SPEECH, UNSURE)
            elif rng.random() < 0.7:
                sound[part] = gain * self._other(length)
            at, speaks = at + length, not speaks
        if rng.random() < 0.25:  # music or keys behind everything
            sound = sound + 0.4 * gain * self._other(COLUMNS)
        bands = np.arange(BANDS)
        tilt = 10 ** (rng.normal(0, 5) * (bands / 40 - 1) / 20)
        colour = 10 ** (rng.normal(0, 8) * (bands / 40 - 1) / 20)
        hum = rng.random() < 0.2
        colour = colour + hum * 10 ** (rng.uniform(0, 1.2)) * np.exp(-0.5 * ((bands - rng.uniform(0, 6)) / 1.5) ** 2)
        floor = gain * 10 ** (-rng.uniform(8, 60) / 20) * colour / np.sqrt((colour**2).mean())
        flutter = 10 ** (rng.normal(0, rng.uniform(0.5, 3), sound.shape) / 20)
        mel = from_amplitude(0.05 * np.sqrt((sound * tilt) ** 2 + (floor * flutter) ** 2))
        starts = np.array([WINDOW.start(frame) for frame in range(TICKS)]) - WINDOW.start(0)
        index = starts[:, None] + np.arange(WINDOW.columns)
        seen = kinds[index[:, NOW]]
        frames = np.where((seen == SPEECH).any(1), SPEECH, np.where((seen == OTHER).all(1), OTHER, UNSURE))
        return np.ascontiguousarray(np.swapaxes(mel[index], 1, 2), np.float32), frames

    def _other(self, columns: int) -> FloatArray:
        choice = self._others[int(self._rng.integers(len(self._others)))]
        index = (int(self._rng.integers(len(choice))) + np.arange(columns)) % len(choice)
        return np.asarray(10 ** (self._rng.uniform(-35, 6) / 20) * choice[index], np.float32)


def _level(sound: FloatArray) -> FloatArray:
    """Root mean square of every column, (columns, 80) -> (columns,)."""
    return np.asarray(np.sqrt((sound**2).mean(1)), np.float32)


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
    unseen = Scenes([item for item in items if item.clip.split == "val"], recipe.seed + 1)
    windows, kinds = (torch.from_numpy(array) for array in unseen.draw(200))
    with torch.inference_mode():
        heard = torch.sigmoid(network(windows))
    return {
        "speech_heard": round(float((heard[kinds == SPEECH] > 0.5).float().mean()), 4),
        "others_passed_over": round(float((heard[kinds == OTHER] < 0.5).float().mean()), 4),
    }
