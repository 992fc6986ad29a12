"""Sampling and convolution written so that every runtime accepts them and none computes more than is needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def float32_only(tensor: Tensor) -> AbstractContextManager[object]:
    """Products of coordinates stay in float32 where autocast would take them to half."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def cell_position(coordinate: Tensor, cells: int) -> Tensor:
    """Coordinate in [-1, 1] -> cell index, as grid sampling without aligned corners reads it."""
    return ((coordinate + 1) * cells - 1) / 2


def interpolation(position: Tensor, cells: int) -> Tensor:
    """Linear interpolation along one axis as a matrix: cell indices (..., n) -> weights (..., n, cells).

    A hat of width one about every position; what would be read outside the cells counts as zero.
    """
    index = torch.arange(cells, dtype=position.dtype, device=position.device)
    return F.relu(1 - (position.unsqueeze(-1) - index).abs())


def move(features: Tensor, shift: Tensor, coordinates: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Features (N, C, D, H, W) moved by K translations each, `shift` (N, K, 3) as x, y, z -> (N, K, C, D, H, W).

    Equals trilinear grid sampling at `coordinates` (of x, y and z) plus shift, zeros outside, corners not aligned:
    the weights of a translation are a product of one factor an axis.
    """
    rows, fields = shift.shape[:2]
    channels, depth, height, width = (int(size) for size in features.shape[1:])
    along_x, along_y, along_z = (
        interpolation(cell_position(coordinates[axis] + shift[..., axis, None], cells), cells)
        for axis, cells in enumerate((width, height, depth))
    )  # (N, K, n, n)
    with float32_only(features):
        x = features.reshape(rows, 1, channels * depth * height, width) @ along_x.transpose(-1, -2)
        x = along_y.unsqueeze(2) @ x.reshape(rows, fields, channels * depth, height, width)
        x = along_z.unsqueeze(2) @ x.reshape(rows, fields, channels, depth, height * width)
    return x.reshape(rows, fields, channels, depth, height, width)


def gather_trilinear(table: Tensor, rows: Tensor, field: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Trilinear sampling of volumes chosen from a table, zeros outside, corners not aligned, by gathers alone.

    `table` (S, D H W, C), channels last so that a corner is one contiguous read; `rows` int64 (N,), which volume;
    `field` (N, 3, P) coordinates x, y, z; `size` (D, H, W). Returns (N, C, P).
    """
    cells = (size[2], size[1], size[0])
    positions = [cell_position(field[:, axis], count) for axis, count in enumerate(cells)]
    lows = [position.floor() for position in positions]
    sides = []  # per axis and side: index inside the volume, and weight, zero outside
    for position, low, count in zip(positions, lows, cells, strict=True):
        high_share = position - low
        both = []
        for index, share in ((low, 1 - high_share), (low + 1, high_share)):
            inside = ((index >= 0) & (index <= count - 1)).to(share.dtype)
            both.append((index.clamp(0, count - 1).to(torch.int64), share * inside))
        sides.append(both)
    flat = table.flatten(0, 1)
    base = (rows * table.shape[1]).unsqueeze(-1)
    total: Tensor | None = None
    for z, z_share in sides[2]:
        for y, y_share in sides[1]:
            for x, x_share in sides[0]:
                corner = F.embedding(base + (z * size[1] + y) * size[2] + x, flat)  # (N, P, C)
                part = corner * (z_share * y_share * x_share).unsqueeze(-1)
                total = part if total is None else total + part
    assert total is not None
    return total.transpose(1, 2)


class UpsampledConv(nn.Module):
    """A 3 x 3 (x 3) convolution, padding 1, of a map first enlarged by whole-number repetition, without enlarging it.

    Neighbouring outputs read the same source cells, so kernel columns and rows that meet one cell are added up
    beforehand. For a factor of 2 that is 16 products a source cell for 36; for 4, where the middle outputs are all
    equal, 25 for 144. A 3-D convolution is enlarged in height and width alone.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.depth_padding = [1] if isinstance(conv, nn.Conv3d) else []
        self.convolve = F.conv3d if isinstance(conv, nn.Conv3d) else F.conv2d
        with torch.no_grad():
            weight = conv.weight.double()
            self.kernels = nn.ParameterDict()
            outer = [_first(weight, -2), _last(weight, -2)]
            corners = [_columns(row) for row in outer]
            self.kernels["corners"] = nn.Parameter(torch.cat([w for pair in corners for w in pair[:2]]).to(conv.weight))
            if factor > 2:
                middle = weight.sum(-2, keepdim=True)
                first, last, centre = _columns(middle)
                self.kernels["sides"] = nn.Parameter(torch.cat([first, last]).to(conv.weight))
                self.kernels["edges"] = nn.Parameter(torch.cat([pair[2] for pair in corners]).to(conv.weight))
                self.kernels["centre"] = nn.Parameter(centre.to(conv.weight))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        # Each convolution gives one row or column more than needed: the first outputs start at 0, the last at 1.
        four = self._part(x, "corners", (1, 1), 4)
        rows = [
            [four[2 * row + column][..., row : row + height, column : column + width] for column in (0, 1)]
            for row in (0, 1)
        ]
        if self.factor > 2:
            above, below = (
                part[..., row : row + height, :] for row, part in enumerate(self._part(x, "edges", (1, 0), 2))
            )
            left, right = (
                part[..., column : column + width] for column, part in enumerate(self._part(x, "sides", (0, 1), 2))
            )
            (centre,) = self._part(x, "centre", (0, 0), 1)
            inner = self.factor - 2
            rows = [
                [rows[0][0], *([above] * inner), rows[0][1]],
                *([[left, *([centre] * inner), right]] * inner),
                [rows[1][0], *([below] * inner), rows[1][1]],
            ]
        lines = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-3)  # (..., H, factor, W, factor)
        return lines.reshape(*four[0].shape[:-2], self.factor * height, self.factor * width)

    def _part(self, x: Tensor, kernel: str, padding: tuple[int, int], parts: int) -> tuple[Tensor, ...]:
        bias = None if self.bias is None else self.bias.repeat(parts)
        out = self.convolve(x, self.kernels[kernel], bias, padding=[*self.depth_padding, *padding])
        return out.chunk(parts, dim=1)


def _first(weight: Tensor, axis: int) -> Tensor:
    """Kernel of the first output in a source cell, reading (cell before, cell)."""
    before, here, after = torch.split(weight, 1, axis)
    return torch.cat([before, here + after], axis)


def _last(weight: Tensor, axis: int) -> Tensor:
    """Kernel of the last output in a source cell, reading (cell, cell after)."""
    before, here, after = torch.split(weight, 1, axis)
    return torch.cat([before + here, after], axis)


def _columns(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of the first, the last and the middle outputs along the last axis."""
    return _first(weight, -1), _last(weight, -1), weight.sum(-1, keepdim=True)
