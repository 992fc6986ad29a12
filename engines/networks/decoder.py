"""LivePortrait's generator (arXiv 2407.03168): SPADE (arXiv 1903.07291) from warped features to the picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.layers import SpectralConv2d

LEAKY_SLOPE = 0.2


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Widths of the published decoder. `features`: channels of the warped features, which modulate every layer."""

    features: int = 256
    hidden: int = 128
    middle: int = 512
    up: tuple[int, int] = (256, 64)


PUBLISHED_SIZES = DecoderSizes()


class Spade(nn.Module):
    """Instance norm whose scale and shift are read from the warped features, at the layer's resolution."""

    def __init__(self, width: int, sizes: DecoderSizes) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(sizes.features, sizes.hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(sizes.hidden, width, 3, padding=1)
        self.mlp_beta = nn.Conv2d(sizes.hidden, width, 3, padding=1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        shared = self.mlp_shared(F.interpolate(features, size=x.shape[2:]))
        modulated: Tensor = F.instance_norm(x) * (1 + self.mlp_gamma(shared)) + self.mlp_beta(shared)
        return modulated


class SpadeBlock(nn.Module):
    """Residual block of two modulated convolutions; the shortcut is convolved only where the width changes."""

    def __init__(self, inputs: int, outputs: int, sizes: DecoderSizes) -> None:
        super().__init__()
        inner = min(inputs, outputs)
        self.conv_0 = SpectralConv2d(inputs, inner, 3)
        self.conv_1 = SpectralConv2d(inner, outputs, 3)
        self.norm_0 = Spade(inputs, sizes)
        self.norm_1 = Spade(inner, sizes)
        self.widens = inputs != outputs
        if self.widens:
            self.conv_s = SpectralConv2d(inputs, outputs, 1, bias=False)
            self.norm_s = Spade(inputs, sizes)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, features)) if self.widens else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, features), LEAKY_SLOPE))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, features), LEAKY_SLOPE))
        summed: Tensor = shortcut + y
        return summed


class SpadeDecoder(nn.Module):
    """Warped features (N, 256, 64, 64) -> RGB (N, 3, 512, 512) in [0, 1]."""

    def __init__(self, sizes: DecoderSizes = PUBLISHED_SIZES) -> None:
        super().__init__()
        wide, (half, narrow) = sizes.middle, sizes.up
        self.fc = nn.Conv2d(sizes.features, wide, 3, padding=1)
        self.G_middle_0 = SpadeBlock(wide, wide, sizes)
        self.G_middle_1 = SpadeBlock(wide, wide, sizes)
        self.G_middle_2 = SpadeBlock(wide, wide, sizes)
        self.G_middle_3 = SpadeBlock(wide, wide, sizes)
        self.G_middle_4 = SpadeBlock(wide, wide, sizes)
        self.G_middle_5 = SpadeBlock(wide, wide, sizes)
        self.up_0 = SpadeBlock(wide, half, sizes)
        self.up_1 = SpadeBlock(half, narrow, sizes)
        self.conv_img = nn.Sequential(nn.Conv2d(narrow, 3 * 2 * 2, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, features: Tensor) -> Tensor:
        x = self.fc(features)
        middle = (self.G_middle_0, self.G_middle_1, self.G_middle_2, self.G_middle_3, self.G_middle_4, self.G_middle_5)
        for block in middle:
            x = block(x, features)
        x = self.up_0(F.interpolate(x, scale_factor=2), features)
        x = self.up_1(F.interpolate(x, scale_factor=2), features)
        picture: Tensor = self.conv_img(F.leaky_relu(x, LEAKY_SLOPE)).sigmoid()
        return picture
