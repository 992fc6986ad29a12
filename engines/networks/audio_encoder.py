"""Wav2Lip's audio encoder (Prajwal et al. 2020): one mel window to one 512-vector per video frame."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from engines.networks.layers import Foldable, fold_norm

AUDIO_WIDTH = 512


class AudioUnit(Foldable):
    """Convolution, batch norm, optional residual, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int | tuple[int, int], padding: int, residual: bool
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x)
        return F.relu(out + x if self.residual else out)

    def fold(self) -> None:
        fold_norm(self.conv_block, "0", "1")


class AudioEncoder(nn.Sequential):
    """Mel windows (N, 80, 16) -> features (N, 512), non-negative. Frames are independent of each other."""

    def __init__(self) -> None:
        def same(width: int) -> AudioUnit:
            return AudioUnit(width, width, 3, 1, 1, residual=True)

        super().__init__(
            AudioUnit(1, 32, 3, 1, 1, residual=False),
            same(32),
            same(32),
            AudioUnit(32, 64, 3, (3, 1), 1, residual=False),
            same(64),
            same(64),
            AudioUnit(64, 128, 3, 3, 1, residual=False),
            same(128),
            same(128),
            AudioUnit(128, 256, 3, (3, 2), 1, residual=False),
            same(256),
            AudioUnit(256, AUDIO_WIDTH, 3, 1, 0, residual=False),
            AudioUnit(AUDIO_WIDTH, AUDIO_WIDTH, 1, 1, 0, residual=False),
        )

    def forward(self, mel: Tensor) -> Tensor:
        x = mel.unsqueeze(1)
        for unit in self:
            x = unit(x)
        return x.flatten(1)
