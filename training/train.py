"""Training of the windowed denoiser with its audio encoder.

v-prediction on a cosine schedule; windows of random length whose beginning is context (none, clean or
noised at a level of its own); lip errors weigh extra, because numbers that a viewer reads are few.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engines.face_mesh import FaceModel, face_model
from engines.networks.audio_features import AudioFeatures
from engines.networks.ddim import PREFIX, TRAINING_STEPS, Ddim, DdimConfig, signal_shares
from engines.networks.denoiser import Denoiser, DenoiserConfig
from engines.profile import AS_MADE, EMBEDDED, Parts
from engines.talkers import sampler_of
from training.batches import SILENCES, Batch, Batches
from training.corpus import Item, measuring_matrix, mouth_numbers
from training.generate import TorchWindow, features_of, silent_feature, stream, torch_encoder
from training.loop import Plan, Run, learn, products, weights_of
from training.metrics import lip_curves, lip_score
from training.team import ALONE, Team

NETWORK = DenoiserConfig(
    width=160, layers=4, heads=4, time_width=64, audio_width=128, rotary=8, dropout=0.1, time_per_token=True
)
SAMPLING = DdimConfig(steps=2, schedule="cosine", prediction="v", spacing="trailing", context_time=500, guided=True)
HEAD_CONTEXT = 100  # diffusion step at which all but the lips of committed frames is shown, at most


@dataclass(frozen=True, slots=True)
class Recipe(Plan):
    """Everything that decides a training run."""

    network: DenoiserConfig = NETWORK
    sampling: DdimConfig = SAMPLING
    mix: dict[str, float] = field(default_factory=lambda: {"grid_s1": 0.20, "lrcar": 0.55, "clips": 0.25})
    frames: int = 860  # in a batch
    silences: float = SILENCES  # share of windows with a stretch in which nobody speaks
    deaf: float = 0.12  # share of windows without sound, for guidance
    lips: tuple[float, float, float] = (1.0, 1.25, 1.0)  # opening, width, jaw
    velocity: float = 0.5
    half: bool = True  # bfloat16 products
    guidance: tuple[float, float] = (2.1, 1.0)  # (mouth, rest), for choosing checkpoints
    temperature: tuple[float, float] = (0.3, 1.0)
    regression: bool = False  # answer at once, from nothing: no noise, the last diffusion step alone
    taught: tuple[str, ...] = ()  # SHA-256 of the checkpoints whose mean answer was learned; see training/distil.py


def context_shares(face: FaceModel, time: int) -> Tensor:
    """Share of the signal in every number of a committed frame said to be at `time`, (70,)."""
    shares = signal_shares("cosine")
    return torch.where(torch.from_numpy(mouth_numbers(face)), shares[time], shares[min(time, HEAD_CONTEXT)])


class MotionModel(nn.Module):
    """Encoder and denoiser, trained together, exported apart."""

    def __init__(self, network: DenoiserConfig) -> None:
        super().__init__()
        self.encoder = AudioFeatures(width=network.audio_width)
        self.denoiser = Denoiser(network)

    def forward(
        self, mel: Tensor, starts: Tensor, tokens: Tensor, frames: Tensor, time: Tensor, heard: Tensor
    ) -> Tensor:
        """Predicted v (B, N, 70).

        `mel` (B, 80, K), `starts` (B, N), `tokens` (B, 2, 70), `frames` (B, N, 70), `time` (B, N), `heard` (B,).
        """
        sound = self.encoder.over(mel, starts) * heard[:, None, None]
        context = torch.cat([torch.zeros_like(sound[:, :PREFIX]), sound], 1)
        whole = torch.cat([torch.zeros_like(time[:, :PREFIX]), time], 1)
        predicted: Tensor = self.denoiser(torch.cat([tokens, frames], 1), context, whole)[:, PREFIX:]
        return predicted


@dataclass(frozen=True, slots=True)
class Noised:
    """What a network is asked, and what it should have answered: B windows of N frames.

    Asked (see `MotionModel.forward`): `mel`, `starts`, `tokens`, `frames` (noisy), `time`, `heard`. Wanted: `motion`
    (B, N, 70) and `noise`, of which `share` (B, N, 70) of the signal is left in `frames`; `given` bool (B, N): shown,
    not asked. `pose` (B,): weight of head motion; `silenced` bool (B,): a stretch of the sound is no speech.
    """

    mel: Tensor
    starts: Tensor
    tokens: Tensor
    frames: Tensor
    time: Tensor
    heard: Tensor
    motion: Tensor
    noise: Tensor
    share: Tensor
    given: Tensor
    pose: Tensor
    silenced: Tensor

    @property
    def v(self) -> Tensor:
        """The answer that is wanted (B, N, 70)."""
        return self.share.sqrt() * self.noise - (1 - self.share).sqrt() * self.motion

    def answered(self, v: Tensor) -> Noised:
        """The same question where another answer is wanted."""
        signal, rest = self.share.sqrt(), (1 - self.share).sqrt()
        return replace(self, motion=signal * self.frames - rest * v, noise=rest * self.frames + signal * v)

    def ask(self, model: nn.Module) -> Tensor:
        """The model's v (B, N, 70)."""
        answer: Tensor = model(self.mel, self.starts, self.tokens, self.frames, self.time, self.heard)
        return answer.float()


