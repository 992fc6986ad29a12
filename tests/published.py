"""The published networks filled with the seeded arrays that the golden numbers were computed with."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engines.networks import checkpoints
from engines.networks.checkpoints import Checkpoint
from tests import seeded_weights
from tests.golden import MANIFESTS, golden_seed


def manifest(checkpoint: Checkpoint[Any]) -> seeded_weights.Manifest:
    return seeded_weights.load_manifest(MANIFESTS / checkpoint.file.replace(".pth", ".json"))


def arrays(checkpoint: Checkpoint[Any]) -> dict[str, np.ndarray]:
    """{key as in the manifest: array}."""
    return seeded_weights.make_weights(manifest(checkpoint), golden_seed())


def our_key(key: str) -> str:
    """A manifest's key as `read_tensors` gives it: groups dotted, "module." dropped."""
    return key.replace("/", ".").replace("module.", "")


def tensors(checkpoint: Checkpoint[Any]) -> dict[str, Tensor]:
    """Seeded weights by plain dotted key."""
    return {our_key(key): torch.from_numpy(array) for key, array in arrays(checkpoint).items()}


def published_content(checkpoint: Checkpoint[Any]) -> dict[str, Any]:
    """What the published file of `checkpoint` holds: its wrappers, prefixes, groups and by-catch."""
    weights: dict[str, Any] = {key: torch.from_numpy(array) for key, array in arrays(checkpoint).items()}
    if checkpoint is checkpoints.DENOISER:
        return {"model": weights}
    if checkpoint is checkpoints.AUDIO_ENCODER:
        return {"state_dict": weights | {"module.face_decoder_blocks.0.0.conv_block.0.bias": torch.zeros(512)}}
    if checkpoint is checkpoints.STITCHING:
        groups: dict[str, dict[str, Any]] = {}
        for key, value in weights.items():
            group, name = key.split("/")
            groups.setdefault(group, {})[f"module.{name}"] = value
        return groups
    return weights


def fresh_network(checkpoint: Checkpoint[Any]) -> Any:
    """The network of `checkpoint` with seeded weights."""
    return checkpoints.fill(checkpoint, tensors(checkpoint), checkpoint.file)


@cache
def network(checkpoint: Checkpoint[Any]) -> Any:
    """`fresh_network`, shared between tests, so never to be changed."""
    return fresh_network(checkpoint)


class Capture:
    """What went into and came out of named modules in the last call."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}


@contextmanager
def capture(root: nn.Module, *names: str) -> Iterator[Capture]:
    seen = Capture()

    def hook(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.inputs[name], seen.outputs[name] = inputs[0], output

        return keep

    handles = [root.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
