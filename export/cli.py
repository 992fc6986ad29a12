"""`kdtalker export | build | verify | doctor`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines.types import KDTalkerError

if TYPE_CHECKING:
    from engines.networks.renderer_graph import Sampling
    from export.onnx_file import Graph

RANDOM = re.compile(r"random:(\d+)")


def export(argv: list[str]) -> int:
    """Every network of both profiles to ONNX."""
    parser = argparse.ArgumentParser(prog="kdtalker export", description=export.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, one per profile")
    parser.add_argument(
        "--weights", metavar="DIR|random:N", help="folder of the published weights (default: where `kdtalker weights` "
        "puts them), or random weights of seed N"
    )  # fmt: skip
    parser.add_argument("--profile", choices=["embedded", "kdtalker", "both"], default="both", help="(default: both)")
    parser.add_argument("--checkpoint", type=Path, help="training checkpoint of the embedded profile")
    parser.add_argument("--target", choices=["any", "native"], default="any",
        help="5-D grid sampling: by gathers, which every runtime takes, or the ONNX op, for TensorRT 11.2 or later and "
        "ONNX Runtime (default: any)")  # fmt: skip
    parser.add_argument("--pixels", choices=["rgb", "i420"], default="rgb", help="what frames are (default: rgb)")
    parser.add_argument(
        "--steps", type=int, default=10, help="of the published sampler; above 10 only the step is written"
    )
    parser.add_argument("--batches", type=_numbers,
        help="sizes to compare with torch at (default: 1,3,8, but for the largest graphs)")  # fmt: skip
    parser.add_argument("--torch", action="store_true", help="also write .pt2 files for the torch runtime")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAMES", help="graphs to write, by name")
    options = parser.parse_args(argv)

    import torch

    from export import to_onnx

    torch.set_num_threads(1)
    seed = RANDOM.fullmatch(options.weights or "")
    wanted = [options.profile] if options.profile != "both" else ["embedded", "kdtalker"]
    for name in wanted:
        folder = options.out / name
        if name == "kdtalker":
            graphs, weights = _published(options, int(seed[1]) if seed else None)
        else:
            loaded = _embedded(options.checkpoint, int(seed[1]) if seed else None)
            if loaded is None:
                _copy_embedded(folder)
                continue
            graphs, weights = loaded
        if options.only:
            graphs = (graph for graph in graphs if graph.name in options.only)
        print(f"{name} -> {folder}")
        to_onnx.export_all(
            graphs, folder, {"profile": name, "weights": weights}, options.batches, programs=options.torch
        )
    return 0


def _console() -> Console:
    """As wide as the terminal; a file takes what a table needs."""
    return Console(width=None if sys.stdout.isatty() else 160)


def _published(options: argparse.Namespace, seed: int | None) -> tuple[Iterator[Graph], object]:
    """Graphs of the published profile and the name of their weights."""
    from engines.cache import cache_folder
    from engines.networks.checkpoints import save_normalisation
    from engines.networks.model import load_model, random_model
    from engines.published.networks import NORMALISATION
    from engines.published.weights_files import FILES, weights_folder
    from export import parity
    from export.graphs import published

    weights: object
    if seed is not None:
        model, weights = random_model(seed, "cpu"), f"random:{seed}"
    else:
        folder = Path(options.weights) if options.weights else weights_folder(cache_folder())
        files = {file.name: file.find(folder) for file in FILES}
        missing = sorted(name for name, path in files.items() if path is None)
        if missing:
            raise KDTalkerError(
                f"{folder} lacks {', '.join(missing)}; run `kdtalker weights`, name their folder with `--weights DIR`, "
                "or try the export with `--weights random:1`."
            )
        found = {name: path for name, path in files.items() if path is not None}
        model, weights = load_model(found, "cpu"), {name: parity.file_hash(path) for name, path in found.items()}
    save_normalisation(options.out / "kdtalker" / NORMALISATION, model.normalisation)
    sampling: Sampling = "native" if options.target == "native" else "decomposed"
    return published(model, steps=options.steps, sampling=sampling, pixels=options.pixels), weights


def _embedded(checkpoint: Path | None, seed: int | None) -> tuple[Iterator[Graph], object] | None:
    """Graphs and the name of their weights; None where only the shipped files are there."""
    from export import parity, to_onnx

    if checkpoint is None and seed is not None:
        return to_onnx.embedded(*to_onnx.random_embedded(seed)), f"random:{seed}"
    if checkpoint is None:
        return None
    if not checkpoint.is_file():
        raise KDTalkerError(f"There is no checkpoint {checkpoint}; `kdtalker train` writes one.")
    return to_onnx.embedded(*to_onnx.load_embedded(checkpoint)), parity.file_hash(checkpoint)


def _copy_embedded(folder: Path) -> None:
    """The shipped files are the export: copied, and given their float16 twins."""
    import shutil

    from export import to_onnx

    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(to_onnx.WEIGHTS.glob("*.onnx")):
        for source in (
            path,
            *path.parent.glob(f"{path.stem}.reference.npz"),
            *path.parent.glob(f"{path.stem}.parity.json"),
        ):
            shutil.copy(source, folder)
        print(f"{path.name}: as shipped")
        to_onnx.write_half(folder / path.name)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def build(argv: list[str]) -> int:
    """TensorRT engines from exported files."""
    parser = argparse.ArgumentParser(prog="kdtalker build", description=build.__doc__)
    parser.add_argument("source", type=Path, metavar="DIR|FILE", help="ONNX files of `kdtalker export`, or one of them")
    parser.add_argument("--precision", choices=["float16", "float32"], default="float16", help="(default: float16)")
    parser.add_argument("--batches", type=_numbers, default=[1, 2, 4, 8], help="(default: 1,2,4,8)")
    parser.add_argument("--identities", type=int, default=16, metavar="N", help="photos in the renderer's tables (16)")
    parser.add_argument("--version-compatible", action="store_true", help="later TensorRT versions may load it; slower")
    parser.add_argument("--hardware-compatible", action="store_true", help="Ampere and later GPUs may load it; slower")
    parser.add_argument("--refit", action="store_true", help="weights can be exchanged without building again; slower")
    parser.add_argument("--refit-from", type=Path, metavar="ENGINE", help="no build: give this engine, built with "
        "--refit, the weights of an ONNX file of the same graph")  # fmt: skip
    options = parser.parse_args(argv)

    from engines.runtime.tensorrt import this_target
    from export import refit, to_tensorrt

    target = this_target()
    if options.refit_from:
        place = refit.refit(options.refit_from, refit.choose_file(options.refit_from, options.source), target)
        print(f"{place}: {options.refit_from.name} with other weights")
        return 0
    chosen = to_tensorrt.BuildOptions(
        tuple(sorted(options.batches)),
        options.identities,
        options.version_compatible,
        options.hardware_compatible,
        options.refit,
    )
    for path in to_tensorrt.choose_files(options.source, options.precision):
        place, built = to_tensorrt.build(path, target, chosen)
        if not built:
            print(f"{place.name}: there already, for the same file, TensorRT, GPU, precision and shapes")
    return 0


def verify(argv: list[str]) -> int:
    """Every network file on this machine against what torch computed, with timings."""
    parser = argparse.ArgumentParser(prog="kdtalker verify", description=verify.__doc__)
    shipped = Path(__file__).resolve().parent.parent / "engines" / "weights"
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?", default=shipped,
        help="folder of network files (default: those shipped with the program)")  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--batches", type=_numbers, help="only these of the sizes compared at export")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    options = parser.parse_args(argv)

    from export import verify as verification

    return verification.run(options.folder, options.device, options.batches, options.json, _console())


def doctor(argv: list[str]) -> int:
    """What this machine has, and what that allows."""
    parser = argparse.ArgumentParser(prog="kdtalker doctor", description=doctor.__doc__)
    parser.add_argument("--port", type=int, default=8080, help="the port the server would use (default: 8080)")
    options = parser.parse_args(argv)

    from rich.table import Table

    from export.doctor import examine

    table = Table("", "found", "which means", show_header=True)
    for each in examine(options.port):
        table.add_row(each.topic, each.found, each.means)
    _console().print(table)
    return 0
