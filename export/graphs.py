"""Which graphs the published profile consists of, and how each is described."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from engines.networks.appearance import VOLUME_CHANNELS, VOLUME_DEPTH, VOLUME_SIDE
from engines.networks.audio_encoder import AudioEncoder
from engines.networks.ddim import Ddim, DdimConfig
from engines.networks.model import PublishedModel
from engines.networks.motion_extractor import MotionExtractor
from engines.networks.renderer_graph import EnrolGraph, Frames, RendererGraph, Sampling
from engines.networks.stitching import StitchingRetargeting
from engines.networks.warping import COMPRESSED
from engines.networks.window_graph import MOST_UNROLLED, StepGraph, WindowGraph
from engines.runtime.base import BATCH, TensorSpec
from engines.types import FRAME_SIZE, KEYPOINTS, MOTION_WIDTH
from export.examples import FRAMES as FREE_FRAMES
from export.examples import IDENTITIES
from export.onnx_file import Graph

FRAMES = 64  # of a window, the length the published denoiser was trained on
STEPS = 10
FACE = 256  # pixels, both sides, of the picture the extractors read
NORMALISED = "deviations of the training data (norm.npz)"
WINDOW_UNITS = {
    "tokens": f"canonical and reference token, {NORMALISED}",
    "sound": "audio encoder's features",
    "noise": "unit normal",
    "committed": NORMALISED,
    "mask": "1 settled, 0 to be generated",
    "guidance": "weight of the step from no sound to sound, per number",
    "temperature": "scale of the noise, per number",
    "motion": NORMALISED,
}
GRID = "grid coordinates: -1 and 1 are the outermost cells"


def spec(name: str, *shape: int | str, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


class MotionGraph(nn.Module):
    """u8 picture (N, 256, 256, 3) RGB -> canonical keypoints (N, 21, 3) and motion vector (N, 70), all float32."""

    def __init__(self, extractor: MotionExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        heads = self.extractor(picture.permute(0, 3, 1, 2).float() / 255)
        return {"canonical": heads.kp.reshape(-1, KEYPOINTS, 3), "motion": heads.motion()}


class AudioGraph(nn.Module):
    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, mel: Tensor) -> Tensor:
        feature: Tensor = self.encoder(mel)
        return feature


class StitchGraph(nn.Module):
    def __init__(self, module: StitchingRetargeting) -> None:
        super().__init__()
        self.module = module

    def forward(self, source: Tensor, keypoints: Tensor) -> Tensor:
        return self.module.stitch(source, keypoints)


class RetargetGraph(nn.Module):
    """`lips` or `eyes` of the stitching module."""

    def __init__(self, module: StitchingRetargeting, part: str) -> None:
        super().__init__()
        self.module, self.part = module, part

    def forward(self, keypoints: Tensor, ratios: Tensor) -> Tensor:
        delta: Tensor = getattr(self.module, self.part)(keypoints, ratios)
        return delta


def window_inputs(frames: int | str, sound: int) -> tuple[TensorSpec, ...]:
    """Inputs of every sampler graph; `sound` numbers a frame."""
    return (
        spec("tokens", BATCH, 2, MOTION_WIDTH),
        spec("sound", BATCH, frames, sound),
        spec("noise", BATCH, frames, MOTION_WIDTH),
        spec("committed", BATCH, frames, MOTION_WIDTH),
        spec("mask", BATCH, frames),
        spec("guidance", MOTION_WIDTH),
        spec("temperature", MOTION_WIDTH),
    )


def window_graph(
    loop: Ddim, frames: int, *, fixed: bool = True, stepped: bool = False, tolerance: float = 1e-4
) -> Graph:
    """The sampler of a denoiser with `loop`'s schedule: all steps in one graph, or one step (`stepped`).

    Windows have `frames` frames, or (not `fixed`) any number up to that.
    """
    network = loop.denoiser
    size = frames if fixed else FREE_FRAMES
    inputs = window_inputs(size, network.config.audio_width)
    facts: dict[str, object] = {"frames": frames, "steps": loop.config.steps, "timesteps": loop.config.timesteps()}
    if stepped:
        inputs += (
            spec("state", BATCH, size, MOTION_WIDTH),
            spec("step", 1, dtype=np.int64),
            spec("following", 1, dtype=np.int64),
        )
    name, output = ("step", "next") if stepped else ("window", "motion")
    return Graph(
        name,
        (StepGraph if stepped else WindowGraph)(loop, frames, fixed=fixed),
        inputs,
        (spec(output, BATCH, size, MOTION_WIDTH),),
        sum(parameter.numel() for parameter in network.parameters()),
        WINDOW_UNITS | ({"step": "diffusion step 0..999", "following": "the next, 1000 at the end"} if stepped else {}),
        facts,
        tolerance,
        bounded=True,
    )


def tables(sampling: Sampling, rows: str) -> tuple[TensorSpec, ...]:
    """What is kept of enrolled photos: outputs of the enrolment and inputs of the renderer."""
    cells = VOLUME_DEPTH, VOLUME_SIDE, VOLUME_SIDE
    flat = (int(np.prod(cells)), VOLUME_CHANNELS)
    return (
        spec("volumes", rows, *(flat if sampling == "decomposed" else (VOLUME_CHANNELS, *cells))),
        spec("compressed", rows, COMPRESSED, *cells),
        spec("still", rows, COMPRESSED, *cells),
        spec("heatmaps", rows, KEYPOINTS, *cells),
    )


def published(
    model: PublishedModel,
    *,
    frames: int = FRAMES,
    steps: int = STEPS,
    sampling: Sampling = "decomposed",
    pixels: Frames = "rgb",
) -> Iterator[Graph]:
    """Every graph of the published profile, made one after the other; `model` float32 on the CPU."""

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    keypoints = spec("keypoints", BATCH, KEYPOINTS, 3)
    picture = spec("picture", BATCH, FACE, FACE, 3, dtype=np.uint8)
    yield Graph(
        "audio_encoder",
        AudioGraph(model.audio_encoder),
        (spec("mel", BATCH, 80, 16),),
        (spec("feature", BATCH, 512),),
        count(model.audio_encoder),
        {"mel": "log-mel in [-4, 4], 80 bands by 16 columns of 12.5 ms", "feature": "none"},
    )
    guided = DdimConfig(steps=min(steps, MOST_UNROLLED), guided=True)
    if steps <= MOST_UNROLLED:
        yield window_graph(Ddim(model.denoiser, guided), frames)
    yield window_graph(Ddim(model.denoiser, dataclasses.replace(guided, steps=steps)), frames, stepped=True)
    yield Graph(
        "motion_extractor",
        MotionGraph(model.motion_extractor),
        (picture,),
        (spec("canonical", BATCH, KEYPOINTS, 3), spec("motion", BATCH, MOTION_WIDTH)),
        count(model.motion_extractor),
        {"picture": "RGB 0..255", "canonical": "keypoint units", "motion": "scale, degrees, keypoint units"},
        half=False,  # its errors are divided by deviations as small as 6e-7
    )
    yield Graph(
        "enrolment",
        EnrolGraph(model.appearance, model.warping, sampling),
        (picture, keypoints),
        tables(sampling, BATCH),
        count(model.appearance, model.warping.dense_motion_network.compress),
        {"picture": "RGB 0..255", "keypoints": GRID, "volumes": "features", "heatmaps": "0..1"},
        {"sampling": sampling},
        batches=(1, 3),
    )
    size = (VOLUME_DEPTH, VOLUME_SIDE, VOLUME_SIDE)
    shape = (FRAME_SIZE, FRAME_SIZE, 3) if pixels == "rgb" else (FRAME_SIZE * 3 // 2, FRAME_SIZE)
    yield Graph(
        "renderer",
        RendererGraph(model.warping, model.decoder, size, sampling, pixels),
        (
            keypoints,
            spec("rows", BATCH, dtype=np.int64),
            spec("source", IDENTITIES, KEYPOINTS, 3),
            *tables(sampling, IDENTITIES),
        ),
        (spec("frames", BATCH, *shape, dtype=np.uint8),),
        count(model.warping, model.decoder),
        {"keypoints": GRID, "rows": "row of the tables, 0-based", "frames": f"{pixels.upper()} 0..255"},
        {"sampling": sampling, "pixels": pixels, "tables": ["source", *(each.name for each in tables(sampling, ""))]},
        batches=(1,),  # a frame is 1.1 TFLOP
    )
    small = count(model.stitching)
    yield Graph(
        "stitching",
        StitchGraph(model.stitching),
        (spec("source", BATCH, KEYPOINTS, 3), keypoints),
        (spec("stitched", BATCH, KEYPOINTS, 3),),
        small,
        {"source": GRID, "keypoints": GRID, "stitched": GRID},
    )
    for part, ratios in (("lips", 2), ("eyes", 3)):
        yield Graph(
            f"retargeting_{part}",
            RetargetGraph(model.stitching, part),
            (keypoints, spec("ratios", BATCH, ratios)),
            (spec("delta", BATCH, KEYPOINTS, 3),),
            small,
            {"keypoints": GRID, "ratios": "opening over width", "delta": GRID},
        )
