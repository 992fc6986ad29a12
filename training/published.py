"""KDTalker's own denoiser, trained on films: 6 layers 768 wide, noise prediction, linear betas, 64 frames.

Motion and canonical keypoints come from LivePortrait's motion extractor, sound from Wav2Lip's encoder; both stay as
they are. The objective is the one the published sampler inverts (arXiv 2503.12963, section 3.3; Ho et al., arXiv
2006.11239, eq. 14): the mean squared error of the noise in all 70 numbers, at diffusion steps drawn evenly, given
the canonical token, the frame before the window and the sound of its frames. Learning rate and batch are ours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from engines.cache import cache_folder
from engines.motion import Normalisation
from engines.networks.checkpoints import DENOISER, NORM_CANONICAL, NORM_FILE, NORM_PARTS
from engines.networks.ddim import PREFIX, TRAINING_STEPS, signal_shares
from engines.networks.denoiser import PUBLISHED, Denoiser, DenoiserConfig
from engines.published.weights_files import FILES, NORM, WeightsFolder, find_in, open_model, weights_folder
from engines.types import FloatArray
from training.gathering import Film
from training.loop import Plan, Run, learn, products
from training.performances import FRAMES, Performance, performances, statistics
from training.team import Team
from training.tracks import Clip
from training.videos import TrackCache

LEVELS = (100, 300, 500, 700, 900)  # diffusion steps that are validated


@dataclass(frozen=True, slots=True)
class NoiseRecipe(Plan):
    """Everything that decides a training run; `windows`: in a batch."""

    network: DenoiserConfig = PUBLISHED
    windows: int = 16
    half: bool = False  # bfloat16 products


# --------------------------------------------------------------------------- the objective


@dataclass(frozen=True, slots=True)
class Windows:
    """B windows on one device: `tokens` (B, 2, 70), `sound` (B, 64, 512), `motion` (B, 64, 70), normalised."""

    tokens: Tensor
    sound: Tensor
    motion: Tensor


class NoiseTask:
    """Noise prediction on random windows; validation on fixed windows, steps and noise."""

    def __init__(
        self, recipe: NoiseRecipe, made: list[Performance], normalisation: Normalisation, device: torch.device
    ) -> None:
        self._recipe, self._device = recipe, device
        self._shares = signal_shares("linear").to(device)
        self._clips: dict[str, list[tuple[FloatArray, FloatArray, FloatArray]]] = {"train": [], "val": []}
        for one in made:
            kp = one.canonical.reshape(-1, 3)
            rows = normalisation.normalise(one.motion), normalisation.canonical_token(kp), one.feature
            self._clips[one.split].append(rows)

    def windows(self, part: str, rng: np.random.Generator, count: int) -> Windows:
        """`count` windows of the clips of ``train`` or ``val``, long clips more often than short ones."""
        clips = self._clips[part]
        rooms = np.array([len(motion) - FRAMES for motion, _, _ in clips], np.float64)
        tokens, sound, motion = [], [], []
        for pick in rng.choice(len(clips), count, p=rooms / rooms.sum()):
            frames, canonical, feature = clips[pick]
            first = int(rng.integers(1, len(frames) - FRAMES + 1))
            tokens.append(np.stack([canonical, frames[first - 1]]))
            sound.append(feature[first : first + FRAMES])
            motion.append(frames[first : first + FRAMES])
        return Windows(*(self._put(np.stack(rows)) for rows in (tokens, sound, motion)))

    def _put(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(self._device)

    def error(self, model: nn.Module, windows: Windows, time: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the predicted noise, per window (B,); `time` i64 (B,), `noise` (B, 64, 70)."""
        share = self._shares[time][:, None, None]
        noisy = share.sqrt() * windows.motion + (1 - share).sqrt() * noise
        context = torch.cat([torch.zeros_like(windows.sound[:, :PREFIX]), windows.sound], 1)
        with products(self._device, self._recipe.half):
            predicted = model(torch.cat([windows.tokens, noisy], 1), context, time)[:, PREFIX:].float()
        return (predicted - noise).square().mean((1, 2))

    def loss(self, model: nn.Module, step: int, part: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self._recipe.seed, step, part])
        windows = self.windows("train", rng, self._recipe.windows)
        time = torch.from_numpy(rng.integers(TRAINING_STEPS, size=self._recipe.windows)).to(self._device)
        noise = self._put(rng.standard_normal(windows.motion.shape, np.float32))
        return self.error(model, windows, time, noise).mean(), {}

    @torch.no_grad()
    def check(self, smooth: nn.Module) -> dict[str, float]:
        """Error of the noise in validation clips, at every level, and with the sound of another window."""
        rng = np.random.default_rng(0)
        windows = self.windows("val", rng, 8)
        foreign = replace(windows, sound=windows.sound.roll(1, 0))
        figures, other = {}, []
        for level in LEVELS:
            noise = self._put(rng.standard_normal(windows.motion.shape, np.float32))
            time = torch.full((len(windows.motion),), level, device=self._device)
            figures[f"error.{level}"] = round(float(self.error(smooth, windows, time, noise).mean()), 5)
            other.append(float(self.error(smooth, foreign, time, noise).mean()))
        mean = float(np.mean(list(figures.values())))
        return figures | {"val": round(mean, 5), "foreign sound": round(float(np.mean(other)), 5), "score": -mean}


