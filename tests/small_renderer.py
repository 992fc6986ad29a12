"""The published renderer's structure at a fraction of its size, with random weights."""

import numpy as np
import torch
from torch import Tensor, nn

from engines.networks.decoder import DecoderSizes, SpadeDecoder
from engines.networks.layers import SpectralConv2d, fold
from engines.networks.published_graphs import spec
from engines.networks.renderer_graph import EnrolGraph, Frames, RendererGraph, Sampling
from engines.networks.warping import COMPRESSED, KEYPOINTS, WarpingModule, WarpSizes, WarpSource
from engines.runtime.base import BATCH, IDENTITIES
from export.onnx_file import Graph

WARP = WarpSizes(channels=8, depth=4, encoder=(8, 8, 16, 16, 16), decoder=(16, 16, 8, 8, 8), features=16)
DECODER = DecoderSizes(features=16, hidden=8, middle=16, up=(8, 8))
SIZE = (WARP.depth, 32, 32)
FACE = 4 * SIZE[1]


class SmallAppearance(nn.Module):
    """A picture to a volume; not the published extractor, which has no part in what is tested."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WARP.channels * WARP.depth, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).unflatten(1, (WARP.channels, WARP.depth))


class SmallRenderer:
    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.appearance = SmallAppearance().eval()
        self.warping, self.decoder = WarpingModule(WARP), SpadeDecoder(DECODER)
        with torch.no_grad():
            for module in (*self.warping.modules(), *self.decoder.modules()):
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 1.5)
                elif isinstance(module, SpectralConv2d):
                    left, _, right = torch.linalg.svd(module.weight_orig.flatten(1), full_matrices=False)
                    module.weight_u.copy_(left[:, 0])
                    module.weight_v.copy_(right[0])
        self.warping, self.decoder = fold(self.warping), fold(self.decoder)

    def enrolment(self, sampling: Sampling) -> EnrolGraph:
        return EnrolGraph(self.appearance, self.warping, sampling).eval()

    def renderer(self, sampling: Sampling, pixels: Frames) -> RendererGraph:
        return RendererGraph(self.warping, self.decoder, SIZE, sampling, pixels).eval()

    def inputs(self, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two photos u8 with their keypoints, driving keypoints of some frames, and which photo each shows."""
        picture = torch.randint(0, 256, (2, FACE, FACE, 3), dtype=torch.uint8)
        source, driving = 0.3 * torch.randn(2, KEYPOINTS, 3), 0.3 * torch.randn(frames, KEYPOINTS, 3)
        return picture, source, driving, torch.arange(1, frames + 1) % 2

    def source(self, picture: Tensor, keypoints: Tensor) -> WarpSource:
        return self.warping.prepare(self.appearance(picture.permute(0, 3, 1, 2).float() / 255), keypoints)

    def reference(self, picture: Tensor, source: Tensor, driving: Tensor, rows: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) in [0, 1] from the networks themselves."""
        chosen = WarpSource(*(table[rows] for table in self.source(picture, source)))
        return self.decoder(self.warping(chosen, driving)).clamp(0, 1)

    def graphs(self, sampling: Sampling, pixels: Frames) -> list[Graph]:
        """Enrolment and renderer as the exporter takes them."""
        cells = int(np.prod(SIZE))
        volume = (cells, WARP.channels) if sampling == "decomposed" else (WARP.channels, *SIZE)
        shapes = {
            "volumes": volume,
            "compressed": (COMPRESSED, *SIZE),
            "still": (COMPRESSED, *SIZE),
            "heatmaps": (KEYPOINTS, *SIZE),
        }
        side = 8 * SIZE[1]
        frame = (side, side, 3) if pixels == "rgb" else (side * 3 // 2, side)
        keypoints = spec("keypoints", BATCH, KEYPOINTS, 3)
        tables = [spec(name, IDENTITIES, *shape) for name, shape in shapes.items()]
        return [
            Graph(
                "enrolment",
                self.enrolment(sampling),
                (spec("picture", BATCH, FACE, FACE, 3, dtype=np.uint8), keypoints),
                tuple(spec(name, BATCH, *shape) for name, shape in shapes.items()),
                1,
                {},
            ),
            Graph(
                "renderer",
                self.renderer(sampling, pixels),
                (keypoints, spec("rows", BATCH, dtype=np.int64), spec("source", IDENTITIES, KEYPOINTS, 3), *tables),
                (spec("frames", BATCH, *frame, dtype=np.uint8),),
                1,
                {},
                {"tables": ["source", *shapes], "sampling": sampling},
            ),
        ]
