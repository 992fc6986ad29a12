"""Does every network file compute here what torch computed when it was written, and how fast?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engines.runtime.base import BATCH, Array, Engine, fact
from engines.runtime.opening import open_engine
from engines.types import KDTalkerError
from export import examples, parity
from export.stopwatch import Stopwatch

RUNTIMES = {".onnx": "onnxruntime", ".pt2": "torch", ".engine": "tensorrt"}
SECONDS = 1.0  # of repeated runs a batch, at least one run
SLOW = 2.0  # seconds a run beyond which one is enough


@dataclass(frozen=True, slots=True)
class Finding:
    """One file at one batch. `error`, `allowed` as in `parity.Comparison`; `note` says why where it failed.

    `load_seconds`: of opening the file, in elapsed time; `load_cpu_seconds` in time of all processors, which other
    programs do not lengthen.
    """

    file: str
    runtime: str
    precision: str
    batch: int
    error: float
    allowed: float
    milliseconds: float
    torch_milliseconds: float
    load_seconds: float
    load_cpu_seconds: float
    passed: bool | None
    note: str = ""


def verify_folder(folder: Path, device: str, batches: Sequence[int] | None = None) -> list[Finding]:
    """Every network file below `folder`, on `device`. Files that cannot be opened are findings too."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in RUNTIMES)
    if not files:
        raise KDTalkerError(f"There are no network files below {folder}; `kdtalker export --out DIR` writes them.")
    findings: list[Finding] = []
    for path in files:
        try:
            findings += verify_file(path, device, batches)
        except KDTalkerError as error:
            nothing = float("nan")
            runtime = RUNTIMES[path.suffix]
            findings.append(Finding(_shown(path), runtime, "", 0, *[nothing] * 6, False, str(error)))
    return findings


def verify_file(path: Path, device: str, batches: Sequence[int] | None = None) -> list[Finding]:
    """Compare one file at every batch of its reference (or those of `batches` that are in it)."""
    reference = parity.load_reference(path)
    present = sorted({int(key.split("/")[0]) for key in reference})
    chosen = [batch for batch in present if batches is None or batch in batches]
    loading = Stopwatch()
    engine = open_engine(path, device=device)
    seconds, cpu_seconds = loading.read()
    try:
        fallen = other_providers(engine, device)
        precision = str(fact(engine.metadata, "precision"))
        verified = precision != "float16" or device != "cpu"
        findings = []
        for batch in chosen:
            part = {key: value for key, value in reference.items() if key.startswith(f"{batch}/")}
            compared = parity.compare(engine, part)
            worst = max(compared, key=lambda each: each.error / each.allowed)
            passed: bool | None = all(each.passed for each in compared) and not fallen
            note = fallen
            if not verified:
                note = note or "structure checked, precision not verified: a CPU computes in float32"
                passed = False if fallen else None
            findings.append(
                Finding(
                    _shown(path),
                    engine.runtime,
                    precision,
                    batch,
                    worst.error,
                    worst.allowed,
                    milliseconds(engine, batch),
                    worst.torch_ms,
                    seconds,
                    cpu_seconds,
                    passed,
                    note,
                )
            )
        return findings
    finally:
        engine.close()


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def other_providers(engine: Engine, device: str) -> str:
    """A sentence where ONNX Runtime put nodes elsewhere than asked, else nothing."""
    from engines.runtime.onnxruntime import PROVIDERS, OnnxRuntimeEngine

    if not isinstance(engine, OnnxRuntimeEngine):
        return ""
    strange = {name: nodes for name, nodes in engine.assignment().items() if name != PROVIDERS[device]}
    return ", ".join(
        f"{nodes.total()} nodes fell to {name} ({', '.join(operator for operator, _ in nodes.most_common(4))})"
        for name, nodes in sorted(strange.items())
    )


def milliseconds(engine: Engine, batch: int) -> float:
    """Best time of one run, buffers prepared."""
    arrays = examples.draw(engine.inputs, batch)
    for name in fact(engine.metadata, "tables") or []:
        engine.hold(**{name: arrays.pop(name)})
    if _once(engine, arrays) < SLOW:
        engine.warm([batch], **examples.SIZES)
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        elapsed = _once(engine, arrays)
        best, spent = min(best, elapsed), spent + elapsed
    return 1e3 * best


def _once(engine: Engine, arrays: dict[str, Array]) -> float:
    began = time.perf_counter()
    engine.run(**arrays)
    return time.perf_counter() - began


def print_table(findings: Sequence[Finding], device: str, console: Console) -> None:
    table = Table(title=f"Network files on {device}, against torch in float32")
    for heading in ("file", "runtime", "precision"):
        table.add_column(heading)
    for heading in (BATCH, "differs by", "allowed", "ms", "torch ms*", "load s", "(CPU s)"):
        table.add_column(heading, justify="right")
    table.add_column("")
    words = {True: "passed", False: "FAILED", None: "not verified"}
    for each in findings:
        numbers = (
            f"{each.error:.1e}",
            f"{each.allowed:g}",
            f"{each.milliseconds:.1f}",
            f"{each.torch_milliseconds:.1f}",
            f"{each.load_seconds:.2f}",
            f"({each.load_cpu_seconds:.2f})",
        )
        table.add_row(each.file, each.runtime, each.precision, str(each.batch), *numbers, words[each.passed])
    console.print(table)
    console.print("* one run in float32 on the machine that wrote the files, in its main memory; no benchmark")
    for note in dict.fromkeys(f"{each.file}: {each.note}" for each in findings if each.note):
        console.print(note, soft_wrap=True)


def run(folder: Path, device: str, batches: Sequence[int] | None, report: Path | None, console: Console) -> int:
    """Verify, print, write `report`; the exit status."""
    findings = verify_folder(folder, device, batches)
    print_table(findings, device, console)
    if report is not None:
        report.write_text(json.dumps([asdict(each) for each in findings], indent=1) + "\n")
    failed = sum(each.passed is False for each in findings)
    console.print(f"{failed} of {len(findings)} failed" if failed else f"none of {len(findings)} failed")
    return 1 if failed else 0
