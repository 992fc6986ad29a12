"""The published networks as every runtime runs them: modules, with the names and shapes of what goes in and out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engines.audio import BANDS, SILENCE
from engines.networks.appearance import VOLUME_CHANNELS, VOLUME_DEPTH, VOLUME_SIDE
from engines.networks.audio_encoder import AUDIO_WIDTH, AudioEncoder
from engines.networks.ddim import Ddim, DdimConfig, published_sampling
from engines.networks.model import PublishedModel
from engines.networks.motion_extractor import MotionExtractor
from engines.networks.renderer_graph import EnrolGraph, Frames, RendererGraph, Sampling
from engines.networks.stitching import StitchingRetargeting
from engines.networks.warping import COMPRESSED
from engines.profile import KDTALKER
from engines.runtime.base import BATCH, IDENTITIES, TensorSpec
from engines.types import FRAME_SIZE, KEYPOINTS, MOTION_WIDTH

FACE = 256  # pixels, both sides, of the picture the extractors read


class Network(NamedTuple):
    """A module that takes its inputs by name, and what they are."""

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def spec(name: str, *shape: int | str, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


PICTURE = spec("picture", BATCH, FACE, FACE, 3, dtype=np.uint8)
DRIVING = spec("keypoints", BATCH, KEYPOINTS, 3)


class MotionGraph(nn.Module):
    """u8 picture (N, 256, 256, 3) RGB -> canonical keypoints (N, 21, 3) and motion vector (N, 70), all float32."""

    def __init__(self, extractor: MotionExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        heads = self.extractor(picture.float().permute(0, 3, 1, 2) / 255)
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


def audio_encoder(model: PublishedModel) -> Network:
    mel, feature = spec("mel", BATCH, 80, 16), spec("feature", BATCH, AUDIO_WIDTH)
    return Network("audio_encoder", AudioGraph(model.audio_encoder), (mel,), (feature,))


def window_inputs(frames: int | str, sound: int) -> tuple[TensorSpec, ...]:
    """Inputs of every sampler; `sound` numbers a frame."""
    return (
        spec("tokens", BATCH, 2, MOTION_WIDTH),
        spec("sound", BATCH, frames, sound),
        spec("noise", BATCH, frames, MOTION_WIDTH),
        spec("committed", BATCH, frames, MOTION_WIDTH),
        spec("mask", BATCH, frames),
        spec("guidance", MOTION_WIDTH),
        spec("temperature", MOTION_WIDTH),
    )


def sampling_loop(model: PublishedModel, config: DdimConfig) -> Ddim:
    """The denoiser with a schedule. Without speech it hears what the encoder makes of silence, never zeros, which it
    was not trained on."""
    device = next(model.audio_encoder.parameters()).device
    with torch.no_grad():
        silence = model.audio_encoder(torch.full((1, BANDS, KDTALKER.mel.columns), float(SILENCE), device=device))[0]
    return Ddim(model.denoiser, config, silence=silence)


def window(model: PublishedModel, steps: int, frames: int, *, guided: bool = False) -> Network:
    """The sampling loop itself, for torch; other runtimes have graphs of it (`engines.networks.window_graph`)."""
    loop = sampling_loop(model, published_sampling(steps, guided=guided))
    motion = spec("motion", BATCH, frames, MOTION_WIDTH)
    return Network("window", loop, window_inputs(frames, AUDIO_WIDTH), (motion,))


def motion_extractor(model: PublishedModel) -> Network:
    outputs = (spec("canonical", BATCH, KEYPOINTS, 3), spec("motion", BATCH, MOTION_WIDTH))
    return Network("motion_extractor", MotionGraph(model.motion_extractor), (PICTURE,), outputs)


def tables(sampling: Sampling, rows: str) -> tuple[TensorSpec, ...]:
    """What is kept of enrolled photos: outputs of the enrolment and, after the keypoints, inputs of the renderer."""
    cells = VOLUME_DEPTH, VOLUME_SIDE, VOLUME_SIDE
    flat = (int(np.prod(cells)), VOLUME_CHANNELS)
    return (
        spec("volumes", rows, *(flat if sampling == "decomposed" else (VOLUME_CHANNELS, *cells))),
        spec("compressed", rows, COMPRESSED, *cells),
        spec("still", rows, COMPRESSED, *cells),
        spec("heatmaps", rows, KEYPOINTS, *cells),
    )


def enrolment(model: PublishedModel, sampling: Sampling = "decomposed") -> Network:
    module = EnrolGraph(model.appearance, model.warping, sampling)
    return Network("enrolment", module, (PICTURE, DRIVING), tables(sampling, BATCH))


def renderer(model: PublishedModel, sampling: Sampling = "decomposed", pixels: Frames = "rgb") -> Network:
    module = RendererGraph(model.warping, model.decoder, (VOLUME_DEPTH, VOLUME_SIDE, VOLUME_SIDE), sampling, pixels)
    rows, source = spec("rows", BATCH, dtype=np.int64), spec("source", IDENTITIES, KEYPOINTS, 3)
    shape = (FRAME_SIZE, FRAME_SIZE, 3) if pixels == "rgb" else (FRAME_SIZE * 3 // 2, FRAME_SIZE)
    frames = spec("frames", BATCH, *shape, dtype=np.uint8)
    return Network("renderer", module, (DRIVING, rows, source, *tables(sampling, IDENTITIES)), (frames,))


def stitching(model: PublishedModel) -> Network:
    inputs = (spec("source", BATCH, KEYPOINTS, 3), DRIVING)
    return Network("stitching", StitchGraph(model.stitching), inputs, (spec("stitched", BATCH, KEYPOINTS, 3),))


def retargeting(model: PublishedModel, part: str, ratios: int) -> Network:
    """`part` lips or eyes, with that many opening ratios."""
    inputs = (DRIVING, spec("ratios", BATCH, ratios))
    return Network(
        f"retargeting_{part}", RetargetGraph(model.stitching, part), inputs, (spec("delta", BATCH, KEYPOINTS, 3),)
    )
