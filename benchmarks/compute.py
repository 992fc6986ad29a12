"""How long does every network take, by runtime, precision and batch?

    python -m benchmarks.compute [DIR ...] [--device cpu|cuda] [--batches 1,2,4,8] [--out compute.json]

DIR holds network files: those shipped, or what `kdtalker export` and `kdtalker build` wrote. Buffers are prepared and
every batch is run before it is timed; a time spans arrays in main memory to arrays in main memory, one call after the
other on one thread, so on a GPU it includes both copies.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from engines.runtime.base import Array, Engine, fact
from engines.runtime.opening import open_engine
from engines.types import KDTalkerError
from export import examples
from export.stopwatch import Stopwatch

ENDINGS = (".onnx", ".pt2", ".engine")
BUDGET = 40.0  # ms, one video frame
FEWEST, MOST = 3, 2000  # timed runs a batch


@dataclass(frozen=True, slots=True)
class Measured:
    """Times in milliseconds of `runs` calls of one file at one batch; seconds of opening it, elapsed and of a core."""

    file: str
    profile: str
    network: str
    runtime: str
    precision: str
    batch: int
    runs: int
    best: float
    p50: float
    p95: float
    p99: float
    load_seconds: float
    load_cpu_seconds: float
    file_bytes: int


def measure(path: Path, device: str, batches: Sequence[int], seconds: float) -> Iterator[Measured]:
    loading = Stopwatch()
    engine = open_engine(path, device=device)
    load, load_cpu = loading.read()
    facts = [str(fact(engine.metadata, key) or "") for key in ("profile", "network", "precision")]
    for batch in batches:
        times = 1e3 * np.array(_times(engine, batch, seconds))
        p50, p95, p99 = np.percentile(times, (50, 95, 99))
        yield Measured(
            path.name,
            facts[0] or path.parent.name,
            facts[1] or path.stem,
            engine.runtime,
            facts[2] or "float32",
            batch,
            len(times),
            float(times.min()),
            float(p50),
            float(p95),
            float(p99),
            load,
            load_cpu,
            path.stat().st_size,
        )
    engine.close()


def _times(engine: Engine, batch: int, seconds: float) -> list[float]:
    arrays = examples.draw(engine.inputs, batch)
    engine.hold(**{name: arrays.pop(name) for name in fact(engine.metadata, "tables") or []})
    engine.warm([batch], **examples.SIZES)
    out: dict[str, Array] = engine.run(**arrays)
    times: list[float] = []
    while len(times) < FEWEST or (sum(times) < seconds and len(times) < MOST):
        began = time.perf_counter()
        engine.run(out, **arrays)
        times.append(time.perf_counter() - began)
    return times


def print_table(rows: Sequence[Measured], console: Console) -> None:
    table = Table(title=f"Milliseconds a call; a video frame is due every {BUDGET:.0f} ms")
    for heading in ("profile", "network", "runtime", "precision"):
        table.add_column(heading)
    for heading in ("batch", "best", "p50", "p95", "p99", "runs", "load s", "(CPU s)", "MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = (f"{value:.2f}" for value in (row.best, row.p50, row.p95, row.p99))
        load = (f"{row.load_seconds:.2f}", f"({row.load_cpu_seconds:.2f})")
        rest = (str(row.runs), *load, f"{row.file_bytes / 1e6:.1f}")
        table.add_row(row.profile, row.network, row.runtime, row.precision, str(row.batch), *times, *rest)
    console.print(table)


def compute(argv: list[str]) -> int:
    """Time every network file."""
    shipped = Path(__file__).resolve().parent.parent / "engines" / "weights"
    parser = argparse.ArgumentParser(prog="kdtalker bench compute", description=compute.__doc__)
    parser.add_argument(
        "folders", type=Path, nargs="*", default=[shipped], metavar="DIR", help="(default: those shipped)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="timed a batch (default: 2)")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAMES", help="networks, by name")
    parser.add_argument("--out", type=Path, default=Path("build/compute.json"), help="(default: build/compute.json)")
    options = parser.parse_args(argv)
    files = sorted(path for folder in options.folders for path in folder.rglob("*") if path.suffix in ENDINGS)
    if options.only:
        files = [path for path in files if path.name.split(".")[0] in options.only]
    rows: list[Measured] = []
    for path in files:
        try:
            rows += measure(path, options.device, options.batches, options.seconds)
        except KDTalkerError as error:
            print(f"{path.name}: {error}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"machine": machine(), "device": options.device, "peak_memory_mb": peak, "rows": [asdict(r) for r in rows]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(rows, Console(width=140))
    print(f"-> {options.out}")
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(compute(sys.argv[1:]))
