"""Networks to ONNX: the embedded profile's audio encoder and window.

The window is the whole DDIM loop of one hop, steps unrolled, so that a hop is one call. Batch is
dynamic, the number of frames fixed. What a caller must know about a file stands in its metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from engines.audio import BANDS
from engines.networks.audio_features import AudioFeatures
from engines.networks.ddim import Ddim, DdimConfig
from engines.networks.denoiser import Denoiser, DenoiserConfig
from engines.profile import EMBEDDED, Profile
from engines.types import MOTION_WIDTH

OPSET = 18
REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "engines" / "weights" / "embedded"
SOURCES = ("audio_features.py", "denoiser.py", "ddim.py")
WINDOW_INPUTS = ("tokens", "sound", "noise", "committed", "mask", "guidance", "temperature")


def load_embedded(path: Path) -> tuple[AudioFeatures, Ddim, dict[str, Any]]:
    """Encoder, DDIM loop and the recipe out of a training checkpoint."""
    saved = torch.load(path, weights_only=True)
    recipe = saved["recipe"]
    network = DenoiserConfig(**recipe["network"])
    encoder = AudioFeatures(columns=EMBEDDED.mel.columns, width=network.audio_width)
    denoiser = Denoiser(network)
    for prefix, module in (("encoder.", encoder), ("denoiser.", denoiser)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in saved["state"].items() if k.startswith(prefix)})
    loop = Ddim(denoiser, DdimConfig(**recipe["sampling"]), saved["context_shares"])
    return encoder.eval(), loop.eval(), recipe


def window_example(profile: Profile, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a window graph, the first C frames committed."""
    plan, generator = profile.window, torch.Generator().manual_seed(seed)
    mask = (torch.arange(plan.length) < plan.committed).float().expand(batch, -1).contiguous()
    shapes = {
        "tokens": (2, MOTION_WIDTH),
        "sound": (plan.length, profile.feature_width),
        "noise": (plan.length, MOTION_WIDTH),
        "committed": (plan.length, MOTION_WIDTH),
    }
    drawn = {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}
    ones = torch.ones(MOTION_WIDTH)
    return drawn | {"mask": mask, "guidance": 1.5 * ones, "temperature": 0.5 * ones}


def write_graph(
    network: nn.Module, example: dict[str, Tensor], output: str, shared: set[str], path: Path, metadata: dict[str, Any]
) -> None:
    """Export with a dynamic batch on every input but `shared`; metadata values are stored as JSON."""
    batched = {name: {0: "batch"} for name in [*example, output] if name not in shared}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own end
        torch.onnx.export(
            network.eval(),
            (),
            str(path),
            kwargs=example,
            input_names=list(example),
            output_names=[output],
            dynamic_axes=batched,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    share_initializers(model)
    facts = metadata | {"opset": OPSET, "torch": torch.__version__, "onnx": onnx.__version__, "source": source_hash()}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def share_initializers(model: onnx.ModelProto) -> None:
    """Keep one copy of equal initializers: unrolled steps would store the weights once per step."""
    kept: dict[tuple[Any, ...], str] = {}
    renamed: dict[str, str] = {}
    unique = []
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        renamed[tensor.name] = kept.setdefault(key, tensor.name)
        if renamed[tensor.name] == tensor.name:
            unique.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(unique)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def source_hash() -> str:
    """SHA-256 over the network sources that a graph was made from."""
    folder = REPOSITORY / "engines" / "networks"
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


def export_embedded(checkpoint: Path, folder: Path = WEIGHTS) -> list[Path]:
    """Write ``audio_encoder.onnx`` and ``window.onnx``; returns their paths."""
    encoder, loop, recipe = load_embedded(checkpoint)
    profile, plan = EMBEDDED, EMBEDDED.window
    facts = {"profile": profile.name, "columns": profile.mel.columns, "reach": profile.mel.reach}
    encoder_path, window_path = folder / "audio_encoder.onnx", folder / "window.onnx"
    mel = torch.zeros(2, BANDS, profile.mel.columns)
    write_graph(encoder, {"mel": mel}, "feature", set(), encoder_path, facts)
    facts |= {
        "committed": plan.committed,
        "new": plan.new,
        "lookahead": plan.lookahead,
        "steps": loop.config.steps,
        "context_time": loop.config.context_time,
        "guidance": {"mouth": recipe["guidance"][0], "rest": recipe["guidance"][1]},
        "temperature": {"mouth": recipe["temperature"][0], "rest": recipe["temperature"][1]},
        "units": "deviations of the training data; keypoints.npz holds mean and std",
    }
    write_graph(loop, window_example(profile), "motion", {"guidance", "temperature"}, window_path, facts)
    return [encoder_path, window_path]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.to_onnx", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=REPOSITORY / "build" / "motion.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    for path in export_embedded(arguments.checkpoint, arguments.out):
        print(f"wrote {path.name}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
