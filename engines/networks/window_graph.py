"""The DDIM loop as it is exported: one graph for a whole window, or one for a step.

Same numbers as `Ddim`, less work. In every block scale and shift come from a linear map of time and sound together;
the map is split, so that the sound's part is computed once a window instead of once a step, and the time's part once
a step instead of once a token. Embeddings of diffusion steps, rotations and position biases are constants. Weights
lie as products want them, so that unrolled steps share one copy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.ddim import PREFIX, TRAINING_STEPS, Ddim
from engines.networks.denoiser import Attention, ConditionBlock, Residual, Rotary
from engines.types import EngineError

MOST_UNROLLED = 10  # steps; beyond it the runtime loops over `StepGraph`
DONE = TRAINING_STEPS  # what follows the last step


class Product(nn.Module):
    """A linear layer whose weight is stored (inputs, outputs)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class FixedRotary(nn.Module):
    """`Rotary` for a fixed number of tokens."""

    def __init__(self, rotary: Rotary, tokens: int) -> None:
        super().__init__()
        angles = torch.arange(tokens, dtype=torch.float32)[:, None] * rotary.freqs.detach()
        self.register_buffer("cos", angles.cos().repeat_interleave(2, -1))
        self.register_buffer("sin", torch.stack([-angles.sin(), angles.sin()], -1).flatten(-2))
        self.width = rotary.width

    def forward(self, x: Tensor) -> Tensor:
        turning, still = x[..., : self.width], x[..., self.width :]
        swapped = turning.reshape(*turning.shape[:-1], -1, 2).flip(-1).flatten(-2)
        return torch.cat([turning * self.get_buffer("cos") + swapped * self.get_buffer("sin"), still], -1)


class _Conditioned(nn.Module):
    """The denoiser with its conditions split into time and sound."""

    def __init__(self, loop: Ddim, frames: int) -> None:
        super().__init__()
        self.loop, self.config, self.frames = loop, loop.config, frames
        self.per_token = loop.denoiser.config.time_per_token
        denoiser = copy.deepcopy(loop.denoiser).eval()
        blocks = [block for block in denoiser.modules() if isinstance(block, ConditionBlock)]
        maps = [cast(nn.Linear, block.mlp[1]) for block in blocks]
        split = denoiser.config.time_width
        with torch.no_grad():
            self.time_weight = nn.Parameter(torch.cat([each.weight[:, :split] for each in maps]).t().contiguous())
            self.sound_weight = nn.Parameter(torch.cat([each.weight[:, split:] for each in maps]).t().contiguous())
            self.map_bias = nn.Parameter(torch.cat([each.bias for each in maps]))
            embedded = F.silu(denoiser.time_mlp(torch.arange(TRAINING_STEPS)))
            bias = denoiser.time_rel_pos_bias(frames + PREFIX).contiguous()
        self.register_buffer("embedded", embedded)  # (1000, time width)
        self.register_buffer("bias", bias)
        for module in list(denoiser.modules()):
            if isinstance(module, Attention):
                module.rotary_emb = FixedRotary(module.rotary_emb, frames + PREFIX)  # type: ignore[assignment]
        _store_transposed(denoiser)
        self.denoiser = denoiser
        self.blocks = len(blocks)

    def heard(self, sound: Tensor) -> Tensor:
        """What the sound (B, N, A) adds to every block's scales and shifts, (B, 2 + N, all of them)."""
        return F.pad(F.silu(sound) @ self.sound_weight, (0, 0, PREFIX, 0))

    def predict(self, x: Tensor, heard: Tensor, time: Tensor, guidance: Tensor) -> Tensor:
        """Prediction for x (B, 2 + N, 70) without the two; `time` (1 or B, 1 or 2 + N, all scales and shifts)."""
        if not self.config.guided:
            return self._denoise(x, heard + time)[:, PREFIX:]
        unheard = time.expand_as(heard)
        both = self._denoise(torch.cat([x, x]), torch.cat([heard + time, unheard]))[:, PREFIX:]
        with_sound, without = both.chunk(2)
        return without + guidance * (with_sound - without)

    def per_frame(self, settled: Tensor, step: Tensor, clean: Tensor, context: Tensor) -> Tensor:
        """Rows (1, all) for the step, a clean token and a committed frame -> one per token, where that is asked for."""
        if not self.per_token:
            return step[None]
        frames = torch.where(settled, context, step)
        return torch.cat([clean.expand(len(frames), PREFIX, -1), frames], 1)

    def _denoise(self, x: Tensor, modulations: Tensor) -> Tensor:
        parts: Sequence[Tensor] = modulations.chunk(self.blocks, -1)
        x = self.denoiser.input_projection(x)
        for number, layer in enumerate(self.denoiser.layers):
            first, second, attention = cast(tuple[ConditionBlock, ConditionBlock, Residual], layer)
            x = second.modulated(first.modulated(x, parts[2 * number]), parts[2 * number + 1])
            x = attention(x, self.get_buffer("bias"))
        predicted: Tensor = self.denoiser.output_projection(x)
        return predicted


