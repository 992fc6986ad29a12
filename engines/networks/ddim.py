"""DDIM over one window, all steps in one module, so that a window is one call and one graph.

(Song et al., arXiv 2010.02502; v-prediction: Salimans and Ho, arXiv 2202.00512; guidance: Ho and
Salimans, arXiv 2207.12598)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engines.networks.denoiser import Denoiser
from engines.types import MOTION_WIDTH

TRAINING_STEPS = 1000
PREFIX = 2  # canonical token, reference token


@dataclass(frozen=True, slots=True)
class DdimConfig:
    """How a denoiser is sampled.

    `schedule`: ``linear`` betas 1e-5..8e-3 (published) or ``cosine`` with pure noise at the end
    (embedded). `spacing`: ``leading`` timesteps r(S-1), ..., r, 0 or ``trailing`` 999, 999-r, ...
    `context_time`: diffusion step that committed frames are said to be at; None shows them at the step
    of the others. `guided`: a second branch without sound, which doubles the batch inside.
    """

    steps: int
    schedule: Literal["linear", "cosine"] = "linear"
    prediction: Literal["epsilon", "v"] = "epsilon"
    spacing: Literal["leading", "trailing"] = "leading"
    context_time: int | None = None
    guided: bool = False

    def timesteps(self) -> list[int]:
        """Diffusion steps from the noisiest on."""
        stride = TRAINING_STEPS // self.steps
        if self.spacing == "leading":
            return [stride * k for k in reversed(range(self.steps))]
        return [round(TRAINING_STEPS * (self.steps - k) / self.steps) - 1 for k in range(self.steps)]


def signal_shares(schedule: Literal["linear", "cosine"]) -> Tensor:
    """Cumulative alphas, f32 (1000,): the squared share of the signal at every diffusion step."""
    if schedule == "linear":
        betas = torch.linspace(1e-5, 8e-3, TRAINING_STEPS, dtype=torch.float32)
        return torch.cumprod(1 - betas, 0)
    time = torch.arange(1, TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    shares = torch.cos(time * math.pi / 2).square()
    shares[-1] = 0  # pure noise, which cos(pi/2) misses by a rounding
    return shares.to(torch.float32)


class Ddim(nn.Module):
    """Samples one window of N frames.

    forward: `tokens` f32 (B, 2, 70), canonical and reference, normalised; `sound` (B, N, A);
    `noise` (B, N, 70) unit normal. In streaming `committed` (B, N, 70) and `mask` (B, N), 1 where a
    frame is settled: such frames are shown as context, re-noised with their own rows of `noise`, and
    leave bit-identical. `temperature` (70,) scales the noise of the other frames; `guidance` (70,)
    weighs the step from the branch without sound to the one with it. Returns (B, N, 70).

    `context_shares` (70,): with a `context_time`, the squared share of the signal in every number of a
    committed frame. Lips are shown noisier than the head, so that they follow the sound and not their past.
    """

    def __init__(self, denoiser: Denoiser, config: DdimConfig, context_shares: Tensor | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config = config
        self.shares = signal_shares(config.schedule).tolist()
        if config.context_time is not None and context_shares is None:
            context_shares = torch.full((MOTION_WIDTH,), self.shares[config.context_time])
        self.register_buffer("context_shares", context_shares, persistent=False)

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
        context = torch.cat([torch.zeros_like(sound[:, :1]).expand(-1, PREFIX, -1), sound], 1)
        steps = self.config.timesteps()
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if committed is not None and mask is not None:
                x = torch.where(mask[..., None] > 0, self.shown(committed, noise, step), x)
            predicted = self._predict(torch.cat([tokens, x], 1), context, step, mask, guidance)[:, PREFIX:]
            x = self.step(x, predicted, step, following)
        if committed is not None and mask is not None:
            x = torch.where(mask[..., None] > 0, committed, x)
        return x

    def step(self, x: Tensor, predicted: Tensor, step: int, following: int | None) -> Tensor:
        """State (B, N, 70) at diffusion step `step` -> state at `following`, or the clean result for None."""
        signal, noise = math.sqrt(self.shares[step]), math.sqrt(1 - self.shares[step])
        if self.config.prediction == "epsilon":
            epsilon = predicted
            clean = (x - noise * epsilon) / signal
        else:
            clean = signal * x - noise * predicted
            epsilon = noise * x + signal * predicted
        if following is None:
            return clean
        return math.sqrt(self.shares[following]) * clean + math.sqrt(1 - self.shares[following]) * epsilon

    def shown(self, committed: Tensor, noise: Tensor, step: int) -> Tensor:
        """Committed frames (B, N, 70) as the denoiser sees them at diffusion step `step`."""
        if self.config.context_time is None:
            return math.sqrt(self.shares[step]) * committed + math.sqrt(1 - self.shares[step]) * noise
        share = self.get_buffer("context_shares")
        return share.sqrt() * committed + (1 - share).sqrt() * noise

    def _predict(self, x: Tensor, context: Tensor, step: int, mask: Tensor | None, guidance: Tensor | None) -> Tensor:
        time = self._time(x, step, mask)
        if not self.config.guided or guidance is None:
            predicted: Tensor = self.denoiser(x, context, time)
            return predicted
        both: Tensor = self.denoiser(
            torch.cat([x, x]), torch.cat([context, torch.zeros_like(context)]), torch.cat([time, time])
        )
        heard, unheard = both.chunk(2)
        mixed: Tensor = unheard + guidance * (heard - unheard)
        return mixed

    def _time(self, x: Tensor, step: int, mask: Tensor | None) -> Tensor:
        """(B,), or (B, n) for a denoiser with a time per token; the two leading tokens are clean."""
        if not self.denoiser.config.time_per_token:
            return x.new_full((1,), step).expand(x.shape[0])
        frames = torch.full_like(x[:, PREFIX:, 0], step)
        if mask is not None and self.config.context_time is not None:
            frames = torch.where(mask > 0, torch.full_like(frames, self.config.context_time), frames)
        return torch.cat([torch.zeros_like(x[:, :PREFIX, 0]), frames], 1)
