"""LivePortrait's appearance extractor (arXiv 2407.03168): one picture to a feature volume."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.layers import ConvNorm, Foldable, fold_norm

VOLUME_CHANNELS, VOLUME_DEPTH, VOLUME_SIDE = 32, 16, 64
RESIDUAL_BLOCKS = 6


class ResidualBlock3d(Foldable):
    """Pre-activation residual block: norm, ReLU, convolution, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, 3, padding=1)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(width)
        self.norm2 = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        added: Tensor = x + self.conv2(F.relu(self.norm2(y)))
        return added

    def fold(self) -> None:
        fold_norm(self, "conv1", "norm2")


class AppearanceExtractor(nn.Module):
    """RGB (N, 3, 256, 256) in [0, 1] -> feature volume (N, 32, 16, 64, 64), axes channel, depth, height, width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNorm(nn.Conv2d(3, 64, 3, padding=1))
        self.down_blocks = nn.ModuleList(
            [ConvNorm(nn.Conv2d(64, 128, 3, padding=1)), ConvNorm(nn.Conv2d(128, 256, 3, padding=1))]
        )
        self.second = nn.Conv2d(256, VOLUME_CHANNELS * VOLUME_DEPTH, 1)
        self.resblocks_3d = nn.Sequential(
            OrderedDict((f"3dr{i}", ResidualBlock3d(VOLUME_CHANNELS)) for i in range(RESIDUAL_BLOCKS))
        )

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.first(image))
        for block in self.down_blocks:
            x = F.avg_pool2d(F.relu(block(x)), 2)
        volume: Tensor = self.resblocks_3d(self.second(x).unflatten(1, (VOLUME_CHANNELS, VOLUME_DEPTH)))
        return volume
