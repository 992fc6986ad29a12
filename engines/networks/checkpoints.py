"""Published checkpoint files into networks: strictly, or not at all.

Nothing but tensors and plain containers is ever unpickled. The file of KDTalker's trainer may hold objects of
foreign classes beside the weights; those come back as inert placeholders and are ignored.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from engines.motion import Normalisation
from engines.networks.appearance import AppearanceExtractor
from engines.networks.audio_encoder import AudioEncoder
from engines.networks.decoder import SpadeDecoder
from engines.networks.denoiser import PUBLISHED, Denoiser
from engines.networks.motion_extractor import MotionExtractor
from engines.networks.stitching import StitchingRetargeting
from engines.networks.warping import WarpingModule
from engines.types import WeightsError

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

# norm.npz: parts of the motion vector in its order, then the canonical keypoints, each with `_mean` and `_std`.
NORM_FILE = "norm.npz"
NORM_PARTS = {"scale": 1, "yaw": 1, "pitch": 1, "roll": 1, "t": 3, "exp": 63}
NORM_CANONICAL = {"kp": 63}

SHOWN = 4  # keys named in a message before the rest is counted
ZIP_MAGIC = b"PK\x03\x04"
WRAPPERS = ("model", "state_dict")  # entries that hold the weights where other things lie beside them
# The only globals a checkpoint may bring to life; storages are resolved by torch itself.
_HARMLESS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[Network]):
    """A published file and the network it fills.

    `prefix` begins the keys that are the network's, "module." left out: it is dropped wherever it occurs.
    """

    file: str
    prefix: str
    network: Callable[[], Network]


DENOISER = Checkpoint("KDTalker.pth", "point_model.model.", lambda: Denoiser(PUBLISHED))
AUDIO_ENCODER = Checkpoint("wav2lip.pth", "audio_encoder.", AudioEncoder)
MOTION_EXTRACTOR = Checkpoint("motion_extractor.pth", "detector.", MotionExtractor)
APPEARANCE = Checkpoint("appearance_feature_extractor.pth", "", AppearanceExtractor)
WARPING = Checkpoint("warping_module.pth", "", WarpingModule)
DECODER = Checkpoint("spade_generator.pth", "", SpadeDecoder)
STITCHING = Checkpoint("stitching_retargeting_module.pth", "", StitchingRetargeting)
CHECKPOINTS: tuple[Checkpoint[Any], ...] = (
    DENOISER,
    AUDIO_ENCODER,
    MOTION_EXTRACTOR,
    APPEARANCE,
    WARPING,
    DECODER,
    STITCHING,
)


class Placeholder:
    """Stands where a checkpoint holds an object of an unknown class. Takes whatever it is given and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        return _HARMLESS.get((module, name)) or type(name, (Placeholder,), {"__module__": module})


# The shape of a pickle module, as torch.load wants it.
_INERT = SimpleNamespace(
    __name__="inert_pickle",
    Unpickler=_InertUnpickler,
    load=lambda file, **options: _InertUnpickler(file, **options).load(),
)


def load_checkpoint(checkpoint: Checkpoint[Network], path: Path) -> Network:
    """The network with the weights of `path`, float32, on the CPU, in evaluation mode.

    Raises WeightsError when the file is missing, damaged, or does not hold exactly the network's tensors;
    entries beyond them are named in the log and ignored (those of other networks in the file silently).
    """
    return fill(checkpoint, read_tensors(path), path.name)


