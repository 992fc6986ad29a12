"""KDTalker's own denoiser, trained on films: 6 layers 768 wide, noise prediction, linear betas, 64 frames.

Motion and canonical keypoints come from LivePortrait's motion extractor, sound from Wav2Lip's encoder; both stay as
they are. The objective is the one the published sampler inverts (arXiv 2503.12963, section 3.3; Ho et al., arXiv
2006.11239, eq. 14): the mean squared error of the noise in all 70 numbers, at diffusion steps drawn evenly, given
the canonical token, the frame before the window and the sound of its frames. Learning rate and batch are ours.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as tracked
from torch import Tensor, nn

from engines.audio import log_mel, mel_windows
from engines.cache import cache_folder
from engines.motion import Normalisation
from engines.networks.checkpoints import DENOISER, NORM_CANONICAL, NORM_FILE, NORM_PARTS
from engines.networks.ddim import PREFIX, TRAINING_STEPS, signal_shares
from engines.networks.denoiser import PUBLISHED, Denoiser, DenoiserConfig
from engines.networks.model import PublishedModel
from engines.profile import KDTALKER
from engines.published.cropping import NETWORK_SIDE, cut_face, face_box, mesh_features
from engines.published.weights_files import FILES, NORM, WeightsFolder, find_in, open_model, weights_folder
from engines.types import FPS, MOTION_WIDTH, ByteArray, FloatArray, KDTalkerError
from training.gathering import Film
from training.loop import Plan, Run, learn, products
from training.offset import kept_frames
from training.team import Team
from training.tracks import Clip
from training.videos import TrackCache, pictures

FRAMES = 64  # of a window, as published
BATCH = 16  # pictures that the motion extractor reads at once
LEVELS = (100, 300, 500, 700, 900)  # diffusion steps that are validated
STILL = 1e-6  # a number with less deviation carries nothing; its deviation becomes 1, as that of t_z is


@dataclass(frozen=True, slots=True)
class NoiseRecipe(Plan):
    """Everything that decides a training run; `windows`: in a batch."""

    network: DenoiserConfig = PUBLISHED
    windows: int = 16
    half: bool = False  # bfloat16 products


@dataclass(frozen=True, slots=True)
class Performance:
    """One clip as the published denoiser sees it, in physical units at 25 frames a second.

    `motion` f32 (T, 70); `canonical` f32 (63,) of its first frame; `feature` f32 (T, 512).
    """

    name: str
    split: str
    motion: FloatArray
    canonical: FloatArray
    feature: FloatArray


# --------------------------------------------------------------------------- from films to motion


def _crops(path: Path, mesh: FloatArray) -> Iterator[tuple[float, ByteArray]]:
    """Time and face u8 (256, 256, 3) of every frame, cut by one box, so that the head's own motion stays in it."""
    box = None
    for time, picture in pictures(path):
        if box is None:
            box = face_box(mesh_features(np.median(mesh, axis=0)), picture.shape[1], picture.shape[0])
        face = cut_face(picture, box)
        yield time, np.asarray(cv2.resize(face, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


@torch.inference_mode()
def _read(model: PublishedModel, faces: list[ByteArray]) -> FloatArray:
    """Motion and canonical keypoints (N, 70 + 63) of pictures."""
    pixels = torch.from_numpy(np.stack(faces)).to(model.device).permute(0, 3, 1, 2).float() / 255
    heads = model.motion_extractor(pixels)
    return np.asarray(torch.cat([heads.motion(), heads.kp], 1).cpu().numpy(), np.float32)


@torch.inference_mode()
def _encode(model: PublishedModel, windows: FloatArray) -> FloatArray:
    """Mel windows (T, 80, 16) -> features (T, 512)."""
    parts = torch.from_numpy(windows).split(256)
    return np.asarray(torch.cat([model.audio_encoder(part.to(model.device)).cpu() for part in parts]).numpy())


def extract(path: Path, mesh: FloatArray, start: float, model: PublishedModel) -> FloatArray:
    """Motion and canonical keypoints (T, 133) on the ticks of the film's track, which begins at `start` seconds."""
    times, rows, waiting = [], [], []
    for time, face in _crops(path, mesh):
        times.append(time)
        waiting.append(face)
        if len(waiting) == BATCH:
            rows.append(_read(model, waiting))
            waiting = []
    if waiting:
        rows.append(_read(model, waiting))
    native, seconds = np.concatenate(rows), np.array(times) - times[0]
    ticks = start + np.arange(len(mesh)) / FPS
    return np.stack([np.interp(ticks, seconds, native[:, k]) for k in range(native.shape[1])], 1).astype(np.float32)


def fingerprint(model: PublishedModel) -> str:
    """Name of the motion extractor's weights."""
    digest = hashlib.sha256()
    for value in model.motion_extractor.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _motion(film: Film, cache: TrackCache, model: PublishedModel, name: str) -> FloatArray:
    base = cache.base(film.path)
    path = base.with_name(f"{base.name}-motion-{name}.npy")
    assert film.track is not None
    if not path.is_file():
        np.save(path, extract(film.path, film.track.mesh, film.track.start, model))
    return np.asarray(np.load(path), np.float32)


def performances(
    found: list[Film], clips: list[Clip], cache: TrackCache, model: PublishedModel, team: Team
) -> list[Performance]:
    """Motion and sound features of every clip that is long enough for a window."""
    name, used = fingerprint(model), [film for film in found if film.clip is not None]
    mine = [used[index] for index in team.share(len(used))]
    for film in tracked(mine, "reading motion", disable=not team.leads):
        _motion(film, cache, model, name)
    team.wait()
    whole: dict[tuple[str, str], FloatArray] = {}
    for film in used:
        assert film.offset is not None
        rows = _motion(film, cache, model, name)
        whole[film.person, film.path.stem] = rows[kept_frames(len(rows), film.offset)[0]]
    made, begun = [], dict.fromkeys(whole, 0)
    for clip in clips:  # in order, so that the pieces of a clip that was cut get theirs
        key = clip.person, clip.name.partition(", ")[0]
        rows = whole[key][begun[key] : begun[key] + len(clip.mesh)]
        begun[key] += len(rows)
        if len(rows) > FRAMES:
            windows = mel_windows(log_mel(clip.sound), KDTALKER.mel, len(rows))
            feature = _encode(model, windows)
            made.append(Performance(clip.name, clip.split, rows[:, :MOTION_WIDTH], rows[0, MOTION_WIDTH:], feature))
    if {one.split for one in made} != {"train", "val"}:
        raise KDTalkerError(
            f"The published denoiser learns windows of {FRAMES} frames: clips of 3 s and more are needed, for learning "
            "and for choosing."
        )
    return made


def statistics(made: list[Performance]) -> Normalisation:
    """Mean and deviation of the training clips."""
    train = [one for one in made if one.split == "train"]
    motion, canonical = np.concatenate([one.motion for one in train]), np.stack([one.canonical for one in train])

    def deviation(values: FloatArray, least: float) -> FloatArray:
        spread = values.std(0)
        return np.where(spread < least, 1, spread).astype(np.float32)

    # Few people span few canonical keypoints: with one, all of the token would be zero over zero.
    return Normalisation(motion.mean(0), deviation(motion, STILL), canonical.mean(0), deviation(canonical, 1e-3))


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
