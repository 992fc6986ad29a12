"""The published networks on one device: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engines.motion import Normalisation
from engines.networks import checkpoints
from engines.networks.appearance import AppearanceExtractor
from engines.networks.audio_encoder import AudioEncoder
from engines.networks.checkpoints import CHECKPOINTS, NORM_FILE, Checkpoint
from engines.networks.ddim import Ddim, DdimConfig
from engines.networks.decoder import SpadeDecoder
from engines.networks.denoiser import Denoiser
from engines.networks.layers import Network, SpectralConv2d, fold
from engines.networks.motion_extractor import MotionExtractor
from engines.networks.stitching import StitchingRetargeting
from engines.networks.warping import WarpingModule, WarpSource
from engines.types import KEYPOINTS, ByteArray, EngineError, FloatArray

POWER_ITERATIONS = 5  # enough for the spectral norm of a random matrix
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """Everything the published profile computes. Holds no caller's state; may be shared between threads.

    `precision` is that of appearance, warping, decoder and denoiser. The source's motion, normalisation, the state of
    the sampling loop and all sampling grids stay in float32. `rows`: frames rendered in one call to the networks.
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
    precision: torch.dtype
    rows: int

    @torch.inference_mode()
    def encode(self, windows: FloatArray) -> FloatArray:
        """Mel windows f32 (N, 80, 16) -> features f32 (N, 512)."""
        return _array(self.audio_encoder(self._tensor(windows)))

    @torch.inference_mode()
    def read_motion(self, picture: ByteArray) -> tuple[FloatArray, FloatArray]:
        """Face u8 (256, 256, 3) -> canonical keypoints f32 (21, 3) and motion vector f32 (70,)."""
        heads = self.motion_extractor(self._picture(picture))
        return _array(heads.kp[0]).reshape(KEYPOINTS, 3), _array(heads.motion()[0])

    @torch.inference_mode()
    def read_appearance(self, picture: ByteArray) -> FloatArray:
        """Face u8 (256, 256, 3) -> feature volume f32 (32, 16, 64, 64)."""
        return _array(self.appearance(self._picture(picture).to(self.precision))[0].float())

    @torch.inference_mode()
    def sample(self, loop: DdimConfig, **inputs: FloatArray) -> FloatArray:
        """One window of motion; inputs by name, shapes and result as in `Ddim.forward`, always float32."""
        return _array(self.sampler(loop)(**{name: self._tensor(value) for name, value in inputs.items()}))

    def sampler(self, loop: DdimConfig) -> nn.Module:
        """`Ddim` over the denoiser, its products in the model's precision."""
        sampler = Ddim(self.denoiser, loop)
        return sampler if self.precision == torch.float32 else MixedPrecision(sampler, self.precision)

    @torch.inference_mode()
    def prepare(self, volume: FloatArray, keypoints: FloatArray) -> WarpSource:
        """Volume (32, 16, 64, 64) and keypoints (21, 3) of a source -> what all its frames share, on the device."""
        return self.warping.prepare(self._tensor(volume[None]), self._tensor(keypoints[None]))

    @torch.inference_mode()
    def stitch(self, source: FloatArray, driving: FloatArray) -> FloatArray:
        """Driving keypoints (N, 21, 3) stitched to the source's (21, 3)."""
        return _array(self.stitching.stitch(self._tensor(source[None]), self._tensor(driving)))

    @torch.inference_mode()
    def pictures(self, source: WarpSource, keypoints: FloatArray) -> Iterator[Tensor]:
        """Driving keypoints (N, 21, 3) -> RGB f32 (n, 3, 512, 512) in [0, 1], up to `rows` frames at a time.

        `source` holds one source for all frames, or one for each.
        """
        driving = self._tensor(keypoints)
        for start in range(0, len(driving), self.rows):
            part = slice(start, start + self.rows)
            one = source if len(source.keypoints) == 1 else WarpSource(*(table[part] for table in source))
            yield self.decoder(self.warping(one, driving[part])).float()

    def frames(self, source: WarpSource, keypoints: FloatArray) -> ByteArray:
        """Driving keypoints (N, 21, 3) -> u8 (N, 512, 512, 3) RGB, fractions cut off as the original does."""
        parts = [
            (picture.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for picture in self.pictures(source, keypoints)
        ]
        return np.concatenate(parts)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def _picture(self, picture: ByteArray) -> Tensor:
        return self._tensor(picture).permute(2, 0, 1)[None] / 255


class MixedPrecision(nn.Module):
    """A module whose matrix products run in half precision, everything between them in float32."""

    def __init__(self, module: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.module, self.precision = module, precision

    def forward(self, **inputs: Tensor) -> Tensor:
        kind = next(iter(inputs.values())).device.type
        with torch.autocast(kind, dtype=self.precision):
            result: Tensor = self.module(**inputs)
        return result.float()


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.cpu().numpy()
    return array


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
    rows: int | None = None,
) -> PublishedModel:
    """Loaded float32 networks, folded, cast and moved to `device` (``auto``: the first GPU, else the CPU)."""
    target = _device(device)
    dtype = PRECISIONS.get(precision)
    if dtype is None:
        raise EngineError(f"There is no precision '{precision}'; choose one of {', '.join(PRECISIONS)}.")

    # CPUs convolve half precision hundreds of times slower than single: there only the weights are rounded to it.
    compute = dtype if target.type != "cpu" else torch.float32

    def ready(checkpoint: Checkpoint[Any], kind: torch.dtype = torch.float32) -> Any:
        folded = fold(network(checkpoint)).requires_grad_(False).to(kind)
        return folded.to(target, compute if kind == dtype else kind)

    return PublishedModel(
        audio_encoder=ready(checkpoints.AUDIO_ENCODER),
        denoiser=ready(checkpoints.DENOISER),
        motion_extractor=ready(checkpoints.MOTION_EXTRACTOR),
        appearance=ready(checkpoints.APPEARANCE, dtype),
        warping=ready(checkpoints.WARPING, dtype),
        decoder=ready(checkpoints.DECODER, dtype),
        stitching=ready(checkpoints.STITCHING),
        normalisation=normalisation,
        device=target,
        precision=compute,
        # A batch fills a GPU; on a CPU it only takes memory, a third of a gigabyte a frame.
        rows=rows or (8 if target.type == "cuda" else 1),
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
