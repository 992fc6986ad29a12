"""Networks to ONNX files, each with its facts inside and its comparison with torch beside it.

The embedded profile's come from a training checkpoint, the published profile's from published weights. Batch and the
embedded windows' number of frames are free: hop and context are data. ``brief`` is the window in one step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor

from engines.audio import BANDS
from engines.networks.audio_features import AudioFeatures
from engines.networks.ddim import Ddim, DdimConfig
from engines.networks.denoiser import Denoiser, DenoiserConfig
from engines.profile import EMBEDDED, Profile
from engines.runtime.base import BATCH
from engines.runtime.opening import open_engine
from engines.runtime.torch import save_program
from engines.types import MOTION_WIDTH, KDTalkerError
from export import half, parity
from export.graphs import spec, window_graph
from export.onnx_file import Graph, check_size, describe, facts_of, stamp, write
from export.stopwatch import Stopwatch

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "engines" / "weights" / "embedded"
BATCHES = (1, 3, 8)
Say = Callable[[str], None]
# The sizes that are trained, for networks of random weights.
SIZES = DenoiserConfig(width=160, layers=4, heads=4, time_width=64, audio_width=128, rotary=8, time_per_token=True)
SAMPLING = DdimConfig(steps=3, schedule="cosine", prediction="v", spacing="trailing", context_time=500, guided=True)


def load_embedded(path: Path) -> tuple[AudioFeatures, Ddim]:
    """Encoder and DDIM loop out of a training checkpoint."""
    saved = torch.load(path, weights_only=True)
    recipe = saved["recipe"]
    network = DenoiserConfig(**recipe["network"])
    encoder = AudioFeatures(columns=EMBEDDED.mel.columns, width=network.audio_width)
    denoiser = Denoiser(network)
    for prefix, module in (("encoder.", encoder), ("denoiser.", denoiser)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in saved["state"].items() if k.startswith(prefix)})
    loop = Ddim(denoiser, DdimConfig(**recipe["sampling"]), saved["context_shares"])
    return encoder.eval(), loop.eval()


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


def embedded(encoder: AudioFeatures, loop: Ddim) -> Iterator[Graph]:
    """Graphs of the embedded profile."""
    plan, mel = EMBEDDED.window, EMBEDDED.mel
    facts: dict[str, object] = {"columns": mel.columns, "reach": mel.reach}
    yield Graph(
        "audio_encoder",
        encoder,
        (spec("mel", BATCH, BANDS, mel.columns),),
        (spec("feature", BATCH, EMBEDDED.feature_width),),
        sum(parameter.numel() for parameter in encoder.parameters()),
        {"mel": "log-mel in [-4, 4]", "feature": "none"},
        facts,
    )
    facts |= {
        "committed": plan.committed,
        "new": plan.new,
        "lookahead": plan.lookahead,
        "context_time": loop.config.context_time,
        "guidance": asdict(EMBEDDED.guidance),
        "temperature": asdict(EMBEDDED.temperature),
    }
    for name, sampled in (("window", loop), ("brief", loop.in_steps(1))):
        window = window_graph(sampled, EMBEDDED.longest, fixed=False)
        yield replace(window, name=name, facts={**window.facts, **facts, "steps": sampled.config.steps})


def random_embedded(seed: int) -> tuple[AudioFeatures, Ddim]:
    """Networks of the embedded profile's sizes with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AudioFeatures(columns=EMBEDDED.mel.columns, width=EMBEDDED.feature_width)
        loop = Ddim(Denoiser(SIZES), SAMPLING)
    return encoder.eval(), loop.eval()


