"""The published networks in PyTorch: loaded from their files, or with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engines.motion import Normalisation
from engines.networks import checkpoints
from engines.networks.appearance import AppearanceExtractor
from engines.networks.audio_encoder import AudioEncoder
from engines.networks.checkpoints import CHECKPOINTS, NORM_FILE, Checkpoint
from engines.networks.decoder import SpadeDecoder
from engines.networks.denoiser import Denoiser
from engines.networks.layers import Network, SpectralConv2d, fold
from engines.networks.motion_extractor import MotionExtractor
from engines.networks.stitching import StitchingRetargeting
from engines.networks.warping import WarpingModule
from engines.types import EngineError

POWER_ITERATIONS = 5  # enough for the spectral norm of a random matrix
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """The published networks, loaded, folded and in float32, on their way to a `device`.

    `half`: the type that appearance, warping, decoder and denoiser are to compute in there, None for float32.
    """

    audio_encoder: AudioEncoder
    denoiser: Denoiser
    motion_extractor: MotionExtractor
    appearance: AppearanceExtractor
    warping: WarpingModule
    decoder: SpadeDecoder
    stitching: StitchingRetargeting
    normalisation: Normalisation
    device: torch.device
    half: torch.dtype | None


def load_model(files: dict[str, Path], device: str = "auto", precision: str = "float32") -> PublishedModel:
    """The published weights; `files` maps published file names to where they lie.

    Raises WeightsError for a file that is missing, damaged or another one; EngineError for a device or precision
    that is not to be had.
    """

    def network(checkpoint: Checkpoint[Any]) -> nn.Module:
        loaded: nn.Module = checkpoints.load_checkpoint(checkpoint, files.get(checkpoint.file, Path(checkpoint.file)))
        return loaded

    normalisation = checkpoints.load_normalisation(files.get(NORM_FILE, Path(NORM_FILE)))
    return assemble(network, normalisation, device, precision)


def random_model(seed: int, device: str = "auto", precision: str = "float32") -> PublishedModel:
    """Networks of the published shape with random weights: the whole path runs and the picture is noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {checkpoint.file: randomised(checkpoint.network()) for checkpoint in CHECKPOINTS}
    mean, std = np.zeros(70, np.float32), np.full(70, 1e-3, np.float32)
    mean[0], std[:4] = 1.0, (0.01, 0.5, 0.5, 0.5)
    normalisation = Normalisation(mean, std, np.zeros(63, np.float32), np.ones(63, np.float32))
    return assemble(lambda checkpoint: networks[checkpoint.file], normalisation, device, precision)


@torch.no_grad()
def randomised(network: Network) -> Network:
    """A network as it is constructed, made consistent: stored spectral vectors are those of the random weights."""
    for module in network.modules():
        if isinstance(module, SpectralConv2d):
            weight = module.weight_orig.flatten(1)
            for _ in range(POWER_ITERATIONS):
                module.weight_v.copy_(F.normalize(weight.T @ module.weight_u, dim=0))
                module.weight_u.copy_(F.normalize(weight @ module.weight_v, dim=0))
    if isinstance(network, MotionExtractor):
        network.fc_scale.bias.fill_(1.0)  # a face of no size would leave nothing to move
    return network.eval()


def assemble(
    network: Callable[[Checkpoint[Any]], nn.Module],
    normalisation: Normalisation,
    device: str = "auto",
    precision: str = "float32",
) -> PublishedModel:
    """Loaded float32 networks, folded, for `device` (``auto``: the first GPU, else the CPU)."""
    target = _device(device)
    dtype = PRECISIONS.get(precision)
    if dtype is None:
        raise EngineError(f"There is no precision '{precision}'; choose one of {', '.join(PRECISIONS)}.")

    def ready(checkpoint: Checkpoint[Any]) -> Any:
        return fold(network(checkpoint)).requires_grad_(False)

    def rounded(checkpoint: Checkpoint[Any]) -> Any:
        return ready(checkpoint).to(dtype).to(torch.float32)

    return PublishedModel(
        audio_encoder=ready(checkpoints.AUDIO_ENCODER),
        denoiser=ready(checkpoints.DENOISER),
        motion_extractor=ready(checkpoints.MOTION_EXTRACTOR),
        appearance=rounded(checkpoints.APPEARANCE),
        warping=rounded(checkpoints.WARPING),
        decoder=rounded(checkpoints.DECODER),
        stitching=ready(checkpoints.STITCHING),
        normalisation=normalisation,
        device=target,
        # CPUs convolve half precision hundreds of times slower than single: there only the weights are rounded to it.
        half=dtype if dtype != torch.float32 and target.type != "cpu" else None,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        detail = str(error).splitlines()[0]
        raise EngineError(f"PyTorch cannot compute on the device '{name}': {detail}") from error
    return device
