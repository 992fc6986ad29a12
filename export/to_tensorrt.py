"""ONNX files to TensorRT engines (10.x and 11.x): strongly typed, one optimisation profile a batch size.

The types stand in the ONNX file, so there is no precision flag to set. Written to the documented interface and
type-checked against the bindings of 10.16 and 11.4; it has not been run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, SupportsInt, cast

import onnx

from engines.runtime.base import BATCH, IDENTITIES, TensorSpec, fact, stated_specs
from engines.runtime.engine_file import BATCHES, EngineFacts, Target, file_hash, read_facts, write_engine
from engines.types import KDTalkerError, WeightsError
from export.examples import FRAMES, SIZES
from export.onnx_file import graph_hash

if TYPE_CHECKING:
    import tensorrt

TABLE_ROWS = 16  # photos an engine's tables hold
NATIVE_FROM = (11, 2)  # the first version with a 5-D GridSample
# Refittable engines of this version may lose a bias (release notes of 11.3.0).
REFIT_BROKEN = (11, 3)
REFIT_FROM = (10, 14)  # the first whose engines can be refitted more than once
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How engines are built. `version_compatible`: later TensorRT versions may load the plan;
    `hardware_compatible`: Ampere and later GPUs may; both cost speed. `refit`: weights can be exchanged."""

    batches: tuple[int, ...] = BATCHES
    table_rows: int = TABLE_ROWS
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False


def facts_for(path: Path, target: Target, options: BuildOptions) -> EngineFacts:
    """What an engine of the ONNX file `path` is bound to; raises WeightsError where the file is not ours."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own classes
        raise WeightsError(
            f"{path.name} is no ONNX file or is damaged ({error}); run `kdtalker export` again."
        ) from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    specs = stated_specs(metadata, "inputs")
    if not specs:
        raise WeightsError(
            f"{path.name} states no inputs, so it is not from `kdtalker export`; write it again with it."
        )
    if fact(metadata, "sampling") == "native" and version_numbers(target.tensorrt) < NATIVE_FROM:
        raise KDTalkerError(
            f"{path.name} uses 5-D GridSample, which TensorRT {target.tensorrt} cannot read (11.2 and later can); "
            "export it with `--target any`."
        )
    if options.refit:
        check_refit(target)
    words = {size for spec in specs for size in spec.shape if isinstance(size, str)} - {BATCH}
    sizes = {IDENTITIES: options.table_rows, FRAMES: SIZES[FRAMES]}
    return EngineFacts(
        file_hash(path),
        target,
        str(fact(metadata, "precision")),
        options.batches,
        {word: sizes[word] for word in words},
        options.version_compatible,
        options.hardware_compatible,
        options.refit,
        metadata,
        graph_hash(model),
    )


def check_refit(target: Target) -> None:
    """Raises KDTalkerError where engines of this TensorRT cannot be refitted."""
    version = version_numbers(target.tensorrt)
    if version == REFIT_BROKEN or version < REFIT_FROM:
        raise KDTalkerError(
            f"TensorRT {target.tensorrt} cannot refit engines reliably (10.14 and later can, except 11.3); build "
            "without `--refit`."
        )


def engine_path(path: Path, facts: EngineFacts) -> Path:
    """Where the engine of an ONNX file lies: beside it, named by its key."""
    return path.with_name(facts.file_name(path.stem))


def profile_shapes(inputs: tuple[TensorSpec, ...], facts: EngineFacts) -> list[dict[str, tuple[int, ...]]]:
    """The one shape of every input in every profile, a profile a batch size."""
    return [{spec.name: spec.sized({**facts.sizes, BATCH: batch}) for spec in inputs} for batch in facts.batches]


def build(path: Path, target: Target, options: BuildOptions, say: Say = print) -> tuple[Path, bool]:
    """Build the engine of an ONNX file unless its very engine is there -> its path, and whether it was built.

    Raises KDTalkerError with the parser's or builder's reasons.
    """
    facts = facts_for(path, target, options)
    place = engine_path(path, facts)
    if place.is_file():
        try:
            read_facts(place)
            return place, False
        except WeightsError:
            say(f"{place.name} is damaged and is built again")
    began = time.perf_counter()
    plan = serialized(path, facts, path.parent / timing_cache_name(target), say)
    write_engine(place, facts, plan)
    remove_outdated(path, facts, say)
    say(f"{place.name}: {place.stat().st_size / 1e6:.0f} MB, built in {time.perf_counter() - began:.0f} s")
    return place, True


def remove_outdated(path: Path, facts: EngineFacts, say: Say) -> None:
    """Drop the engines that were built for this machine from what the ONNX file held before."""
    for old in path.parent.glob(f"{path.stem}.*.engine"):
        try:
            theirs = read_facts(old)
        except WeightsError:
            continue
        if theirs.target == facts.target and theirs.onnx_sha256 != facts.onnx_sha256:
            old.unlink()
            say(f"{old.name}: of an older {path.name}, removed")


def serialized(path: Path, facts: EngineFacts, timing: Path, say: Say) -> bytes:
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Always so in 11; asked for in 10.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise KDTalkerError(f"TensorRT {facts.target.tensorrt} cannot read {path.name}: {reasons}")
    config = builder.create_builder_config()
    set_flags(config, facts)
    for shapes in profile_shapes(stated_specs(facts.metadata, "inputs"), facts):
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            dims = trt.Dims(shape)
            profile.set_shape(name, dims, dims, dims)
        config.add_optimization_profile(profile)
    config.progress_monitor = progress_monitor(path.stem, say)
    if not config.set_timing_cache(config.create_timing_cache(read_timing(timing)), False):
        say(f"{timing.name} is of another TensorRT or GPU; timings are taken anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)
    plan: tensorrt.IHostMemory | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise KDTalkerError(f"TensorRT {facts.target.tensorrt} could not build {path.name}; its log above says why.")
    write_timing(timing, content(config.get_timing_cache().serialize()))
    return content(plan)


def content(memory: tensorrt.IHostMemory) -> bytes:
    return bytes(cast(bytes, memory))  # it has the buffer protocol, which the bindings do not state


def set_flags(config: tensorrt.IBuilderConfig, facts: EngineFacts) -> None:
    import tensorrt as trt

    # On by default even in strongly typed networks, and 11 bits of mantissa: what is float32 here is so for precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    if facts.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if facts.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if facts.refit:
        # REFIT_IDENTICAL would be faster, but leaves undefined what weights other than those built with give.
        config.set_flag(trt.BuilderFlag.REFIT)


def progress_monitor(network: str, say: Say) -> tensorrt.IProgressMonitor:
    """A line whenever the build enters a phase or has done another tenth of one."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.progress = Progress(network, say)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
            self.progress.start(phase_name, int(num_steps))

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            self.progress.step(phase_name, int(step))
            return True  # False would stop the build

        def phase_finish(self, phase_name: str) -> None:
            self.progress.finish(phase_name)

    return Monitor()


