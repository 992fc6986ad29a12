"""How does cost grow with batch, denoising steps and calls, and how much of the machine's peak do the networks reach?

The embedded profile on one thread, by the processor's time and not the wall's, so that waiting does not count. What a
smaller picture saves is a matter of its encoder: `kdtalker bench encoders`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.babble import babble
from benchmarks.flops import operations
from benchmarks.machine import machine
from benchmarks.motion import folder_of_weights
from benchmarks.probe import default_face
from engines.media import resample
from engines.pipeline import Talker
from engines.profile import EMBEDDED
from engines.runtime.base import BATCH, Engine, example_inputs
from engines.runtime.opening import open_engine
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE, SPEECH_SAMPLES, FloatArray, Identity

Row = dict[str, Any]
SIDE = 1024  # of the matrices whose product shows the peak


def cost(work: Callable[[], object], seconds: float) -> tuple[float, float, int]:
    """Milliseconds of a core that a call takes: median, p95 and number of those that fit in so many seconds."""
    work()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * float(np.median(times)), 1000 * float(np.percentile(times, 95)), len(times)


def peak(seconds: float) -> float:
    """Operations a second that BLAS reaches on one core, multiplying matrices in single precision."""
    matrix = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    out = np.empty_like(matrix)
    took, _, _ = cost(lambda: np.matmul(matrix, matrix, out=out), seconds)
    return 2 * SIDE**3 / (took / 1000)


def batches(folder: Path, sizes: Sequence[int], seconds: float, top: float) -> Iterator[Row]:
    """Each network by rows in a call."""
    for path in sorted(folder.glob("*.onnx")):
        engine = open_engine(path)
        for size in sizes:
            free = {BATCH: size, "frames": EMBEDDED.window.length}
            took, late, runs = _run(engine, free, seconds)
            done = operations(path, free)
            yield {
                "network": path.stem,
                "batch": size,
                "ms": round(took, 3),
                "p95 ms": round(late, 3),
                "ms a row": round(took / size, 3),
                "GFLOP": round(done / 1e9, 4),
                "% of peak": round(100 * done / (took / 1000) / top, 1),
                "runs": runs,
            }
        engine.close()


def steps(folder: Path, seconds: float) -> Iterator[Row]:
    """One window of one call by denoising steps."""
    for name in ("brief", "window"):
        engine = open_engine(folder / f"{name}.onnx")
        count = json.loads(engine.metadata["steps"])
        took, late, runs = _run(engine, {BATCH: 1, "frames": EMBEDDED.window.length}, seconds)
        second = round(took * FPS / EMBEDDED.window.new, 2)
        yield {"steps": count, "ms": round(took, 3), "p95 ms": round(late, 3), "ms a second": second, "runs": runs}
        engine.close()


def calls(talker: Talker, identity: Identity, counts: Sequence[int], ticks: int) -> Iterator[Row]:
    """All that the engines do for calls side by side, tick by tick; beside it the same without pictures."""
    sound = babble(ticks / FPS + 1).astype(np.float32) / 32768
    speech: FloatArray = resample(sound, PLAYBACK_RATE, SPEECH_RATE)
    for count in counts:
        talks = [talker.begin(identity, seed) for seed in range(count)]
        listening = rendering = 0.0
        pictures = 0
        began = time.perf_counter()
        for tick in range(ticks):
            for talk in talks:
                begin = time.process_time()
                ready = talker.listen(talk, speech[tick * SPEECH_SAMPLES : (tick + 1) * SPEECH_SAMPLES])
                middle = time.process_time()
                for made in ready:
                    talker.render([identity], made.motion[None])
                rendering += time.process_time() - middle
                listening += middle - begin
                pictures += len(ready)
        wall = time.perf_counter() - began
        yield {
            "calls": count,
            "sound and motion, ms a picture": round(1000 * listening / pictures, 3),
            "rendering, ms a picture": round(1000 * rendering / pictures, 3),
            "cores a call": round((listening + rendering) / pictures * FPS, 3),
            "pictures a second": round(pictures / wall, 1),
        }


def _run(engine: Engine, sizes: dict[str, int], seconds: float) -> tuple[float, float, int]:
    engine.warm([sizes[BATCH]], frames=sizes["frames"])
    arrays = example_inputs(engine.inputs, sizes)
    out = engine.run(**arrays)
    return cost(lambda: engine.run(out, **arrays), seconds)


def show(title: str, rows: Sequence[Row], console: Console) -> None:
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def growth(argv: list[str]) -> int:
    """Cost by batch, denoising steps and calls; share of the measured peak."""
    parser = argparse.ArgumentParser(
        prog="kdtalker bench growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=_numbers, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    parser.add_argument("--calls", type=_numbers, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    parser.add_argument("--ticks", type=int, default=250, help="of each call; default: 250, ten seconds")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed a row; default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    console, folder = Console(width=140), folder_of_weights()
    top = peak(options.seconds)
    console.print(f"peak of one core: {top / 1e9:.1f} GFLOP/s (BLAS, float32)")
    found: dict[str, Any] = {"tool": "kdtalker bench growth", "machine": machine(), "peak GFLOP/s": round(top / 1e9, 1)}
    for title, rows in (
        ("batches", batches(folder, options.batches, options.seconds, top)),
        ("steps", steps(folder, options.seconds)),
        ("calls", calls(*default_face(), options.calls, options.ticks)),
    ):
        found[title] = list(rows)
        show(title, found[title], console)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]