def export_graph(
    graph: Graph, folder: Path, facts: Mapping[str, object], batches: Sequence[int], *, halves: bool, say: Say = print
) -> list[Path]:
    """Write one graph in float32 and, if asked for and meant, in float16, each with its report.

    Raises KDTalkerError when ONNX Runtime does not agree with torch; the files stay for a look at them.
    """
    path = folder / f"{graph.name}.onnx"
    facts = {"tolerance": graph.tolerance, **facts}
    seconds = write(graph, path, facts)
    loading = Stopwatch()
    engine = open_engine(path)
    loaded, busy = loading.read()
    reference = parity.compute_reference(graph.compute, engine, batches)
    parity.save_reference(path, reference)
    comparisons = parity.compare(engine, reference)
    engine.close()
    passed = all(each.passed for each in comparisons)
    parity.write_report(
        path,
        comparisons,
        precision="float32",
        passed=passed,
        parameters=graph.parameters,
        export_seconds=seconds,
        load_seconds=loaded,
        load_cpu_seconds=busy,
    )
    worst = max(comparisons, key=lambda each: each.error / each.allowed)
    say(
        f"{path.name:<28} {path.stat().st_size / 1e6:7.2f} MB  exported in {seconds:.1f} s, loads in {loaded:.2f} s "
        f"({busy:.2f} s of a core)  "
        f"float32 differs by {worst.error:.1e} ({worst.allowed:g} allowed) at batches {', '.join(map(str, batches))}"
    )
    if not passed:
        raise KDTalkerError(
            f"{path.name} does not compute what torch computes: '{worst.output}' at batch {worst.batch} differs by "
            f"{worst.error:.2e}, {worst.allowed:.0e} is allowed. {parity.report_path(path)} has the rest."
        )
    return [path, *([write_half(path, graph, say)] if halves and graph.half else [])]


def write_program(graph: Graph, folder: Path, facts: Mapping[str, object], say: Say = print) -> Path:
    """The same network for the torch runtime, compared when it is verified."""
    path = folder / f"{graph.name}.pt2"
    stated = {"precision": "float32", "tolerance": graph.tolerance, **describe(graph), **facts}
    metadata = {key: json.dumps(value) for key, value in stated.items()}
    save_program(path, graph.module, graph.example(), graph.inputs, graph.outputs, metadata)
    say(f"{path.name:<28} {path.stat().st_size / 1e6:7.2f} MB  for the torch runtime")
    return path


def write_half(path: Path, graph: Graph | None = None, say: Say = print) -> Path:
    """The float16 twin of a file, its structure checked. Its numbers are for a device that computes in float16."""
    model = onnx.load(str(path))
    facts = facts_of(model) | {"precision": "float16", "float32_sha256": parity.file_hash(path)}
    typed = half.to_half(model)
    counted = half.check_structure(typed)
    stamp(typed, facts)
    target = path.with_name(f"{path.stem}.float16.onnx")
    onnx.save(typed, str(target))
    if graph is not None:
        check_size(graph, target, width=2)
    open_engine(target).close()
    note = "structure checked, precision not verified: this was written on a CPU, which computes in float32"
    parity.write_report(target, [], precision="float16", passed=None, note=note, **counted)
    say(
        f"{target.name:<28} {target.stat().st_size / 1e6:7.2f} MB  float16 structure checked, precision not verified "
        f"({counted['weighted']} float16 products, {counted['islands']} float32 islands)"
    )
    return target


def export_all(
    graphs: Iterable[Graph],
    folder: Path,
    facts: Mapping[str, object],
    batches: Sequence[int] | None = None,
    *,
    programs: bool = False,
    say: Say = print,
) -> list[Path]:
    """Write every graph in both precisions, with `programs` for the torch runtime too.

    `batches` None: those each graph is to be compared at.
    """
    written = []
    for graph in graphs:
        written += export_graph(graph, folder, facts, batches or graph.batches, halves=True, say=say)
        if programs:
            written.append(write_program(graph, folder, facts, say))
    return written


def export_embedded(checkpoint: Path, folder: Path = WEIGHTS) -> list[Path]:
    """Write ``audio_encoder.onnx``, ``window.onnx`` and ``brief.onnx``; returns their paths."""
    facts = {"profile": EMBEDDED.name, "weights": parity.file_hash(checkpoint)}
    return [
        export_graph(graph, folder, facts, BATCHES, halves=False)[0] for graph in embedded(*load_embedded(checkpoint))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.to_onnx", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=REPOSITORY / "build" / "motion.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    export_embedded(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
