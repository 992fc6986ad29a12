"""How good is streamed motion, by hop, by context, by denoising steps?

    kdtalker bench quality [--hops 1,2,4,8] [--checkpoint FILE] [--out quality.json]
    kdtalker bench quality --profile kdtalker --speech FILE [--weights random:0]

The embedded profile is measured on natural clips of the validation split and on some that training saw, in the folder
of tracks (KDTALKER_DATA); never on those held out for the final table. The hop table takes the exported networks;
context and steps need other graphs than the exported one, so they take a training checkpoint. The published profile has
no tracks: its solvers are compared with the 50-step run on the same noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.compute import machine
from benchmarks.motion import Clips, ImpliedNoise, Quality, folder_of_weights, milliseconds, per_second
from engines.face_mesh import face_model
from engines.networks.ddim import PREFIX, Ddim
from engines.profile import EMBEDDED, PROFILES, WindowPlan
from engines.runtime.base import Engine
from engines.runtime.opening import open_engine
from engines.sampler import Sampler
from engines.talkers import sampler_of
from engines.types import FPS, KDTalkerError
from export.graphs import window_graph
from export.onnx_file import write
from export.to_onnx import load_embedded
from training.corpus import MEASURES
from training.generate import Encode, torch_encoder

Row = dict[str, Any]
HOPS = (1, 2, 3, 4, 6, 8, 12, 16)
BLENDS = ((0.0, 0.0), (0.2, 0.0), (0.4, 0.0), (0.2, 0.7), (0.4, 0.7), (0.6, 0.7))  # and their fading
STEPS = (1, 2, 3, 4, 6, 10)
FROM_THREE = 3  # steps from which the second order differs from the first


def streaming(engine: Engine, plan: WindowPlan = EMBEDDED.window) -> Sampler:
    """The production sampler around a window engine, its windows laid out by `plan`."""
    return sampler_of(engine, face_model(), replace(EMBEDDED, window=plan))


def hop_rows(folder: Path, hops: Sequence[int], seeds: Sequence[int]) -> Iterator[Row]:
    """Delay, compute, seams and lips of every hop, from exported networks."""
    encoder, window = open_engine(folder / "audio_encoder.onnx"), open_engine(folder / "window.onnx")
    clips = Clips(lambda mel: encoder.run(mel=mel)["feature"])
    for hop in hops:
        profile = EMBEDDED.with_hop(hop)
        took = milliseconds(window, profile.window.length)
        yield {
            "hop": hop,
            "context": profile.window.committed,
            "delay ms": round(1000 * profile.delay),
            "tokens a second": round((profile.window.length + PREFIX) * FPS / hop),
            "window ms": took,
            "ms a second": per_second(took, hop),
            **asdict(clips.measure(streaming(window, profile.window), seeds)),
        }


class Variants:
    """Graphs of one checkpoint sampled in other ways, written to a folder of their own."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        encoder, self.loop = load_embedded(checkpoint)
        self.encode: Encode = torch_encoder(encoder)
        self._folder, self._count = folder, 0

    def loop_of(self, **change: Any) -> Ddim:
        """The same denoiser with another schedule; context shares stay where the context's time does."""
        config = replace(self.loop.config, **change)
        same = config.context_time == self.loop.config.context_time
        shares = self.loop.schedule._buffers["context_shares"] if same else None
        return Ddim(self.loop.denoiser, config, shares).eval()

    def engine(self, **change: Any) -> Engine:
        self._count += 1
        path = self._folder / f"window{self._count}.onnx"
        write(window_graph(self.loop_of(**change), EMBEDDED.longest, fixed=False), path, {})
        return open_engine(path)


def context_rows(variants: Variants, clips: Clips, seeds: Sequence[int]) -> Iterator[Row]:
    """How committed frames are shown: with their own fixed noise, with the noise their prediction implies, clean."""
    plan = EMBEDDED.window
    fixed, clean = variants.engine(), variants.engine(context_time=0)
    usual = streaming(fixed)
    for blend, fade in BLENDS:
        measured = clips.measure(replace(streaming(fixed), blend=blend, fade=fade), seeds)
        yield {"context": "fixed noise", "blend": blend, "fade": fade, **asdict(measured)}
    for name, engine in (("implied noise", None), ("clean", clean)):
        for blend in (0.0, usual.blend):
            runs = []
            for seed in seeds:  # an engine that follows its calls serves one run
                window = engine or ImpliedNoise(variants.loop_of(), plan)
                runs.append(clips.measure(replace(streaming(window), blend=blend), [seed]))
            yield {"context": name, "blend": blend, "fade": usual.fade, **asdict(_mean(runs))}


