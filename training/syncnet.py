"""LSE-D and LSE-C: how well lips and sound agree, by SyncNet (Chung and Zisserman, ACCV workshops 2016).

The published network (``syncnet_v2.model``) embeds five pictures of a face and 0.2 s of sound; their distance over
shifts within 15 frames gives LSE-D (the smallest mean distance, less is better) and LSE-C (by how much it lies under
the median one, more is better), as in Wav2Lip (Prajwal et al. 2020, section 4.3). The file is the user's; the
arithmetic was written from published descriptions and **was not compared with the published weights**. The face is
cut by the face mesh and not by the detector of the original, so figures may differ a little from those of papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.networks.checkpoints import read_tensors
from engines.portrait.prepare import CHIN, FOREHEAD
from engines.types import FPS, SPEECH_RATE, SPEECH_SAMPLES, ByteArray, FloatArray, WeightsError
from training.videos import Track, pictures

WIDTH = 1024  # of an embedding
SIDE = 224  # pixels of a face
PICTURES, COLUMNS = 5, 20  # that one embedding sees: 0.2 s of film, 0.2 s of cepstra
REACH = 15  # frames
BATCH = 20
MARGIN = 0.4  # of the face's half size, left, right and twice below

# Cepstra as python_speech_features makes them by default.
CEPSTRA, FILTERS, FFT, LIFTER = 13, 26, 512, 22
WINDOW, HOP = SPEECH_RATE // 40, SPEECH_RATE // 100


def _unit(convolution: nn.Module, norm: nn.Module, pool: nn.Module | None = None) -> list[nn.Module]:
    return [convolution, norm, nn.ReLU(), *([] if pool is None else [pool])]


def _sound(
    inputs: int, outputs: int, kernel: tuple[int, int], padding: int, pool: nn.Module | None = None
) -> list[nn.Module]:
    return _unit(nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), pool)


def _sight(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int, padding: int, pool: int | None = None
) -> list[nn.Module]:
    convolution = nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), (0, padding, padding))
    shrink = None if pool is None else nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, pool, pool))
    return _unit(convolution, nn.BatchNorm3d(outputs), shrink)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))


class SyncNet(nn.Module):
    """Both branches, with the parameter names of the published file."""

    def __init__(self) -> None:
        super().__init__()
        square = (3, 3)
        self.netcnnaud = nn.Sequential(
            *_sound(1, 64, square, 1, nn.MaxPool2d(1)),
            *_sound(64, 192, square, 1, nn.MaxPool2d(3, (1, 2))),
            *_sound(192, 384, square, 1),
            *_sound(384, 256, square, 1),
            *_sound(256, 256, square, 1, nn.MaxPool2d(3, 2)),
            *_sound(256, 512, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_sight(3, 96, (5, 7, 7), 2, 0, 0),
            *_sight(96, 256, (1, 5, 5), 2, 1, 1),
            *_sight(256, 256, (1, 3, 3), 1, 1),
            *_sight(256, 256, (1, 3, 3), 1, 1),
            *_sight(256, 256, (1, 3, 3), 1, 1, 0),
            *_sight(256, 512, (1, 6, 6), 1, 0),
        )

    def hear(self, cepstra: Tensor) -> Tensor:
        """Cepstra (N, 1, 13, 20) -> (N, 1024)."""
        embedded: Tensor = self.netfcaud(self.netcnnaud(cepstra).flatten(1))
        return embedded

    def see(self, faces: Tensor) -> Tensor:
        """Five pictures BGR in [0, 255] (N, 3, 5, 224, 224) -> (N, 1024)."""
        embedded: Tensor = self.netfclip(self.netcnnlip(faces).flatten(1))
        return embedded


def load_syncnet(path: Path) -> SyncNet:
    """The weights of ``syncnet_v2.model``, strictly; raises WeightsError for a file that is missing or another one."""
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; SyncNet's authors publish it as syncnet_v2.model.")
    network = SyncNet()
    try:
        network.load_state_dict(read_tensors(path), strict=True)
    except RuntimeError as error:
        differences = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise WeightsError(f"{path} is not SyncNet's syncnet_v2.model: {differences[:400]}") from error
    return network.float().eval()


# --------------------------------------------------------------------------- sound


def _mel_filters() -> NDArray[np.float64]:
    """Triangles of height 1 from 0 to 8 kHz on bins of the FFT, (26, 257)."""
    highest = 2595 * np.log10(1 + SPEECH_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)
    edges = np.floor((FFT + 1) * hertz / SPEECH_RATE)
    bins = np.arange(FFT // 2 + 1)
    low, middle, high = (edges[k : k + FILTERS, None] for k in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0))


def cepstra(sound: FloatArray) -> FloatArray:
    """Mel-frequency cepstra of sound f32 in [-1, 1] at 16 kHz, f32 (13, columns), 100 columns a second."""
    pcm = np.round(np.asarray(sound, np.float64) * 32768)  # the original reads 16-bit samples
    emphasised = np.concatenate([pcm[:1], pcm[1:] - 0.97 * pcm[:-1]])
    count = 1 + max(0, -(-(len(emphasised) - WINDOW) // HOP))
    padded = np.pad(emphasised, (0, max(0, (count - 1) * HOP + WINDOW - len(emphasised))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    least = np.finfo(float).eps
    bands = np.log(np.maximum(power @ _mel_filters().T, least))
    n = np.arange(FILTERS)
    cosines = np.cos(np.pi / FILTERS * np.outer(np.arange(CEPSTRA), n + 0.5)) * np.sqrt(2 / FILTERS)
    cosines[0] /= np.sqrt(2)
    lifted = (bands @ cosines.T) * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER))
    lifted[:, 0] = np.log(np.maximum(power.sum(1), least))
    return np.asarray(lifted.T, np.float32)


# --------------------------------------------------------------------------- pictures


def face_square(mesh: FloatArray) -> tuple[float, float, float]:
    """Left, top and side of the square around a face, from its mesh (478, 3), more of it below than above."""
    half = float(np.linalg.norm(mesh[FOREHEAD, :2] - mesh[CHIN, :2])) / 2
    x, y = (mesh[:, :2].min(0) + mesh[:, :2].max(0)) / 2
    return float(x - half * (1 + MARGIN)), float(y - half), half * (2 + 2 * MARGIN)


def cut(picture: ByteArray, square: tuple[float, float, float]) -> ByteArray:
    """The square out of a picture RGB, u8 (224, 224, 3) BGR, grey (110) beyond the picture."""
    left, top, side = square
    zoom = SIDE / side
    affine = np.array([[zoom, 0, -left * zoom], [0, zoom, -top * zoom]])
    crop = cv2.warpAffine(picture, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderValue=(110, 110, 110))
    return np.asarray(crop[..., ::-1], np.uint8)


def faces(path: Path, track: Track) -> ByteArray:
    """Face u8 (T, 224, 224, 3) at every tick of a film's track, the square smoothed over half a second."""
    squares = np.array([face_square(mesh) for mesh in track.mesh])
    reach = np.clip(np.arange(len(squares))[:, None] + np.arange(-6, 7), 0, len(squares) - 1)
    squares = np.median(squares[reach], axis=1)
    crops, begin, nearest = [], None, 0
    for time, picture in pictures(path):
        begin = time if begin is None else begin
        # Ticks whose time has come are shown by this frame.
        while nearest < len(squares) and track.start + nearest / FPS <= time - begin + 0.5 / FPS:
            crops.append(cut(picture, tuple(squares[nearest])))
            nearest += 1
    return np.stack(crops)


