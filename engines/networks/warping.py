"""LivePortrait's warping module (arXiv 2407.03168, after face-vid2vid, arXiv 2011.15126).

What depends on the source alone is computed once (`WarpingModule.prepare`); each driving frame then costs the
hourglass and one warp. Sampling grids, heatmaps, the mask's softmax and the warp stay in float32 whatever the
convolutions run in: half precision has steps of a twentieth of a feature cell at the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.appearance import VOLUME_CHANNELS, VOLUME_DEPTH
from engines.networks.layers import ConvNorm, Foldable, fold_norm

KEYPOINTS = 21
FIELDS = KEYPOINTS + 1  # one rigid motion per keypoint, and the background's identity
COMPRESSED = 4
HEATMAP_VARIANCE = 0.01
INPUTS = FIELDS * (COMPRESSED + 1)  # of the hourglass: a heatmap and the moved features of every field
LEAKY_SLOPE = 0.01


@dataclass(frozen=True, slots=True)
class WarpSizes:
    """Widths of the published module. The hourglass halves height and width once per encoder level."""

    channels: int = VOLUME_CHANNELS
    depth: int = VOLUME_DEPTH
    encoder: tuple[int, ...] = (64, 128, 256, 512, 1024)
    decoder: tuple[int, ...] = (512, 256, 128, 64, 32)
    features: int = 256

    @property
    def hourglass(self) -> int:
        return self.decoder[-1] + INPUTS


PUBLISHED_SIZES = WarpSizes()


class WarpSource(NamedTuple):
    """What the warp needs to know of one or more source pictures; all float32, first axis the sources.

    `volume` (S, 32, 16, 64, 64), `keypoints` (S, 21, 3), `compressed` (S, 4, 16, 64, 64), `heatmaps`
    (S, 21, 16, 64, 64).
    """

    volume: Tensor
    keypoints: Tensor
    compressed: Tensor
    heatmaps: Tensor


def axis(cells: int, device: torch.device | None = None) -> Tensor:
    """Coordinates of the cells along one axis, the first at -1 and the last at 1."""
    return torch.arange(cells, dtype=torch.float32, device=device) * 2 / (cells - 1) - 1


def identity_grid(volume: Tensor) -> Tensor:
    """Coordinates (x, y, z) of every cell of a volume (..., D, H, W) -> f32 (D, H, W, 3)."""
    z, y, x = torch.meshgrid(*(axis(int(cells), volume.device) for cells in volume.shape[-3:]), indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def heatmaps(keypoints: Tensor, grid: Tensor) -> Tensor:
    """Gaussians about keypoints (N, 21, 3) -> (N, 21, 16, 64, 64)."""
    distance = (grid - keypoints[:, :, None, None, None, :]).square().sum(dim=-1)
    return torch.exp(-0.5 * distance / HEATMAP_VARIANCE)


def sample(volume: Tensor, field: Tensor) -> Tensor:
    """Trilinear sampling, zeros outside. The published networks lay out their grids with aligned corners and sample
    without; their weights are trained for that shift."""
    return F.grid_sample(volume, field, mode="bilinear", padding_mode="zeros", align_corners=False)


class Encoder(nn.Module):
    def __init__(self, sizes: WarpSizes) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(
            ConvNorm(nn.Conv3d(inputs, outputs, 3, padding=1)) for inputs, outputs in pairwise((INPUTS, *sizes.encoder))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and the five levels below it; depth is never pooled."""
        levels = [x]
        for block in self.down_blocks:
            x = F.relu(block(levels[-1]))
            # As pictures, because torch has no 3-D pooling in half precision on the CPU.
            levels.append(F.avg_pool2d(x.flatten(1, 2), 2).reshape(*x.shape[:3], x.shape[3] // 2, x.shape[4] // 2))
        return levels


class Decoder(Foldable):
    def __init__(self, sizes: WarpSizes) -> None:
        super().__init__()
        # Every level after the first also gets the encoder's features of its resolution.
        skips = (0, *sizes.encoder[-2::-1])
        inputs = [up + skip for up, skip in zip((sizes.encoder[-1], *sizes.decoder[:-1]), skips, strict=True)]
        self.up_blocks = nn.ModuleList(
            ConvNorm(nn.Conv3d(width, up, 3, padding=1)) for width, up in zip(inputs, sizes.decoder, strict=True)
        )
        self.conv = nn.Conv3d(sizes.hourglass, sizes.hourglass, 3, padding=1)
        self.norm = nn.BatchNorm3d(sizes.hourglass)

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        for block, skip in zip(self.up_blocks, levels[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=(1, 2, 2))
            x = torch.cat([F.relu(block(x)), skip], dim=1)
        return F.relu(self.norm(self.conv(x)))

    def fold(self) -> None:
        fold_norm(self, "conv", "norm")


class Hourglass(nn.Module):
    def __init__(self, sizes: WarpSizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.decoder = Decoder(sizes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


class DenseMotion(Foldable):
    """Sparse keypoint motion -> where every cell of the driving volume comes from, and how visible it is."""

    def __init__(self, sizes: WarpSizes = PUBLISHED_SIZES) -> None:
        super().__init__()
        self.hourglass = Hourglass(sizes)
        self.mask = nn.Conv3d(sizes.hourglass, FIELDS, 7, padding=3)
        self.compress = nn.Conv3d(sizes.channels, COMPRESSED, 1)
        self.norm = nn.BatchNorm3d(COMPRESSED)
        self.occlusion = nn.Conv2d(sizes.hourglass * sizes.depth, 1, 7, padding=3)

    def fold(self) -> None:
        fold_norm(self, "compress", "norm")

    def prepare(self, volume: Tensor, keypoints: Tensor) -> WarpSource:
        """Volumes (S, 32, 16, 64, 64) and keypoints (S, 21, 3) of S source pictures -> what all their frames share."""
        compressed = F.relu(self.norm(self.compress(volume.to(self.compress.weight.dtype))))
        grid = identity_grid(volume)
        return WarpSource(volume.float(), keypoints.float(), compressed.float(), heatmaps(keypoints.float(), grid))

    def forward(self, source: WarpSource, driving: Tensor) -> tuple[Tensor, Tensor]:
        """Driving keypoints (N, 21, 3) -> deformation f32 (N, 16, 64, 64, 3) and occlusion map (N, 1, 64, 64)."""
        driving = driving.float()
        grid = identity_grid(source.volume)
        fields = self.fields(source, driving, grid)
        features = self.hourglass(self.inputs(source, driving, fields, grid).to(self.mask.weight.dtype))
        mask = self.mask(features).float().softmax(dim=1)
        deformation = (mask.unsqueeze(-1) * fields).sum(dim=1)
        occlusion = self.occlusion(features.flatten(1, 2)).sigmoid()
        return deformation, occlusion

    @staticmethod
    def fields(source: WarpSource, driving: Tensor, grid: Tensor) -> Tensor:
        """One translation per keypoint and the identity first: (N, 22, 16, 64, 64, 3)."""
        shift = F.pad(source.keypoints - driving, (0, 0, 1, 0))
        return grid + shift[:, :, None, None, None, :]

    @staticmethod
    def inputs(source: WarpSource, driving: Tensor, fields: Tensor, grid: Tensor) -> Tensor:
        """The hourglass's input (N, 110, 16, 64, 64): per field, heatmap difference and moved features."""
        rows = driving.shape[0]
        difference = F.pad(heatmaps(driving, grid) - source.heatmaps, (0, 0, 0, 0, 0, 0, 1, 0))
        # All 22 fields of a row sample the same features: stacked along depth they need no copies of them.
        compressed = source.compressed.expand(rows, -1, -1, -1, -1)
        moved = sample(compressed, fields.flatten(1, 2)).reshape(rows, COMPRESSED, FIELDS, *compressed.shape[2:])
        return torch.cat([difference.unsqueeze(2), moved.transpose(1, 2)], dim=2).flatten(1, 2)


class WarpingModule(nn.Module):
    """Feature volume and keypoints of a source, keypoints of N driving frames -> features (N, 256, 64, 64)."""

    def __init__(self, sizes: WarpSizes = PUBLISHED_SIZES) -> None:
        super().__init__()
        self.dense_motion_network = DenseMotion(sizes)
        self.third = ConvNorm(nn.Conv2d(sizes.channels * sizes.depth, sizes.features, 3, padding=1))
        self.fourth = nn.Conv2d(sizes.features, sizes.features, 1)

    def prepare(self, volume: Tensor, keypoints: Tensor) -> WarpSource:
        return self.dense_motion_network.prepare(volume, keypoints)

    def forward(self, source: WarpSource, driving: Tensor) -> Tensor:
        """`source` holds one picture for all driving keypoints (N, 21, 3), or one for each."""
        deformation, occlusion = self.dense_motion_network(source, driving)
        volume = source.volume.expand(driving.shape[0], -1, -1, -1, -1)
        warped = sample(volume, deformation).flatten(1, 2).to(self.fourth.weight.dtype)
        features: Tensor = self.fourth(F.leaky_relu(self.third(warped), LEAKY_SLOPE)) * occlusion
        return features
