"""The published renderer as it is exported: enrolment once a photo, then frames from keypoints.

Same pictures as `WarpingModule` and `SpadeDecoder`, less work: keypoint fields are pure translations (`sampling.move`),
heatmaps are a product of one Gaussian an axis, the mask's weights sum to one so that the deformation is the grid plus
a weighted shift, maps are never enlarged before a convolution, and norms are folded. Takes folded networks.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.decoder import LEAKY_SLOPE as DECODER_SLOPE
from engines.networks.decoder import Spade, SpadeBlock, SpadeDecoder
from engines.networks.layers import fold
from engines.networks.sampling import UpsampledConv, float32_only, gather_trilinear, move
from engines.networks.warping import HEATMAP_VARIANCE, LEAKY_SLOPE, WarpingModule, axis, identity_grid

Sampling = Literal["decomposed", "native"]
Frames = Literal["rgb", "i420"]

# Levels of the hourglass below this many cells are enlarged before their convolution: there the weights, which the
# rewrite makes more of, cost more than the products it saves.
FEWEST_CELLS = 4096
# ITU-R BT.601 in its narrow range, which video codecs expect: Y, U, V of R, G, B in [0, 1].
TO_YUV = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
YUV_OFFSET = (16.0, 128.0, 128.0)


class EnrolGraph(nn.Module):
    """What the frames of one photo share: the rows of the tables that `RendererGraph` reads.

    forward: `picture` u8 (N, 256, 256, 3) RGB, `keypoints` f32 (N, 21, 3) of the photo -> by name, f32:
    `volumes` (N, 65536, 32) (native: (N, 32, 16, 64, 64)), `compressed` and `still` (N, 4, 16, 64, 64), the latter
    moved by the background's field, `heatmaps` (N, 21, 16, 64, 64).
    """

    def __init__(self, appearance: nn.Module, warping: WarpingModule, sampling: Sampling = "decomposed") -> None:
        super().__init__()
        self.appearance, self.warping, self.sampling = appearance, warping.dense_motion_network, sampling

    def forward(self, picture: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        # A cast before all else: of bytes TensorRT takes nothing but that.
        volume = self.appearance(picture.float().permute(0, 3, 1, 2) / 255).float()
        compressed = F.relu(self.warping.norm(self.warping.compress(volume))).float()
        axes = _axes(volume)
        still = move(compressed, torch.zeros_like(keypoints[:, :1]), axes)[:, 0]
        gaussians = _heatmaps(keypoints, axes)
        table = volume if self.sampling == "native" else volume.flatten(2).transpose(1, 2)
        return {"volumes": table, "compressed": compressed, "still": still, "heatmaps": gaussians}


class RendererGraph(nn.Module):
    """Keypoints to pictures for any mix of enrolled photos.

    forward: `keypoints` f32 (N, 21, 3) driving, `rows` int64 (N,): which photo, and the tables of S photos:
    `source` f32 (S, 21, 3) keypoints and what `EnrolGraph` gave. Returns u8 `frames`: RGB (N, 512, 512, 3), fractions
    cut off as the original does, or I420 (N, 768, 512), rounded.
    """

    def __init__(
        self,
        warping: WarpingModule,
        decoder: SpadeDecoder,
        size: tuple[int, int, int] = (16, 64, 64),
        sampling: Sampling = "decomposed",
        frames: Frames = "rgb",
    ) -> None:
        super().__init__()
        self.size, self.sampling, self.frames = size, sampling, frames
        self.warping, self.decoder = fold(copy.deepcopy(warping)), fold(copy.deepcopy(decoder))
        self.blocks = nn.ModuleList(
            UpsampledConv(block.conv, 2) if cells >= FEWEST_CELLS else block  # type: ignore[arg-type]
            for block, cells in zip(self._decoder_blocks(), self._decoder_cells(), strict=True)
        )
        for name, block in self.decoder.named_children():
            if isinstance(block, SpadeBlock):
                for inner, spade in list(block.named_children()):
                    if isinstance(spade, Spade):
                        setattr(block, inner, FoldedSpade(spade, {"up_0": 2, "up_1": 4}.get(name, 1)))
        grid = identity_grid(torch.empty(size))
        self.register_buffer("grid", grid.flatten(0, 2).t().contiguous())  # (3, cells)
        self.axes = nn.ParameterList(nn.Parameter(line, requires_grad=False) for line in _axes(torch.empty(size)))
        self.register_buffer("to_yuv", torch.tensor(TO_YUV))
        self.register_buffer("yuv_offset", torch.tensor(YUV_OFFSET)[:, None, None])

    def forward(
        self,
        keypoints: Tensor,
        rows: Tensor,
        source: Tensor,
        volumes: Tensor,
        compressed: Tensor,
        still: Tensor,
        heatmaps: Tensor,
    ) -> Tensor:
        return self._pixels(self.decode(self.warp(keypoints, rows, source, volumes, compressed, still, heatmaps)))

    def warp(
        self,
        keypoints: Tensor,
        rows: Tensor,
        source: Tensor,
        volumes: Tensor,
        compressed: Tensor,
        still: Tensor,
        heatmaps: Tensor,
    ) -> Tensor:
        """As `WarpingModule.forward`: warped features (N, 256, 64, 64)."""
        shift = source[rows] - keypoints
        axes = (self.axes[0], self.axes[1], self.axes[2])
        moved = move(compressed[rows], shift, axes)
        features = torch.cat([still[rows].unsqueeze(1), moved], 1)  # (N, 22, 4, D, H, W)
        difference = F.pad(_heatmaps(keypoints, axes) - heatmaps[rows], (0, 0, 0, 0, 0, 0, 1, 0)).unsqueeze(2)
        seen = self._hourglass(torch.cat([difference, features], 2).flatten(1, 2))
        dense = self.warping.dense_motion_network
        shares = dense.mask(seen).float().softmax(1).flatten(2)  # (N, 22, cells)
        with float32_only(shares):
            field = self.get_buffer("grid") + shift.transpose(1, 2) @ shares[:, 1:]
        if self.sampling == "native":
            chosen = volumes[rows]
            at = field.transpose(1, 2).reshape(-1, *self.size, 3)
            warped = F.grid_sample(chosen, at, mode="bilinear", padding_mode="zeros", align_corners=False)
            warped = warped.flatten(1, 2)
        else:
            warped = gather_trilinear(volumes, rows, field, self.size)
            warped = warped.reshape(-1, int(warped.shape[1]) * self.size[0], *self.size[1:])
        occlusion = dense.occlusion(seen.flatten(1, 2)).sigmoid()
        out: Tensor = self.warping.fourth(F.leaky_relu(self.warping.third(warped), LEAKY_SLOPE)) * occlusion
        return out

    def _hourglass(self, x: Tensor) -> Tensor:
        hourglass = self.warping.dense_motion_network.hourglass
        levels: list[Tensor] = hourglass.encoder(x)
        x = levels[-1]
        for block, skip in zip(self.blocks, levels[-2::-1], strict=True):
            if not isinstance(block, UpsampledConv):
                x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0))
            x = torch.cat([F.relu(block(x)), skip], 1)
        out: Tensor = F.relu(hourglass.decoder.conv(x))
        return out

    def decode(self, features: Tensor) -> Tensor:
        """As `SpadeDecoder.forward`, RGB (N, 3, 512, 512) in [0, 1]; modulations enlarge the features on their own."""
        decoder = self.decoder
        x = decoder.fc(features)
        for number in range(6):
            x = decoder.get_submodule(f"G_middle_{number}")(x, features)
        x = decoder.up_0(F.interpolate(x, scale_factor=2.0), features)
        x = decoder.up_1(F.interpolate(x, scale_factor=2.0), features)
        picture: Tensor = decoder.conv_img(F.leaky_relu(x, DECODER_SLOPE)).float().sigmoid()
        return picture

    def _pixels(self, picture: Tensor) -> Tensor:
        if self.frames == "rgb":
            return (picture.clamp(0, 1) * 255).floor().permute(0, 2, 3, 1).to(torch.uint8)
        height, width = int(picture.shape[2]), int(picture.shape[3])
        colours = picture.clamp(0, 1).flatten(2)
        with float32_only(colours):
            yuv = self.get_buffer("to_yuv") @ colours
        yuv = yuv.reshape(-1, 3, height, width) + self.get_buffer("yuv_offset")
        small = F.avg_pool2d(yuv[:, 1:], 2)  # (N, 2, H / 2, W / 2): planes U and V, two of their lines to one of Y's
        planes = torch.cat([yuv[:, 0], small.reshape(-1, height // 2, width)], 1)
        return (planes + 0.5).floor().to(torch.uint8)

    def _decoder_blocks(self) -> list[nn.Module]:
        return list(self.warping.dense_motion_network.hourglass.decoder.up_blocks)

    def _decoder_cells(self) -> list[int]:
        """Cells each level of the hourglass's second half writes."""
        depth, height, width = self.size
        levels = len(self._decoder_blocks())
        return [depth * (height >> level) * (width >> level) for level in reversed(range(levels))]


