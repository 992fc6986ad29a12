"""Small encoder of the embedded profile: a mel window around one frame -> a feature vector."""

from __future__ import annotations

from torch import Tensor, nn

from engines.audio import BANDS


class AudioFeatures(nn.Module):
    """forward: `mel` f32 (B, 80, columns) in [-4, 4] -> f32 (B, width).

    Convolutions along time with the mel bands as channels; frames are independent of each other.
    """

    def __init__(self, columns: int = 20, width: int = 128, channels: tuple[int, int] = (96, 128)) -> None:
        super().__init__()
        first, second = channels
        self.layers = nn.Sequential(
            nn.Conv1d(BANDS, first, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(first, second, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(second * (columns // 2), width),
        )

    def forward(self, mel: Tensor) -> Tensor:
        feature: Tensor = self.layers(0.25 * mel)
        return feature
