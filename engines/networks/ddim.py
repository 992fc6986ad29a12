"""Denoising of one window, all steps in one module, so that a window is one call and one graph.

(DDIM: Song et al., arXiv 2010.02502; DPM-Solver++(2M): Lu et al., arXiv 2211.01095; v-prediction: Salimans and Ho,
arXiv 2202.00512; guidance: Ho and Salimans, arXiv 2207.12598)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.denoiser import Denoiser
from engines.types import MOTION_WIDTH

TRAINING_STEPS = 1000
PUBLISHED_STEPS = 50  # of the paper's run
PREFIX = 2  # canonical token, reference token


@dataclass(frozen=True, slots=True)
class DdimConfig:
    """How a denoiser is sampled.

    `schedule`: ``linear`` betas 1e-5..8e-3 (published) or ``cosine`` with pure noise at the end
    (embedded). `spacing`: ``leading`` timesteps r(S-1), ..., r, 0 or ``trailing`` 999, 999-r, ...
    `order`: 1 is DDIM, 2 is DPM-Solver++(2M). `context_time`: diffusion step that committed frames are said to be at;
    None shows them at the step of the others. `guided`: a second branch without speech, which doubles the batch inside.
    """

    steps: int
    schedule: Literal["linear", "cosine"] = "linear"
    prediction: Literal["epsilon", "v"] = "epsilon"
    spacing: Literal["leading", "trailing"] = "leading"
    context_time: int | None = None
    guided: bool = False
    order: Literal[1, 2] = 1

    def timesteps(self) -> list[int]:
        """Diffusion steps from the noisiest on."""
        stride = TRAINING_STEPS // self.steps
        if self.spacing == "leading":
            return [stride * k for k in reversed(range(self.steps))]
        return [round(TRAINING_STEPS * (self.steps - k) / self.steps) - 1 for k in range(self.steps)]


def published_sampling(steps: int, *, guided: bool = False) -> DdimConfig:
    """How the published denoiser is sampled: as its authors do from 50 steps on; below that DPM-Solver++(2M) with the
    noisiest step included, which loses less."""
    if steps >= PUBLISHED_STEPS:
        return DdimConfig(steps=steps, guided=guided)
    return DdimConfig(steps=steps, spacing="trailing", guided=guided, order=2)


def signal_shares(schedule: Literal["linear", "cosine"]) -> Tensor:
    """Cumulative alphas, f32 (1000,): the squared share of the signal at every diffusion step."""
    if schedule == "linear":
        betas = torch.linspace(1e-5, 8e-3, TRAINING_STEPS, dtype=torch.float32)
        return torch.cumprod(1 - betas, 0)
    time = torch.arange(1, TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    shares = torch.cos(time * math.pi / 2).square()
    shares[-1] = 0  # pure noise, which cos(pi/2) misses by a rounding
    return shares.to(torch.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """One step from a noisier state to a cleaner one; numbers, or tensors of one where the step is an input.

    `signal`, `noise`: roots of the shares the state is made of, `next_signal`, `next_noise` those of the next state,
    1 and 0 where it is the result. `slope`: by how much the change since the last clean prediction goes on (2M).
    """

    signal: float | Tensor
    noise: float | Tensor
    next_signal: float | Tensor
    next_noise: float | Tensor
    slope: float = 0.0

    def take(
        self, x: Tensor, predicted: Tensor, prediction: Literal["epsilon", "v"], last: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """State (B, N, 70), what the network says of it, and the clean prediction before -> next state, clean one."""
        if prediction == "epsilon":
            epsilon = predicted
            clean = (x - self.noise * epsilon) / self.signal
        else:
            clean = self.signal * x - self.noise * predicted
            epsilon = self.noise * x + self.signal * predicted
        ahead = clean
        if self.slope and last is not None:
            further = self.slope * (clean - last)
            ahead, epsilon = clean + further, epsilon - self.signal / self.noise * further
        return self.next_signal * ahead + self.next_noise * epsilon, clean


class Schedule(nn.Module):
    """Steps of one sampling run, and how committed frames look at each of them.

    `context_shares` (70,): with a `context_time`, the squared share of the signal in every number of a
    committed frame. Lips are shown noisier than the head, so that they follow the sound and not their past.
    """

    def __init__(self, config: DdimConfig, context_shares: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.shares: list[float] = signal_shares(config.schedule).tolist()
        self.times = config.timesteps()
        levels = [(math.sqrt(self.shares[time]), math.sqrt(1 - self.shares[time])) for time in self.times]
        slopes = _slopes(levels) if config.order == 2 else [0.0] * len(levels)
        self.steps = [
            Step(*here, *there, slope)
            for here, there, slope in zip(levels, [*levels[1:], (1.0, 0.0)], slopes, strict=True)
        ]
        if config.context_time is not None and context_shares is None:
            context_shares = torch.full((MOTION_WIDTH,), self.shares[config.context_time])
        self.register_buffer("context_shares", context_shares, persistent=False)

    def shown(self, committed: Tensor, noise: Tensor, step: Step) -> Tensor:
        """Committed frames (B, N, 70) as the denoiser sees them at `step`."""
        if self.config.context_time is None:
            return step.signal * committed + step.noise * noise
        share = self.get_buffer("context_shares")
        return share.sqrt() * committed + (1 - share).sqrt() * noise


def _slopes(levels: list[tuple[float, float]]) -> list[float]:
    """Half the ratio of a step's length to the one's before, lengths in logarithms of signal over noise.

    The first step has none before it, and the last, of infinite length, is taken by first order.
    """
    logs = [math.log(signal / noise) if signal else -math.inf for signal, noise in levels]
    lengths = [following - log for log, following in pairwise(logs)]
    inner = [length / (2 * before) for before, length in pairwise(lengths)]
    return [0.0, *inner, 0.0][: len(levels)]


class Ddim(nn.Module):
    """Samples one window of N frames.

    forward: `tokens` f32 (B, 2, 70), canonical and reference, normalised; `sound` (B, N, A);
    `noise` (B, N, 70) unit normal. In streaming `committed` (B, N, 70) and `mask` (B, N), 1 where a
    frame is settled: such frames are shown as context, re-noised with their own rows of `noise`, and
    leave bit-identical. `temperature` (70,) scales the noise of the other frames; `guidance` (70,)
    weighs the step from the branch without speech to the one with it. Returns (B, N, 70).

    `silence` (A,): sound of the branch without speech, zeros for a denoiser that was trained with dropped sound.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: DdimConfig,
        context_shares: Tensor | None = None,
        silence: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config = config
        self.schedule = Schedule(config, context_shares)
        self.register_buffer("silence", silence, persistent=False)

    def in_steps(self, count: int) -> Ddim:
        """The same denoiser and context in another number of steps."""
        config = replace(self.config, steps=count)
        silence = None if self.silence is None else self.get_buffer("silence")
        return Ddim(self.denoiser, config, self.schedule.get_buffer("context_shares"), silence)

    def forward(
        self,
        tokens: Tensor,
        sound: Tensor,
        noise: Tensor,
        committed: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        temperature: Tensor | None = None,
    ) -> Tensor:
        x = noise if temperature is None else noise * temperature
        clean = None
        for time, step in zip(self.schedule.times, self.schedule.steps, strict=True):
            if committed is not None and mask is not None:
                x = torch.where(mask[..., None] > 0, self.schedule.shown(committed, noise, step), x)
            predicted = self._predict(torch.cat([tokens, x], 1), sound, time, mask, guidance)[:, PREFIX:]
            x, clean = step.take(x, predicted, self.config.prediction, clean)
        if committed is not None and mask is not None:
            x = torch.where(mask[..., None] > 0, committed, x)
        return x

    def _predict(self, x: Tensor, sound: Tensor, step: int, mask: Tensor | None, guidance: Tensor | None) -> Tensor:
        time = self._time(x, step, mask)
        context = F.pad(sound, (0, 0, PREFIX, 0))
        if not self.config.guided or guidance is None:
            predicted: Tensor = self.denoiser(x, context, time)
            return predicted
        silence = self._buffers["silence"]
        quiet = torch.zeros_like(sound) if silence is None else silence.expand_as(sound)
        unheard = F.pad(quiet, (0, 0, PREFIX, 0))
        both: Tensor = self.denoiser(torch.cat([x, x]), torch.cat([context, unheard]), torch.cat([time, time]))
        heard, without = both.chunk(2)
        mixed: Tensor = without + guidance * (heard - without)
        return mixed

    def _time(self, x: Tensor, step: int, mask: Tensor | None) -> Tensor:
        """(B,), or (B, n) for a denoiser with a time per token; the two leading tokens are clean."""
        if not self.denoiser.config.time_per_token:
            return x.new_full((1,), step).expand(x.shape[0])
        frames = torch.full_like(x[:, PREFIX:, 0], step)
        if mask is not None and self.config.context_time is not None:
            frames = torch.where(mask > 0, torch.full_like(frames, self.config.context_time), frames)
        return torch.cat([torch.zeros_like(x[:, :PREFIX, 0]), frames], 1)
