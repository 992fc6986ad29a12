"""The DDIM loop as it is exported: one graph for a whole window, or one for a step.

Same numbers as `Ddim`, less work. In every block scale and shift come from a linear map of time and sound together;
the map is split, so that the sound's part is computed once a window instead of once a step, and the time's part once
a step instead of once a token. Embeddings of diffusion steps, rotations and position biases are constants, long enough
for the longest window and cut to the length at hand. Weights lie as products want them, so that unrolled steps share
one copy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.ddim import PREFIX, TRAINING_STEPS, Ddim, Step
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


class Positions(NamedTuple):
    """What attention knows of n tokens' places.

    Turning feature pairs by an angle is x cos + (x P) sin with P, `exchange`, exchanging the two and changing a sign;
    the features that stay have cos 1 and sin 0. `cos`, `sin` (n, head width), `bias` (heads, n, n).
    """

    cos: Tensor
    sin: Tensor
    exchange: Tensor
    bias: Tensor


class PositionTables(nn.Module):
    """`Positions` of up to `tokens` tokens as constants; they depend on distance alone, so a cut of them serves fewer.

    `fixed`: nothing is ever cut.
    """

    def __init__(self, denoiser: Denoiser, tokens: int, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        attention = cast(Attention, cast(nn.ModuleList, denoiser.layers[0])[2].get_submodule("fn.fn"))
        size, turning = attention.to_qkv.in_features // attention.heads, attention.rotary_emb.width
        angles = torch.arange(tokens, dtype=torch.float32)[:, None] * attention.rotary_emb.freqs.detach()
        cos, sin = torch.ones(tokens, size), torch.zeros(tokens, size)
        cos[:, :turning] = angles.cos().repeat_interleave(2, -1)
        sin[:, :turning] = angles.sin().repeat_interleave(2, -1)
        exchange = torch.zeros(size, size)
        for even in range(0, turning, 2):
            exchange[even + 1, even], exchange[even, even + 1] = -1, 1
        bias = denoiser.time_rel_pos_bias(tokens).detach().contiguous()
        for name, table in Positions(cos, sin, exchange, bias)._asdict().items():
            self.register_buffer(name, table)

    def forward(self, x: Tensor) -> Positions:
        """Places of the tokens of x (B, n, width)."""
        whole = Positions(*(self.get_buffer(name) for name in Positions._fields))
        if self.fixed:
            return whole
        here = torch.arange(x.shape[1], device=x.device)
        bias = whole.bias.index_select(1, here).index_select(2, here)
        return Positions(whole.cos.index_select(0, here), whole.sin.index_select(0, here), whole.exchange, bias)


class PlacedAttention(nn.Module):
    """`Attention` with its places given."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.to_qkv, self.proj = Product(attention.to_qkv), Product(attention.proj)
        size = attention.to_qkv.in_features // self.heads
        with torch.no_grad():
            self.to_qkv.weight[:, : size * self.heads] *= size**-0.5

    def forward(self, x: Tensor, places: Positions) -> Tensor:
        size = int(x.shape[-1]) // self.heads
        parts = self.to_qkv(x).unflatten(-1, (3, self.heads, size)).permute(2, 0, 3, 1, 4)
        turned, values = parts[:2], parts[2]
        turned = turned * places.cos + (turned @ places.exchange) * places.sin
        weights = (turned[0] @ turned[1].transpose(-1, -2) + places.bias).softmax(-1)
        mixed: Tensor = self.proj((weights @ values).transpose(1, 2).flatten(-2))
        return mixed


class ModulatedLayer(nn.Module):
    """Two condition blocks and attention; scales (one added already) and shifts are given."""

    def __init__(self, layer: nn.ModuleList) -> None:
        super().__init__()
        first, second, residual = layer
        self.blocks = nn.ModuleList([first, second])
        inner = cast(Normalised, residual.get_submodule("fn"))
        self.norm = inner.norm
        self.attention = PlacedAttention(cast(Attention, inner.fn))
        _store_transposed(self.blocks)

    def forward(self, x: Tensor, modulations: Sequence[Tensor], places: Positions) -> Tensor:
        blocks = cast(Sequence[ConditionBlock], self.blocks)
        for block, scale, shift in zip(blocks, modulations[::2], modulations[1::2], strict=True):
            h = F.silu(block.block1.norm(block.block1.proj(x)) * scale + shift)
            x = x + F.silu(block.block2.proj(h))
        attended: Tensor = x + self.attention(self.norm(x), places)
        return attended


