"""`kdtalker export | build | verify | doctor`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from engines.types import KDTalkerError

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
        to_onnx.export_all(graphs, folder, {"profile": name, "weights": weights}, options.batches)
    return 0


def _published(options: argparse.Namespace, seed: int | None):  # type: ignore[no-untyped-def]
    from engines.cache import cache_folder
    from engines.networks.model import load_model, random_model
    from engines.weights_files import FILES, weights_folder
    from export import parity
    from export.graphs import published

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
    sampling = "native" if options.target == "native" else "decomposed"
    return published(model, steps=options.steps, sampling=sampling, pixels=options.pixels), weights


def _embedded(checkpoint: Path | None, seed: int | None):  # type: ignore[no-untyped-def]
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