class Progress:
    """Phases of one build as lines of text, at most ten a phase."""

    def __init__(self, network: str, say: Say) -> None:
        self._network, self._say = network, say
        self._steps: dict[str, int] = {}
        self._tenths: dict[str, int] = {}

    def start(self, phase: str, steps: int) -> None:
        self._steps[phase], self._tenths[phase] = max(steps, 1), 0
        self._say(f"{self._network}: {phase}")

    def step(self, phase: str, step: int) -> None:
        steps = self._steps.get(phase, 1)
        tenth = 10 * (step + 1) // steps
        if steps >= 10 and tenth > self._tenths.get(phase, 0):
            self._tenths[phase] = tenth
            self._say(f"{self._network}: {phase} {10 * tenth} %")

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)


def timing_cache_name(target: Target) -> str:
    """Timings hold for one TensorRT and one kind of GPU."""
    gpu = "".join(each if each.isalnum() else "-" for each in target.gpu or target.compute_capability).lower()
    return f"timings.{target.tensorrt}.{gpu}.cache"


def read_timing(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def write_timing(path: Path, timings: bytes) -> None:
    draft = path.with_name(f".{path.name}.partial")
    draft.write_bytes(timings)
    draft.replace(path)


def choose_files(folder: Path, precision: str) -> list[Path]:
    """The ONNX files of a folder to build: float16 twins where there are, else (or if asked) float32; or one file."""
    if folder.is_file():
        return [folder]
    plain = [path for path in sorted(folder.glob("*.onnx")) if not path.stem.endswith(".float16")]
    chosen = []
    for path in plain:
        twin = path.with_name(f"{path.stem}.float16.onnx")
        chosen.append(twin if precision == "float16" and twin.is_file() else path)
    if not chosen:
        raise KDTalkerError(f"{folder} holds no ONNX files; `kdtalker export --out` writes them.")
    return chosen


def version_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