# --------------------------------------------------------------------------- the metric


@dataclass(frozen=True, slots=True)
class LipSync:
    """`distance` (LSE-D), `confidence` (LSE-C), `offset`: shift in frames with the smallest distance, positive where
    the sound is late."""

    distance: float
    confidence: float
    offset: int


def agreement(seen: FloatArray, heard: FloatArray) -> LipSync:
    """Embeddings (T, D) of pictures and sound from the same moments -> distances over shifts; beyond the ends sound
    is zero, as in the original."""
    padded = np.pad(heard, ((REACH, REACH), (0, 0)))
    shifts = [seen - padded[shift : shift + len(seen)] + 1e-6 for shift in range(2 * REACH + 1)]
    distances = np.stack([np.linalg.norm(shift, axis=1) for shift in shifts]).mean(1)
    best = int(distances.argmin())
    return LipSync(float(distances[best]), float(np.median(distances) - distances[best]), best - REACH)


@torch.inference_mode()
def lip_sync(network: SyncNet, crops: ByteArray, sound: FloatArray) -> LipSync:
    """LSE of a face u8 (T, 224, 224, 3) BGR at 25 frames a second and its sound f32 at 16 kHz."""
    columns = cepstra(sound)
    count = min(len(crops), len(sound) // SPEECH_SAMPLES) - PICTURES
    count = min(count, (columns.shape[1] - COLUMNS) // 4 + 1)

    def embed(part: Callable[[int], Tensor], branch: Callable[[Tensor], Tensor]) -> FloatArray:
        rows = [
            branch(torch.stack([part(k) for k in range(first, min(first + BATCH, count))]))
            for first in range(0, count, BATCH)
        ]
        return np.asarray(torch.cat(rows).numpy(), np.float32)

    film = torch.from_numpy(np.ascontiguousarray(crops.transpose(3, 0, 1, 2)))
    mel = torch.from_numpy(columns)[None]
    seen = embed(lambda k: film[:, k : k + PICTURES].float(), network.see)
    heard = embed(lambda k: mel[..., 4 * k : 4 * k + COLUMNS], network.hear)
    return agreement(seen, heard)


def lip_sync_of(network: SyncNet, path: Path, track: Track) -> LipSync:
    """LSE of a film, by its track."""
    return lip_sync(network, faces(path, track), track.sound)