class WindowGraph(_Conditioned):
    """All steps of one window; inputs and result as in `Ddim.forward`, none left out.

    forward: `tokens` f32 (B, 2, 70), `sound` (B, N, A), `noise` (B, N, 70), `committed` (B, N, 70), `mask` (B, N) 0/1,
    `guidance` (70,), `temperature` (70,) -> f32 (B, N, 70), committed rows bit-identical.
    """

    def __init__(self, loop: Ddim, frames: int) -> None:
        super().__init__(loop, frames)
        steps = loop.config.timesteps()
        if len(steps) > MOST_UNROLLED:
            raise EngineError(f"{len(steps)} steps are not unrolled into a graph (at most {MOST_UNROLLED}); use the step.")
        clean, context = 0, loop.config.context_time
        with torch.no_grad():
            rows = self.get_buffer("embedded")[[*steps, clean, *([] if context is None else [context])]]
            self.register_buffer("times", rows @ self.time_weight + self.map_bias)
        self.steps = steps

    def forward(
        self,
        tokens: Tensor,
        sound: Tensor,
        noise: Tensor,
        committed: Tensor,
        mask: Tensor,
        guidance: Tensor,
        temperature: Tensor,
    ) -> Tensor:
        settled, heard, times = mask[..., None] > 0, self.heard(sound), self.get_buffer("times")
        count = len(self.steps)
        x = noise * temperature
        for number, step in enumerate(self.steps):
            following = self.steps[number + 1] if number + 1 < count else None
            row = times[number : number + 1]
            context = row if self.config.context_time is None else times[count + 1 : count + 2]
            time = self.per_frame(settled, row, times[count : count + 1], context)
            x = torch.where(settled, self.loop.shown(committed, noise, step), x)
            x = self.loop.step(x, self.predict(torch.cat([tokens, x], 1), heard, time, guidance), step, following)
        return torch.where(settled, committed, x)


class StepGraph(_Conditioned):
    """One step of a window, for loops of any length (`engines.runtime.stepped`).

    forward: the inputs of the window, `state` f32 (B, N, 70), `step` and `following` int64 (1,), the latter `DONE` at
    the last step -> the next state. The first state is the noise; `temperature` multiplies the state, so it is ones
    from the second step on.
    """

    def __init__(self, loop: Ddim, frames: int) -> None:
        super().__init__(loop, frames)
        shares = torch.tensor([*loop.shares, 1.0], dtype=torch.float64)
        self.register_buffer("signal", shares.sqrt().float())
        self.register_buffer("noise", (1 - shares).sqrt().float())

    def forward(
        self,
        tokens: Tensor,
        sound: Tensor,
        noise: Tensor,
        committed: Tensor,
        mask: Tensor,
        guidance: Tensor,
        temperature: Tensor,
        state: Tensor,
        step: Tensor,
        following: Tensor,
    ) -> Tensor:
        settled = mask[..., None] > 0
        signals, noises = self.get_buffer("signal"), self.get_buffer("noise")
        signal, unclean = signals[step], noises[step]
        if self.config.context_time is None:
            shown = signal * committed + unclean * noise
        else:
            shown = self.loop.shown(committed, noise, 0)
        x = torch.where(settled, shown, state * temperature)
        row = self._time(step)
        context = row if self.config.context_time is None else self._time(self.config.context_time)
        time = self.per_frame(settled, row, self._time(0), context)
        predicted = self.predict(torch.cat([tokens, x], 1), self.heard(sound), time, guidance)
        if self.config.prediction == "epsilon":
            epsilon = predicted
            clean = (x - unclean * epsilon) / signal
        else:
            clean = signal * x - unclean * predicted
            epsilon = unclean * x + signal * predicted
        x = signals[following] * clean + noises[following] * epsilon
        return torch.where(settled & (following == DONE), committed, x)

    def _time(self, step: Tensor | int) -> Tensor:
        embedded = self.get_buffer("embedded")
        row = embedded[step : step + 1] if isinstance(step, int) else embedded[step]
        return row @ self.time_weight + self.map_bias


def _store_transposed(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.Linear):
            setattr(network, name, Product(child))
        else:
            _store_transposed(child)