def fill(checkpoint: Checkpoint[Network], tensors: Mapping[str, Tensor], name: str) -> Network:
    """A network of `checkpoint` with `tensors`, keyed as `read_tensors` keys them; see `load_checkpoint`."""
    network = checkpoint.network()
    wanted = {checkpoint.prefix + key: value for key, value in network.state_dict().items()}
    differences = list(_differences(wanted, tensors))
    if differences:
        rest = f", and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise WeightsError(
            f"{name} does not hold the weights of {checkpoint.file}: {'; '.join(differences[:SHOWN])}{rest}. "
            "Nothing was loaded; fetch the file again with `kdtalker weights`."
        )
    extra = sorted(key for key in tensors.keys() - wanted.keys() if key.startswith(checkpoint.prefix))
    if extra:
        log.warning("%s: %d entries beyond the network's are ignored: %s", name, len(extra), ", ".join(extra))
    network.load_state_dict({key: tensors[checkpoint.prefix + key] for key in network.state_dict()}, strict=True)
    return network.float().eval()


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[str]:
    for key, value in wanted.items():
        found = given.get(key)
        if found is None:
            yield f"'{key}' {tuple(value.shape)} is missing"
        elif found.shape != value.shape:
            yield f"'{key}' is {tuple(found.shape)} and should be {tuple(value.shape)}"
        elif found.is_floating_point() != value.is_floating_point():
            yield f"'{key}' is {found.dtype} and should be {value.dtype}"
        elif not bool(torch.isfinite(found).all()):
            yield f"'{key}' holds values that are not finite"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint file by its dotted key, wrappers unwrapped and "module." dropped.

    Raises WeightsError when the file is missing, is no checkpoint or is damaged.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; `kdtalker weights` fetches it.")
    try:
        _check_archive(path)
        content = _unpickle(path)
    except Exception as error:  # torch and pickle let out half a dozen unrelated classes on foreign bytes
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is no PyTorch checkpoint or is damaged ({detail}); delete it and run `kdtalker weights` again."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise WeightsError(f"{path} holds a {kind} and no table of weights; it is another kind of file.")
    return dict(_flatten(content))


def _check_archive(path: Path) -> None:
    """Refuse flipped bits, which torch does not look for, and archives of code."""
    with path.open("rb") as file:
        if file.read(4) != ZIP_MAGIC:
            return  # the older format, which has no checksums
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
            raise ValueError("it is a TorchScript program")


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=cast(Any, _INERT))


def _flatten(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        name = ".".join(part for part in f"{prefix}{key}".split(".") if part != "module")
        if isinstance(value, Tensor):
            yield name, value.detach()
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")


def load_normalisation(path: Path) -> Normalisation:
    """The statistics of norm.npz; raises WeightsError when the file is missing, damaged or another one."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, Mapping):
                raise ValueError("it holds one array and should hold several by name")
            return normalisation(archive)
    except FileNotFoundError:
        raise WeightsError(f"There is no file {path}; `kdtalker weights` fetches it.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} is not the published {NORM_FILE} or is damaged ({error}); "
            "run `kdtalker weights` again, or give the file with `--norm FILE`."
        ) from error


def normalisation(arrays: Mapping[str, Any]) -> Normalisation:
    """Statistics by their published names -> Normalisation; ValueError or KeyError where one is missing or wrong."""

    def joined(parts: Mapping[str, int], kind: str) -> Any:
        values = []
        for name, width in parts.items():
            value = np.asarray(arrays[f"{name}_{kind}"], np.float32)
            if value.shape != (width,):
                raise ValueError(f"'{name}_{kind}' is {value.shape} and should be {(width,)}")
            if not np.isfinite(value).all() or (kind == "std" and (value <= 0).any()):
                raise ValueError(f"'{name}_{kind}' holds impossible values")
            values.append(value)
        return np.concatenate(values)

    return Normalisation(
        joined(NORM_PARTS, "mean"),
        joined(NORM_PARTS, "std"),
        joined(NORM_CANONICAL, "mean"),
        joined(NORM_CANONICAL, "std"),
    )


def save_normalisation(path: Path, statistics: Normalisation) -> None:
    """Write statistics as `load_normalisation` reads them."""
    arrays: dict[str, Any] = {}
    for kind, values, canonical in (
        ("mean", statistics.mean, statistics.canonical_mean),
        ("std", statistics.std, statistics.canonical_std),
    ):
        borders = np.cumsum(list(NORM_PARTS.values()))[:-1]
        arrays |= {f"{name}_{kind}": part for name, part in zip(NORM_PARTS, np.split(values, borders), strict=True)}
        arrays |= {f"{name}_{kind}": canonical for name in NORM_CANONICAL}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, **arrays)
