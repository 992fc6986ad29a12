"""Small encoder of the embedded profile: a mel window around one frame -> a feature vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.audio import BANDS


class AudioFeatures(nn.Module):
    """forward: `mel` f32 (B, 80, columns) in [-4, 4] -> f32 (B, width).

    Convolutions along time with the mel bands as channels, without padding; frames are independent.
    """

    def __init__(self, columns: int = 20, width: int = 128, channels: tuple[int, int] = (96, 128)) -> None:
        super().__init__()
        first, second = channels
        self.columns = columns
        self.local = nn.Sequential(nn.Conv1d(BANDS, first, 3), nn.SiLU())
        self.window = nn.Sequential(
            nn.Conv1d(first, second, 4, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(second * (columns // 2 - 2), width),
        )

    def forward(self, mel: Tensor) -> Tensor:
        feature: Tensor = self.window(self.local(0.25 * mel))
        return feature

    def over(self, mel: Tensor, starts: Tensor) -> Tensor:
        """The same for overlapping windows of a longer mel, whose shared columns are computed once.

        `mel` (B, 80, K), `starts` int64 (B, N): first column of each window -> (B, N, width).
        """
        local = self.local(0.25 * mel)  # (B, C, K - 2)
        index = starts[..., None] + torch.arange(self.columns - 2, device=mel.device)
        rows = torch.arange(len(mel), device=mel.device)[:, None, None]
        windows = local.transpose(1, 2)[rows, index]  # (B, N, columns - 2, C)
        feature: Tensor = self.window(windows.flatten(0, 1).transpose(1, 2))
        return feature.view(*starts.shape, -1)