class Objective:
    """The loss of one batch; draws its own noise, on the CPU whatever the device, so that all devices see the same."""

    def __init__(self, face: FaceModel, items: list[Item], recipe: Recipe, device: torch.device = ALONE.device) -> None:
        self.recipe, self.device = recipe, device
        self.shares = signal_shares("cosine").to(device)
        self.rest = self._put(face.rest())
        measures = measuring_matrix(face)
        spread = np.concatenate([item.motion @ measures for item in items]).std(0)
        self.measures = self._put(measures / spread)
        self.lips = torch.tensor(recipe.lips, device=device)
        self.mouth = self._put(mouth_numbers(face))
        self.noise = torch.Generator()

    def _put(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.noise).to(self.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.noise).to(self.device)

    def __call__(self, model: nn.Module, batch: Batch, seed: int = 0) -> tuple[Tensor, dict[str, float]]:
        """Loss and its parts; all noise is a function of `seed`."""
        return self.answering(model, self.noised(batch, seed))

    def answering(self, model: nn.Module, noised: Noised) -> tuple[Tensor, dict[str, float]]:
        """Loss of what the model answers, and its parts."""
        with products(self.device, self.recipe.half):
            predicted = noised.ask(model)
        return self._errors(predicted, noised)

    def noised(self, batch: Batch, seed: int = 0) -> Noised:
        """A batch with its noise, a function of `seed`."""
        self.noise.manual_seed(seed)
        motion = self._put(batch.motion)
        count, length = motion.shape[:2]
        time = (self._uniform(count) ** 0.6 * TRAINING_STEPS).long().clamp(max=TRAINING_STEPS - 1)
        time[self._uniform(count) < (1.0 if self.recipe.regression else 0.05)] = TRAINING_STEPS - 1
        prefix = (1 + self._uniform(count) * (length - 2)).long()
        prefix[self._uniform(count) < 0.15] = 0
        shown = (self._uniform(count) * 800).long()
        shown[self._uniform(count) < 0.15] = 0
        given = torch.arange(length, device=self.device) < prefix[:, None]  # (B, N)
        times = torch.where(given, shown[:, None], time[:, None])
        head = torch.where(given, shown.clamp(max=HEAD_CONTEXT)[:, None], time[:, None])
        share = torch.where(self.mouth, self.shares[times][..., None], self.shares[head][..., None])
        noise = self._normal(*motion.shape)
        if self.recipe.regression:
            noise = noise * given[..., None]
        # What a call feeds back is never exact: context and reference are off by a little, together.
        off = 0.1 * self._normal(count, 1, motion.shape[2])
        fed = motion + off * given[..., None]
        noisy = share.sqrt() * fed + (1 - share).sqrt() * noise
        reference = self._put(batch.reference) + off[:, 0]
        photo = (prefix == 0) & (self._uniform(count) < 0.5)
        reference = torch.where(photo[:, None], self.rest, reference)
        tokens = torch.stack([self._put(batch.canonical), reference], 1)
        heard = (self._uniform(count) >= self.recipe.deaf).float()
        return Noised(
            mel=self._put(batch.mel),
            starts=self._put(batch.starts),
            tokens=tokens,
            frames=noisy,
            time=times.float(),
            heard=heard,
            motion=motion,
            noise=noise,
            share=share,
            given=given,
            pose=self._put(batch.pose_weight),
            silenced=self._put(batch.silenced),
        )

    def _errors(self, predicted: Tensor, noised: Noised) -> tuple[Tensor, dict[str, float]]:
        """Loss of an answer v (B, N, 70), and its parts."""
        motion, share, given = noised.motion, noised.share, noised.given
        weight = torch.ones_like(motion)
        weight[..., :7] = noised.pose[:, None, None]
        weight = weight * ~given[..., None]
        v = (weight * (predicted - noised.v) ** 2).sum() / weight.sum()
        clean = torch.where(given[..., None], motion, share.sqrt() * noised.frames - (1 - share).sqrt() * predicted)
        error = (clean - motion) @ self.measures
        new = (~given).sum() * error.shape[-1]
        lips = (error.square() * self.lips).sum() / new
        velocity = error.diff(dim=1).square().sum() / new
        total = v + lips + self.recipe.velocity * velocity
        return total, {"v": v.item(), "lips": lips.item(), "velocity": velocity.item()}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What training hands to export: recipe, weights (EMA) and the figures it was chosen by."""

    recipe: Recipe
    state: dict[str, Tensor]
    step: int
    history: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = {"recipe": asdict(self.recipe), "state": self.state, "step": self.step, "history": self.history}
        time = self.recipe.sampling.context_time
        saved["context_shares"] = None if time is None else context_shares(face_model(), time)
        torch.save(saved, path)


def load_model(path: Path) -> tuple[MotionModel, dict[str, Any]]:
    """Model with the weights of a saved checkpoint, and the whole checkpoint."""
    saved = torch.load(path, weights_only=True)
    model = MotionModel(DenoiserConfig(**saved["recipe"]["network"]))
    model.load_state_dict(saved["state"])
    return model.eval(), saved


class Chooser:
    """Scores a model by streaming through the validation clips."""

    def __init__(self, items: list[Item], face: FaceModel, recipe: Recipe) -> None:
        natural = [item for item in items if item.clip.dataset == "clips"]
        short = [item for item in items if item.clip.dataset == "lrcar"][::2]
        studio = [item for item in items if item.clip.dataset == "grid_s1"][::8]
        self.groups = {"clips": natural, "lrcar": short, "grid_s1": studio}
        self.face, self.recipe, self.measures = face, recipe, measuring_matrix(face)

    def __call__(self, smooth: nn.Module) -> dict[str, float]:
        """Figures by data set of a `MotionModel`, wherever it is."""
        model = MotionModel(self.recipe.network).eval()
        model.load_state_dict(weights_of(smooth))
        encode = torch_encoder(model.encoder)
        sampling = self.recipe.sampling
        loop = Ddim(model.denoiser, sampling, context_shares(self.face, sampling.context_time or 0))
        guidance, temperature = Parts(*self.recipe.guidance), Parts(*self.recipe.temperature)
        settings = replace(EMBEDDED, guidance=guidance, temperature=temperature, rescale=AS_MADE)
        sampler = sampler_of(TorchWindow(loop), self.face, settings)
        figures: dict[str, float] = {}
        for name, items in self.groups.items():
            if not items:
                continue
            made = stream(
                sampler, self.face, features_of(items, encode), [i.canonical for i in items], silent_feature(encode), 1
            )
            curves = [lip_curves(motion, self.measures) for motion in made]
            truth = [lip_curves(item.motion, self.measures) for item in items]
            score = lip_score(curves, truth, pooled=name == "lrcar")
            figures |= {f"{name}.{key}": round(value, 4) for key, value in score.correlation.items()}
            figures |= {f"{name}.{key}.amplitude": round(value, 4) for key, value in score.amplitude.items()}
            figures[f"{name}.mean"] = round(score.mean_correlation, 4)
        shares = {"clips": 0.5, "lrcar": 0.3, "grid_s1": 0.2}
        present = {name: share for name, share in shares.items() if f"{name}.mean" in figures}
        figures["score"] = sum(s * figures[f"{n}.mean"] for n, s in present.items()) / sum(present.values())
        return figures


class MotionTask:
    """What `learn` needs to know of the embedded motion model."""

    def __init__(self, recipe: Recipe, items: list[Item], mirror: np.ndarray, face: FaceModel, team: Team) -> None:
        train = [item for item in items if item.clip.split == "train"]
        self._recipe = recipe
        self._batches = Batches(train, face, mirror, recipe.seed, recipe.mix, recipe.silences)
        self._objective = Objective(face, train, recipe, team.device)
        self._choose = Chooser([item for item in items if item.clip.split == "val"], face, recipe)

    def loss(self, model: nn.Module, step: int, part: int) -> tuple[Tensor, dict[str, float]]:
        batch = self._batches.draw(self._recipe.frames, step, part)
        return self._objective(model, batch, torch.initial_seed())

    def check(self, smooth: nn.Module) -> dict[str, float]:
        return self._choose(smooth)


def train(
    recipe: Recipe,
    items: list[Item],
    mirror: np.ndarray,
    path: Path,
    *,
    face: FaceModel | None = None,
    team: Team = ALONE,
    resume: bool = False,
) -> Checkpoint:
    """Train, keep the averaged weights that score best on the validation clips, save them to `path`.

    `face`: the tables that `items` were normalised with, default: the shipped ones. What is needed to go
    on later lies beside `path`, ending in ``.state.pt``.
    """
    torch.manual_seed(recipe.seed)
    task = MotionTask(recipe, items, mirror, face or face_model(), team)

    def checkpoint(run: Run) -> Checkpoint:
        return Checkpoint(recipe, run.best, run.best_step, run.history)

    run = learn(
        MotionModel(recipe.network),
        task,
        recipe,
        keep=lambda run: checkpoint(run).save(path),
        state=path.with_suffix(".state.pt"),
        resume=resume,
        team=team,
    )
    return checkpoint(run)