def _mean(runs: Sequence[Quality]) -> Quality:
    """Mean of runs of one noise seed each."""

    def mean(values: Sequence[float | None]) -> float:
        return round(sum(value or 0.0 for value in values) / len(values), 3)

    lips = {
        group: {figure: mean([run.lips[group][figure] for run in runs]) for figure in figures}
        for group, figures in runs[0].lips.items()
    }
    return Quality(*(mean([getattr(run, name) for run in runs]) for name in ("jump", "bend", "roughness")), lips)


def step_rows(variants: Variants, clips: Clips, seeds: Sequence[int]) -> Iterator[Row]:
    """Steps and order of the solver: DDIM, and DPM-Solver++(2M) where it differs from it."""
    for steps in STEPS:
        for order, name in ((1, "DDIM"), (2, "DPM-Solver++(2M)"))[: 2 if steps > FROM_THREE else 1]:
            engine = variants.engine(steps=steps, order=order)
            took = milliseconds(engine, EMBEDDED.window.length)
            measured = clips.measure(streaming(engine), seeds)
            yield {"steps": steps, "solver": name, "window ms": took, **asdict(measured)}


def show(title: str, rows: Sequence[Row], console: Console) -> None:
    """Print rows: their own columns, then seams, then opening / width / jaw and velocity by group of clips."""
    table = Table(title=title)
    own = [key for key in rows[0] if key not in ("lips", "jump", "bend", "roughness")]
    groups = list(rows[0].get("lips", {}))
    for heading in (*own, *(("jump", "bend", "roughness") if groups else ())):
        table.add_column(heading, justify="right")
    for group in groups:
        table.add_column(f"{group}: o / w / j", justify="right")
        table.add_column("velocity, amplitude", justify="right")
    for row in rows:
        cells = [str(row[key]) for key in own]
        if groups:
            cells += ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("jump", "bend", "roughness")]
        for group in groups:
            lips = row["lips"][group]
            cells.append(" / ".join(f"{lips[name]:.2f}" for name in MEASURES))
            cells.append(f"{lips['velocity']:.2f}, {lips['velocity amplitude']:.2f}")
        table.add_row(*cells)
    console.print(table)


def embedded_tables(options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """The tables of the embedded profile, by title, one after the other."""
    if options.checkpoint is not None and not options.checkpoint.is_file():
        raise KDTalkerError(f"There is no checkpoint {options.checkpoint}; `kdtalker train motion` writes one.")
    if options.hops:
        yield "hops", list(hop_rows(options.networks, options.hops, options.seeds))
    if options.checkpoint is not None:
        with tempfile.TemporaryDirectory() as folder:
            variants = Variants(options.checkpoint, Path(folder))
            clips = Clips(variants.encode)
            yield "context", list(context_rows(variants, clips, options.seeds))
            yield "steps", list(step_rows(variants, clips, options.seeds))


def published_tables(options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    from benchmarks.solvers import published_rows

    yield "solvers", published_rows(options.weights, options.speech, options.device)


def quality(argv: list[str]) -> int:
    """Seams, lips and compute by hop, context and denoising steps."""
    parser = argparse.ArgumentParser(
        prog="kdtalker bench quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=list(PROFILES), default=EMBEDDED.name, help="default: embedded")
    parser.add_argument("--hops", type=_numbers, default=list(HOPS), help=f"default: {','.join(map(str, HOPS))}")
    parser.add_argument("--seeds", type=_numbers, default=[11, 23, 37], help="of the noise; default: 11,23,37")
    parser.add_argument("--networks", type=Path, default=folder_of_weights(), help="folder of ONNX files")
    parser.add_argument("--checkpoint", type=Path, help="of training, for the tables of context and steps")
    parser.add_argument("--speech", type=Path, help="with --profile kdtalker: a sound file")
    parser.add_argument("--weights", help="with --profile kdtalker: a folder, or random:N")
    parser.add_argument("--device", default="auto", help="with --profile kdtalker")
    parser.add_argument("--out", type=Path, default=Path("build/quality.json"), help="default: build/quality.json")
    options = parser.parse_args(argv)
    console = Console(width=170)
    found: dict[str, Any] = {"machine": machine(), "profile": options.profile, "noise seeds": options.seeds}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for title, rows in (embedded_tables if options.profile == EMBEDDED.name else published_tables)(options):
        show(title, rows, console)
        found[title] = rows
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"-> {options.out}")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
