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
from engines.networks.denoiser import Attention, ConditionBlock, Denoiser, Normalised
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


class FixedAttention(nn.Module):
    """`Attention` for a fixed number of tokens: rotations and position bias are tables.

    Turning feature pairs by an angle is x cos + (x P) sin with P exchanging the two and changing a sign; the features
    that stay have cos 1 and sin 0.
    """

    def __init__(self, attention: Attention, bias: Tensor) -> None:
        super().__init__()
        self.heads, self.tokens = attention.heads, int(bias.shape[-1])
        self.to_qkv, self.proj = Product(attention.to_qkv), Product(attention.proj)
        size = attention.to_qkv.in_features // self.heads
        with torch.no_grad():
            self.to_qkv.weight[:, : size * self.heads] *= size**-0.5
        turning = attention.rotary_emb.width
        angles = torch.arange(self.tokens, dtype=torch.float32)[:, None] * attention.rotary_emb.freqs.detach()
        cos, sin = torch.ones(self.tokens, size), torch.zeros(self.tokens, size)
        cos[:, :turning] = angles.cos().repeat_interleave(2, -1)
        sin[:, :turning] = angles.sin().repeat_interleave(2, -1)
        exchange = torch.zeros(size, size)
        for even in range(0, turning, 2):
            exchange[even + 1, even], exchange[even, even + 1] = -1, 1
        for name, table in (("cos", cos), ("sin", sin), ("exchange", exchange), ("bias", bias)):
            self.register_buffer(name, table)

    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[-1]) // self.heads
        parts = self.to_qkv(x).reshape(-1, self.tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        turned, values = parts[:2], parts[2]
        turned = turned * self.get_buffer("cos") + (turned @ self.get_buffer("exchange")) * self.get_buffer("sin")
        weights = (turned[0] @ turned[1].transpose(-1, -2) + self.get_buffer("bias")).softmax(-1)
        mixed: Tensor = self.proj((weights @ values).transpose(1, 2).reshape(-1, self.tokens, self.heads * size))
        return mixed


class FixedLayer(nn.Module):
    """Two condition blocks and attention; scales (one added already) and shifts are given."""

    def __init__(self, layer: nn.ModuleList, bias: Tensor) -> None:
        super().__init__()
        first, second, residual = layer
        self.blocks = nn.ModuleList([first, second])
        inner = cast(Normalised, residual.get_submodule("fn"))
        self.norm = inner.norm
        self.attention = FixedAttention(cast(Attention, inner.fn), bias)
        _store_transposed(self.blocks)

    def forward(self, x: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        blocks = cast(Sequence[ConditionBlock], self.blocks)
        for block, scale, shift in zip(blocks, modulations[::2], modulations[1::2], strict=True):
            h = F.silu(block.block1.norm(block.block1.proj(x)) * scale + shift)
            x = x + F.silu(block.block2.proj(h))
        attended: Tensor = x + self.attention(self.norm(x))
        return attended


class _Conditioned(nn.Module):
    """The denoiser with its conditions split into time and sound."""

    def __init__(self, loop: Ddim, frames: int) -> None:
        super().__init__()
        # The schedule's arithmetic without the denoiser, which is taken apart below.
        self.loop = Ddim(cast(Denoiser, nn.Identity()), loop.config, cast(Tensor | None, loop.context_shares))
        self.config, self.frames = loop.config, frames
        self.per_token = loop.denoiser.config.time_per_token
        denoiser = copy.deepcopy(loop.denoiser).eval()
        self.width = denoiser.config.width
        layers = [cast(nn.ModuleList, layer) for layer in denoiser.layers]
        blocks = [cast(ConditionBlock, block) for layer in layers for block in list(layer)[:2]]
        maps = [cast(nn.Linear, block.mlp[1]) for block in blocks]
        split = denoiser.config.time_width
        with torch.no_grad():
            self.time_weight = nn.Parameter(torch.cat([each.weight[:, :split] for each in maps]).t().contiguous())
            self.sound_weight = nn.Parameter(torch.cat([each.weight[:, split:] for each in maps]).t().contiguous())
            self.map_bias = nn.Parameter(torch.cat([each.bias for each in maps]))
            self.map_bias.view(len(maps), 2, -1)[:, 0] += 1  # scales count from one
            self.register_buffer("embedded", F.silu(denoiser.time_mlp(torch.arange(TRAINING_STEPS))))
            bias = denoiser.time_rel_pos_bias(frames + PREFIX).contiguous()
        self.input_projection = Product(denoiser.input_projection)
        self.layers = nn.ModuleList(FixedLayer(layer, bias) for layer in layers)
        self.output_projection = Product(denoiser.output_projection)

    def heard(self, sound: Tensor) -> Tensor:
        """What the sound (B, N, A) adds to every block's scales and shifts, (B, 2 + N, all of them)."""
        return F.pad(F.silu(sound) @ self.sound_weight, (0, 0, PREFIX, 0))

    def predict(self, x: Tensor, heard: Tensor, time: Tensor, guidance: Tensor) -> Tensor:
        """Prediction for x (B, 2 + N, 70) without the two; `time` (1 or B, 1 or 2 + N, all scales and shifts)."""
        if not self.config.guided:
            return self._denoise(x, heard + time)[:, PREFIX:]
        unheard = time.expand_as(heard)
        both = self._denoise(torch.cat([x, x]), torch.cat([heard + time, unheard]))
        both = both.reshape(2, -1, self.frames + PREFIX, both.shape[-1])[:, :, PREFIX:]
        return both[1] + guidance * (both[0] - both[1])

    def per_frame(self, settled: Tensor, step: Tensor, clean: Tensor, context: Tensor) -> Tensor:
        """Rows (1, all) for the step, a clean token and a committed frame -> one per token, where that is asked for."""
        if not self.per_token:
            return step[None]
        frames = torch.where(settled, context, step)
        return torch.cat([clean.expand(frames.shape[0], PREFIX, -1), frames], 1)

    def _denoise(self, x: Tensor, modulations: Tensor) -> Tensor:
        parts = torch.split(modulations, self.width, -1)
        x = self.input_projection(x)
        for number, layer in enumerate(self.layers):
            x = layer(x, parts[4 * number : 4 * number + 4])
        predicted: Tensor = self.output_projection(x)
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
            raise EngineError(f"{len(steps)} steps are not unrolled (at most {MOST_UNROLLED}); export the step.")
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
