"""Spatiotemporal denoiser: tokens of motion attend to each other, modulated by time and sound.

One implementation serves both profiles. The published configuration has the parameter names of
KDTalker's checkpoint (after its prefix ``point_model.model.``) and loads it strictly; the embedded one
is narrower and gives every token its own diffusion time. (KDTalker, arXiv 2503.12963, section 3.3;
T5's relative position buckets, arXiv 1910.10683; rotary embedding, arXiv 2104.09864)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from engines.types import MOTION_WIDTH

BUCKETS = 32  # of relative position, half for the past and half for the future
FARTHEST = 128  # tokens; beyond it all distances share a bucket


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """Sizes of one denoiser. `rotary` features of each head turn with position, the others stay;
    `dropout` acts in training only.

    `time_per_token`: time is (B, n) instead of (B,). `published_layout`: keep the parameters that the
    published checkpoint holds and never uses.
    """

    width: int
    layers: int
    heads: int
    time_width: int
    audio_width: int
    rotary: int
    dropout: float = 0.0
    time_per_token: bool = False
    published_layout: bool = False


PUBLISHED = DenoiserConfig(
    width=768, layers=6, heads=12, time_width=256, audio_width=512, rotary=12, published_layout=True
)


class LayerNorm(nn.Module):
    """Normalisation over the last axis; epsilon inside the root, biased variance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gamma = nn.Parameter(torch.ones(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (self.width,), self.gamma.flatten(), self.beta.flatten(), 1e-5)


class TimeEmbedding(nn.Module):
    """Diffusion time (...) -> sines then cosines, (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time.to(torch.float32)[..., None] * self.get_buffer("frequencies")
        return torch.cat([angles.sin(), angles.cos()], -1)


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of distance, added to the attention logits."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    @staticmethod
    def buckets(count: int) -> Tensor:
        """Bucket of every (query, key), int64 (count, count): exact to 7 tokens, then logarithmic."""
        position = torch.arange(count)
        distance = position[:, None] - position[None, :]
        side, exact = BUCKETS // 2, BUCKETS // 4
        far = distance.abs().clamp(min=1).to(torch.float32)
        log = exact + (torch.log(far / exact) / math.log(FARTHEST / exact) * (side - exact)).to(torch.int64)
        near = torch.where(distance.abs() < exact, distance.abs(), log.clamp(max=side - 1))
        return near + side * (distance < 0)

    def forward(self, count: int) -> Tensor:
        """-> (heads, count, count)."""
        buckets = self.buckets(count).to(self.relative_attention_bias.weight.device)
        bias: Tensor = self.relative_attention_bias(buckets)
        return bias.permute(2, 0, 1)


class Rotary(nn.Module):
    """Rotates interleaved pairs of the first features by position. One constant, shared by all layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        self.freqs = nn.Parameter(frequencies.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, n, head width) -> the same shape."""
        angles = torch.arange(int(x.shape[-2]), device=x.device, dtype=torch.float32)[:, None] * self.freqs
        cos, sin = angles.cos(), angles.sin()
        turning, still = x[..., : self.width], x[..., self.width :]
        even, odd = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        return torch.cat([turned, still], -1)


class Attention(nn.Module):
    """Full bidirectional attention with relative position bias and rotary embedding."""

    def __init__(self, width: int, heads: int, rotary: Rotary) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.rotary_emb = rotary
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, -1))
        q, k = self.rotary_emb(q * q.shape[-1] ** -0.5), self.rotary_emb(k)
        weights = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        mixed: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(-2))
        return mixed


class Normalised(nn.Module):
    """A module behind a layer norm."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x), bias)
        return out


class Residual(nn.Module):
    """A module plus its input."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = x + self.fn(x, bias)
        return out


class Block(nn.Module):
    """Linear map with the norm that belongs to it."""

    def __init__(self, width: int, normalised: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)
        if normalised:
            self.norm = LayerNorm(width)


class ConditionBlock(nn.Module):
    """Two maps, the first scaled and shifted by time and sound (FiLM, arXiv 1709.07871)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(config.time_width + config.audio_width, 2 * width))
        self.block1 = Block(width, normalised=True)
        self.block2 = Block(width, normalised=config.published_layout)  # its norm is stored and never used
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.mlp(condition).chunk(2, -1)
        h = nn.functional.silu(self.block1.norm(self.block1.proj(x)) * (scale + 1) + shift)
        return x + nn.functional.silu(self.block2.proj(self.dropout(h)))


class Denoiser(nn.Module):
    """What the noisy motion of a window should be changed by.

    forward: `x` (B, n, 70) tokens, first the canonical and the reference token, then frames;
    `context` (B, n, A) sound per token, zeros for the two; `time` (B,) or, with a time per token,
    (B, n), in diffusion steps 0..999. Returns (B, n, 70), the two included.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_mlp = nn.Sequential(
            TimeEmbedding(width),
            nn.Linear(width, config.time_width),
            nn.SiLU(),
            nn.Linear(config.time_width, config.time_width),
        )
        if config.published_layout:
            self.positional_encoding = nn.Module()  # stored and never used
            self.positional_encoding.register_buffer("freq_bands", 2 ** torch.linspace(1, 9, 10))
        self.input_projection = nn.Linear(MOTION_WIDTH, width)
        self.time_rel_pos_bias = RelativePositionBias(config.heads)
        rotary = Rotary(config.rotary)
        self.layers = nn.ModuleList(
            nn.ModuleList([
                ConditionBlock(config),
                ConditionBlock(config),
                Residual(Normalised(width, Attention(width, config.heads, rotary))),
            ])
            for _ in range(config.layers)
        )  # fmt: skip
        self.output_projection = nn.Linear(width, MOTION_WIDTH)

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        embedded = self.time_mlp(time)
        if not self.config.time_per_token:
            embedded = embedded[:, None].expand(-1, x.shape[1], -1)
        condition = torch.cat([embedded, context], -1)
        bias = self.time_rel_pos_bias(int(x.shape[1]))  # a constant of an exported graph
        x = self.input_projection(x)
        for layer in self.layers:
            first, second, attention = cast(nn.ModuleList, layer)
            x = attention(second(first(x, condition), condition), bias)
        predicted: Tensor = self.output_projection(x)
        return predicted
