"""LivePortrait's stitching and retargeting modules (arXiv 2407.03168): small MLPs that correct keypoints."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLAT = 63  # 21 keypoints x 3
STITCHING = (2 * FLAT, 128, 128, 64, FLAT + 2)
LIP_RETARGETING = (FLAT + 2, 128, 128, 64, FLAT)
EYE_RETARGETING = (FLAT + 3, 256, 256, 128, 128, 64, FLAT)


class KeypointMlp(nn.Module):
    """Linear layers of the given sizes with ReLU between them and none after the last."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x)
        return out


class StitchingRetargeting(nn.Module):
    """The three corrections of one published file, under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.retarget_shoulder = KeypointMlp(STITCHING)
        self.retarget_mouth = KeypointMlp(LIP_RETARGETING)
        self.retarget_eye = KeypointMlp(EYE_RETARGETING)

    def stitch(self, source: Tensor, driving: Tensor) -> Tensor:
        """Driving keypoints (N, 21, 3) moved so that the crop's border stays where the source's is."""
        source = source.expand_as(driving)
        delta: Tensor = self.retarget_shoulder(torch.cat([source.flatten(1), driving.flatten(1)], dim=1))
        everywhere = F.pad(delta[:, None, FLAT:], (0, 1))  # x and y of all keypoints alike
        return driving + delta[:, :FLAT].view_as(driving) + everywhere

    def lips(self, keypoints: Tensor, ratios: Tensor) -> Tensor:
        """Keypoints (N, 21, 3) and (N, 2) [source, target] lip opening -> deltas (N, 21, 3)."""
        delta: Tensor = self.retarget_mouth(torch.cat([keypoints.flatten(1), ratios], dim=1))
        return delta.view_as(keypoints)

    def eyes(self, keypoints: Tensor, ratios: Tensor) -> Tensor:
        """Keypoints (N, 21, 3) and (N, 3) [left, right, target] eye opening -> deltas (N, 21, 3)."""
        delta: Tensor = self.retarget_eye(torch.cat([keypoints.flatten(1), ratios], dim=1))
        return delta.view_as(keypoints)