class _Conditioned(nn.Module):
    """The denoiser with its conditions split into time and sound."""

    def __init__(self, loop: Ddim, frames: int, *, fixed: bool = False) -> None:
        super().__init__()
        self.schedule, self.config = loop.schedule, loop.config
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
            silence = loop._buffers["silence"]
            quiet = None if silence is None else F.silu(silence)[None, None] @ self.sound_weight
            self.register_buffer("quiet", quiet)
        self.places = PositionTables(denoiser, frames + PREFIX, fixed=fixed)
        self.input_projection = Product(denoiser.input_projection)
        self.layers = nn.ModuleList(ModulatedLayer(layer) for layer in layers)
        self.output_projection = Product(denoiser.output_projection)

    def heard(self, sound: Tensor) -> Tensor:
        """What the sound (B, N, A) adds to every block's scales and shifts, (B, 2 + N, all of them)."""
        return F.pad(F.silu(sound) @ self.sound_weight, (0, 0, PREFIX, 0))

    def unheard(self, heard: Tensor) -> Tensor | None:
        """The same for the branch without speech; None where it adds nothing."""
        quiet = self._buffers["quiet"]
        return None if quiet is None else F.pad(quiet.expand_as(heard[:, PREFIX:]), (0, 0, PREFIX, 0))

    def predict(self, x: Tensor, heard: Tensor, time: Tensor, guidance: Tensor, places: Positions) -> Tensor:
        """Prediction for x (B, 2 + N, 70) without the two; `time` (1 or B, 1 or 2 + N, all scales and shifts)."""
        if not self.config.guided:
            return self._denoise(x, heard + time, places)[:, PREFIX:]
        quiet = self.unheard(heard)
        without = time.expand_as(heard) if quiet is None else quiet + time
        both = self._denoise(torch.cat([x, x]), torch.cat([heard + time, without]), places)
        both = both.reshape(2, -1, x.shape[1], x.shape[2])[:, :, PREFIX:]
        return both[1] + guidance * (both[0] - both[1])

    def per_frame(self, settled: Tensor, step: Tensor, clean: Tensor, context: Tensor) -> Tensor:
        """Rows (1, all) for the step, a clean token and a committed frame -> one per token, where that is asked for."""
        if not self.per_token:
            return step[None]
        frames = torch.where(settled, context, step)
        return torch.cat([clean.expand(frames.shape[0], PREFIX, -1), frames], 1)

    def _denoise(self, x: Tensor, modulations: Tensor, places: Positions) -> Tensor:
        parts = torch.split(modulations, self.width, -1)
        x = self.input_projection(x)
        for number, layer in enumerate(self.layers):
            x = layer(x, parts[4 * number : 4 * number + 4], places)
        predicted: Tensor = self.output_projection(x)
        return predicted


class WindowGraph(_Conditioned):
    """All steps of one window; inputs and result as in `Ddim.forward`, none left out.

    forward: `tokens` f32 (B, 2, 70), `sound` (B, N, A), `noise` (B, N, 70), `committed` (B, N, 70), `mask` (B, N) 0/1,
    `guidance` (70,), `temperature` (70,) -> f32 (B, N, 70), committed rows bit-identical. N is at most `frames`, and
    just that where it is `fixed`.
    """

    def __init__(self, loop: Ddim, frames: int, *, fixed: bool = False) -> None:
        super().__init__(loop, frames, fixed=fixed)
        steps = loop.config.timesteps()
        if len(steps) > MOST_UNROLLED:
            raise EngineError(f"{len(steps)} steps are not unrolled (at most {MOST_UNROLLED}); export the step.")
        clean, context = 0, loop.config.context_time
        with torch.no_grad():
            rows = self.get_buffer("embedded")[[*steps, clean, *([] if context is None else [context])]]
            self.register_buffer("times", rows @ self.time_weight + self.map_bias)

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
        places, count = self.places(heard), len(self.schedule.steps)
        x, clean = noise * temperature, None
        for number, step in enumerate(self.schedule.steps):
            row = times[number : number + 1]
            context = row if self.config.context_time is None else times[count + 1 : count + 2]
            time = self.per_frame(settled, row, times[count : count + 1], context)
            x = torch.where(settled, self.schedule.shown(committed, noise, step), x)
            predicted = self.predict(torch.cat([tokens, x], 1), heard, time, guidance, places)
            x, clean = step.take(x, predicted, self.config.prediction, clean)
        return torch.where(settled, committed, x)


class StepGraph(_Conditioned):
    """One step of a window, for loops of any length (`engines.runtime.stepped`), of first order.

    forward: the inputs of the window, `state` f32 (B, N, 70), `step` and `following` int64 (1,), the latter `DONE` at
    the last step -> the next state. The first state is the noise; `temperature` multiplies the state, so it is ones
    from the second step on.
    """

    def __init__(self, loop: Ddim, frames: int, *, fixed: bool = False) -> None:
        super().__init__(loop, frames, fixed=fixed)
        if loop.config.order != 1:
            raise EngineError("A single step keeps no earlier prediction, which order 2 needs; export the window.")
        shares = torch.tensor([*loop.schedule.shares, 1.0], dtype=torch.float64)
        self.register_buffer("signal", shares.sqrt().float())
        self.register_buffer("noise", (1 - shares).sqrt().float())
        clean, context = 0, loop.config.context_time
        with torch.no_grad():
            self.register_buffer("settled", self._time(torch.tensor([clean, clean if context is None else context])))

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
        settled, heard = mask[..., None] > 0, self.heard(sound)
        signals, noises = self.get_buffer("signal"), self.get_buffer("noise")
        here = Step(signals[step], noises[step], signals[following], noises[following])
        x = torch.where(settled, self.schedule.shown(committed, noise, here), state * temperature)
        row = self._time(step)
        known = self.get_buffer("settled")
        time = self.per_frame(settled, row, known[:1], row if self.config.context_time is None else known[1:])
        predicted = self.predict(torch.cat([tokens, x], 1), heard, time, guidance, self.places(heard))
        x, _ = here.take(x, predicted, self.config.prediction)
        return torch.where(settled & (following == DONE), committed, x)

    def _time(self, step: Tensor) -> Tensor:
        return self.get_buffer("embedded")[step] @ self.time_weight + self.map_bias


def _store_transposed(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.Linear):
            setattr(network, name, Product(child))
        else:
            _store_transposed(child)
