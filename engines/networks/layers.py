"""Layers that several of the published networks share, and the folding of what is constant at inference."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


class Foldable(nn.Module):
    """A layer whose weights can be replaced, once loaded, by fewer that give the same output."""

    def fold(self) -> None:
        raise NotImplementedError


def fold(network: Network) -> Network:
    """Fold batch norms and spectral norms of a loaded network into its convolutions, in place.

    Afterwards `state_dict` no longer has the published keys. Fold in float32, before any cast to half.
    """
    for module in list(network.modules()):
        if isinstance(module, Foldable):
            module.fold()
    return network.eval()


def fold_norm(owner: nn.Module, conv: str, norm: str) -> None:
    """Fold the batch norm called `norm` into the convolution called `conv` before it, unless that is done."""
    batch_norm = owner.get_submodule(norm)
    if not isinstance(batch_norm, nn.Identity):
        setattr(
            owner, conv, fuse_conv_bn_eval(cast(Any, owner.get_submodule(conv).eval()), cast(Any, batch_norm.eval()))
        )
        setattr(owner, norm, nn.Identity())


class ConvNorm(Foldable):
    """`conv` then `norm` (batch norm), 2-D or 3-D by the convolution given. No activation."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        norm = nn.BatchNorm3d if isinstance(conv, nn.Conv3d) else nn.BatchNorm2d
        self.conv = conv
        self.norm = norm(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed

    def fold(self) -> None:
        fold_norm(self, "conv", "norm")


class SpectralConv2d(Foldable):
    """Convolution whose stored weight is divided by its spectral norm, u . (W v); no power iteration at inference."""

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.padding = kernel // 2
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_orig = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight_orig, a=5**0.5)
        self.register_buffer("weight_u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(inputs * kernel * kernel), dim=0))
        self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_orig if self.folded else self.normalised()
        return F.conv2d(x, weight, self.bias, padding=self.padding)

    def normalised(self) -> Tensor:
        sigma = self.weight_u @ (self.weight_orig.flatten(1) @ self.weight_v)
        return self.weight_orig / sigma

    def fold(self) -> None:
        if not self.folded:
            self.weight_orig = nn.Parameter(self.normalised().detach())
            self.folded = True