# --------------------------------------------------------------------------- files


def save_denoiser(state: dict[str, Tensor], path: Path) -> None:
    """Weights in the published layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"model": {f"{DENOISER.prefix}{name}": value for name, value in state.items()}}, partial)
    partial.replace(path)


def save_normalisation(normalisation: Normalisation, path: Path) -> None:
    """Statistics by their published names."""
    arrays: dict[str, FloatArray] = {}
    for parts, mean, std in (
        (NORM_PARTS, normalisation.mean, normalisation.std),
        (NORM_CANONICAL, normalisation.canonical_mean, normalisation.canonical_std),
    ):
        first = 0
        for name, width in parts.items():
            arrays[f"{name}_mean"], arrays[f"{name}_std"] = mean[first : first + width], std[first : first + width]
            first += width
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: value.astype(np.float32) for name, value in arrays.items()})


def _others(weights: str | None) -> dict[str, Path]:
    """The published files beside the denoiser, by name."""
    if weights is None:
        return WeightsFolder(weights_folder(cache_folder())).checked()
    return {} if weights.startswith("random:") else find_in([Path(weights)])


def _plot(run: Run, path: Path) -> None:
    steps = [entry["step"] for entry in run.history]
    figure, axis = plt.subplots(figsize=(5, 3), constrained_layout=True)
    for key, label in (("loss", "training"), ("val", "validation"), ("foreign sound", "validation, foreign sound")):
        axis.plot(steps, [entry[key] for entry in run.history], label=label)
    axis.axvline(run.best_step, color="#9aa5b1", linestyle=":")
    axis.set(title="squared error of the noise", xlabel="step", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def train_noise(
    recipe: NoiseRecipe,
    made: list[Performance],
    normalisation: Normalisation,
    out: Path,
    *,
    begin: dict[str, Tensor] | None = None,
    team: Team,
    resume: bool = False,
) -> Run:
    """Train the denoiser, from `begin` or from random weights; the best weights are kept in `out`, published layout."""
    torch.manual_seed(recipe.seed)
    model = Denoiser(recipe.network)
    if begin is not None:
        model.load_state_dict(begin)
    return learn(
        model,
        NoiseTask(recipe, made, normalisation, team.device),
        recipe,
        keep=lambda run: save_denoiser(run.best, out / "ckpts" / "KDTalker.pth"),
        state=out / "training.state.pt",
        resume=resume,
        team=team,
    )


def train_published(
    found: list[Film], clips: list[Clip], options: argparse.Namespace, team: Team, console: Console
) -> None:
    """Motion, statistics, denoiser and curves of the published profile in ``options.out``, laid out as it is published.

    With published weights training goes on from them and keeps their statistics; with random ones (or ``--scratch``)
    it begins at nothing, with the statistics of the clips.
    """
    out: Path = options.out
    others = _others(options.weights)
    model = open_model(options.weights, cache_folder(), str(team.device))
    made = performances(found, clips, TrackCache(cache_folder()), model, team)
    scratch = options.scratch or not others
    normalisation = statistics(made) if scratch else model.normalisation
    begin = None if scratch else {name: value.cpu() for name, value in model.denoiser.state_dict().items()}
    recipe = NoiseRecipe(
        steps=options.steps, rate=1e-4, check_every=options.check_every, patience=options.patience, seed=options.seed,
        parts=options.batches or team.size, windows=max(1, options.frames // FRAMES), half=team.device.type == "cuda",
    )  # fmt: skip
    run = train_noise(recipe, made, normalisation, out, begin=begin, team=team, resume=options.resume)
    if not team.leads:
        return
    save_normalisation(normalisation, out / NORM.places[0])
    _plot(run, out / "training.png")
    console.print(f"chose step {run.best_step} of {run.step}: {run.history[-1]}")
    for file in FILES:
        if file.name in others and file.name not in (DENOISER.file, NORM_FILE):
            WeightsFolder(out).add(file, others[file.name], f"taken over for {out}")
    if others:
        console.print(f"Try it: kdtalker render PHOTO SPEECH -o OUT.mp4 --profile kdtalker --weights {out}")
        console.print(f"As ONNX: kdtalker export --profile kdtalker --weights {out} --out DIR")
    else:
        console.print(f"{out} holds the denoiser and its statistics; the other networks were random and are not kept.")
