"""LivePortrait's motion extractor (arXiv 2407.03168): ConvNeXt-V2 tiny (arXiv 2301.00808) with seven heads."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)
EPS = 1e-6
ANGLE_BINS = 66
DEGREES_PER_BIN, LOWEST_DEGREES = 3.0, -97.5


class MotionHeads(NamedTuple):
    """What the extractor reads from a picture. `pitch`, `yaw`, `roll` are (N, 66) bin logits, `kp` and `exp`
    (N, 63) keypoint-major, `t` (N, 3), `scale` (N, 1)."""

    pitch: Tensor
    yaw: Tensor
    roll: Tensor
    t: Tensor
    exp: Tensor
    scale: Tensor
    kp: Tensor

    def motion(self) -> Tensor:
        """The motion vector (N, 70): scale, yaw, pitch, roll (degrees), t, exp."""
        angles = [degrees(self.yaw), degrees(self.pitch), degrees(self.roll)]
        return torch.cat([self.scale, torch.stack(angles, dim=1), self.t, self.exp], dim=1)


def degrees(logits: Tensor) -> Tensor:
    """Expected angle of bin logits (N, 66) -> (N,) in degrees."""
    bins = torch.arange(ANGLE_BINS, dtype=torch.float32, device=logits.device)
    return (logits.float().softmax(dim=1) * bins).sum(dim=1) * DEGREES_PER_BIN + LOWEST_DEGREES


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Feature competition across channels of (N, H, W, C), ConvNeXt-V2 section 3.3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + EPS)
        scaled: Tensor = self.gamma * (x * share) + self.beta + x
        return scaled


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = GlobalResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        added: Tensor = x + y.permute(0, 3, 1, 2)
        return added


class MotionExtractor(nn.Module):
    """RGB (N, 3, 256, 256) in [0, 1] -> MotionHeads.

    Keep it in float32: the normalisation of the source's motion amplifies its errors up to a million times.
    """

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, stride=4), ChannelNorm(WIDTHS[0], eps=EPS))
        halvings = [
            nn.Sequential(ChannelNorm(narrow, eps=EPS), nn.Conv2d(narrow, wide, 2, stride=2))
            for narrow, wide in pairwise(WIDTHS)
        ]
        self.downsample_layers = nn.ModuleList([stem, *halvings])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth))) for depth, width in zip(DEPTHS, WIDTHS, strict=True)
        )
        self.norm = nn.LayerNorm(WIDTHS[-1], eps=EPS)
        self.fc_kp = nn.Linear(WIDTHS[-1], 63)
        self.fc_scale = nn.Linear(WIDTHS[-1], 1)
        self.fc_pitch = nn.Linear(WIDTHS[-1], ANGLE_BINS)
        self.fc_yaw = nn.Linear(WIDTHS[-1], ANGLE_BINS)
        self.fc_roll = nn.Linear(WIDTHS[-1], ANGLE_BINS)
        self.fc_t = nn.Linear(WIDTHS[-1], 3)
        self.fc_exp = nn.Linear(WIDTHS[-1], 63)

    def forward(self, image: Tensor) -> MotionHeads:
        x = image
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        pooled = self.norm(x.mean(dim=(2, 3)))
        heads = (self.fc_pitch, self.fc_yaw, self.fc_roll, self.fc_t, self.fc_exp, self.fc_scale, self.fc_kp)
        return MotionHeads(*(head(pooled) for head in heads))