class FoldedSpade(nn.Module):
    """`Spade` with scale and shift from one convolution, on features that are `factor` times smaller than x."""

    def __init__(self, spade: Spade, factor: int) -> None:
        super().__init__()
        shared = spade.mlp_shared[0]
        assert isinstance(shared, nn.Conv2d)
        self.shared: nn.Module = shared if factor == 1 else UpsampledConv(shared, factor)
        gamma, beta = spade.mlp_gamma, spade.mlp_beta
        self.scale_and_shift = nn.Conv2d(gamma.in_channels, 2 * gamma.out_channels, 3, padding=1)
        assert gamma.bias is not None
        assert beta.bias is not None
        assert self.scale_and_shift.bias is not None
        with torch.no_grad():
            self.scale_and_shift.weight.copy_(torch.cat([gamma.weight, beta.weight]))
            self.scale_and_shift.bias.copy_(torch.cat([gamma.bias + 1, beta.bias]))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(F.relu(self.shared(features))).chunk(2, 1)
        modulated: Tensor = F.instance_norm(x.float()).to(x.dtype) * scale + shift
        return modulated


def _axes(volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of the cells of a volume (..., D, H, W) along x, y and z."""
    depth, height, width = (int(size) for size in volume.shape[-3:])
    return axis(width, volume.device), axis(height, volume.device), axis(depth, volume.device)


def _heatmaps(keypoints: Tensor, axes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Gaussians about keypoints (N, 21, 3) -> (N, 21, D, H, W), a product of one factor an axis."""
    x, y, z = (
        torch.exp((line - keypoints[..., number, None]).square() * (-0.5 / HEATMAP_VARIANCE))
        for number, line in enumerate(axes)
    )
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
