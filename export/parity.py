"""Is a file's arithmetic torch's? Asked when it is written, and again on every machine that is to run it.

Beside a file lie what torch gave for seeded random inputs (``NAME.reference.npz``, long results thinned out) and the
comparison (``NAME.parity.json``). The inputs are made anew from their seed, so neither torch nor the weights are needed
to repeat the comparison elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.runtime.base import Array, Engine, fact
from engines.types import KDTalkerError
from export import examples

KEPT = 1 << 16  # numbers of an output that are kept for later comparison
# Share of the largest magnitude by which a float16 engine may differ from float32 torch on a device that computes in
# float16 (11 bits of mantissa, some hundred layers), and bytes of a picture by which most pixels may.
HALF_TOLERANCE, HALF_BYTES = 2e-2, 3
BYTES, BYTES_SHARE = 1, 2e-3  # float32: a rounding may tip one step in few pixels


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output at one batch. `error`: largest difference over the largest magnitude, or in steps for bytes;
    `share`: of values that differ at all, for bytes."""

    batch: int
    output: str
    error: float
    allowed: float
    share: float
    passed: bool
    torch_ms: float
    runtime_ms: float


def compute_reference(
    compute: Callable[[Mapping[str, Array]], Mapping[str, Any]], engine: Engine, batches: Sequence[int]
) -> dict[str, Array]:
    """What torch gives at every batch: ``BATCH/OUTPUT`` thinned out, and ``BATCH/ms``."""
    kept: dict[str, Array] = {}
    for batch in batches:
        arrays = examples.draw(engine.inputs, batch)
        began = time.perf_counter()
        values = compute(arrays)
        kept[f"{batch}/ms"] = np.float64(1e3 * (time.perf_counter() - began)) * np.ones(1)
        for spec in engine.outputs:
            kept[f"{batch}/{spec.name}"] = thinned(values[spec.name].numpy())
    return kept


def thinned(value: Array) -> Array:
    """At most about `KEPT` values at even distance; the distance is odd, so that it meets every column."""
    return value.reshape(-1)[:: max(1, value.size // KEPT) | 1].copy()


def compare(engine: Engine, reference: Mapping[str, Array]) -> list[Comparison]:
    """Run `engine` on the inputs of the reference. Tolerances come from the file's metadata."""
    half = fact(engine.metadata, "precision") == "float16"
    tolerance = HALF_TOLERANCE if half else float(fact(engine.metadata, "tolerance") or 1e-4)
    found = []
    for batch in sorted({int(key.split("/")[0]) for key in reference}):
        arrays = examples.draw(engine.inputs, batch)
        tables = fact(engine.metadata, "tables") or []
        engine.hold(**{name: arrays.pop(name) for name in tables})
        began = time.perf_counter()
        values = engine.run(**arrays)
        elapsed = 1e3 * (time.perf_counter() - began)
        torch_ms = float(reference[f"{batch}/ms"][0])
        for spec in engine.outputs:
            expected = reference[f"{batch}/{spec.name}"]
            error, share, passed = difference(thinned(values[spec.name]), expected, tolerance, half=half)
            allowed = tolerance if spec.dtype != np.uint8 else float(HALF_BYTES if half else BYTES)
            found.append(Comparison(batch, spec.name, error, allowed, share, passed, torch_ms, elapsed))
    return found


def difference(value: Array, expected: Array, tolerance: float, *, half: bool = False) -> tuple[float, float, bool]:
    """Error, share of values that differ, and whether that passes; see `Comparison`."""
    if value.shape != expected.shape:
        return float("inf"), 1.0, False
    gap = np.abs(value.astype(np.float64) - expected)
    if not np.isfinite(gap).all():
        return float("inf"), 1.0, False
    share = float((gap > 0).mean())
    if expected.dtype == np.uint8:
        error = float(gap.max())
        if half:
            return error, share, bool(np.quantile(gap, 0.99) <= HALF_BYTES)
        return error, share, error <= BYTES and share <= BYTES_SHARE
    error = float(gap.max() / max(np.abs(expected).max(), 1e-12))
    return error, share, error <= tolerance


def reference_path(path: Path) -> Path:
    return path.with_name(path.name.split(".")[0] + ".reference.npz")


def report_path(path: Path) -> Path:
    return path.with_name(path.stem + ".parity.json")


def save_reference(path: Path, reference: Mapping[str, Array]) -> None:
    np.savez_compressed(reference_path(path), allow_pickle=False, **reference)


def load_reference(path: Path) -> dict[str, Array]:
    beside = reference_path(path)
    if not beside.is_file():
        raise KDTalkerError(f"{beside.name} does not lie beside {path.name}; `kdtalker export` writes both.")
    with np.load(beside) as archive:
        return {key: archive[key] for key in archive.files}


def write_report(path: Path, comparisons: Sequence[Comparison], **more: object) -> None:
    content = {
        "file": path.name,
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        **more,
        "comparisons": [asdict(each) for each in comparisons],
    }
    report_path(path).write_text(json.dumps(content, indent=1) + "\n")


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
