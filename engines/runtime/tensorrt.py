"""TensorRT (10.x and 11.x) behind the engine contract: one context, one set of buffers, one CUDA graph a batch size.

Device memory, streams and graphs are torch's. Written to the documented interface and type-checked against the
bindings of 10.16 and 11.4; it has not been run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.runtime.base import (
    BATCH,
    Array,
    TensorSpec,
    check_inputs,
    check_row,
    deliver,
    padded_batch,
    stated_specs,
)
from engines.runtime.captured import Captured, captured
from engines.runtime.engine_file import Target, read_engine, rebuild
from engines.types import EngineError, WeightsError

if TYPE_CHECKING:
    import tensorrt

WARM_UP = 2  # runs before a capture: the first one flushes what TensorRT defers


def require_tensorrt() -> str:
    """TensorRT's version; raises EngineError saying how to get it where it is missing."""
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            "TensorRT is not installed here. On a machine with an NVIDIA GPU run `pip install tensorrt` (10.12 or "
            "later); without it the same networks run on torch or ONNX Runtime."
        ) from error
    return str(getattr(tensorrt, "__version__", "unknown"))


def this_target() -> Target:
    """TensorRT's version and the GPU of this machine."""
    version = require_tensorrt()
    if not torch.cuda.is_available():
        raise EngineError("TensorRT needs an NVIDIA GPU with its driver, and torch finds none here.")
    major, minor = torch.cuda.get_device_capability()
    return Target(version, f"{major}.{minor}", torch.cuda.get_device_name())


class TensorRtEngine:
    """A plan with one optimisation profile a batch size. One call at a time; tables stay on the device."""

    runtime = "tensorrt"

    def __init__(self, path: Path, *, onnx: Path | None = None) -> None:
        require_tensorrt()
        import tensorrt as trt

        self.name = path.name.split(".")[0]
        facts, plan = read_engine(path, this_target(), onnx)
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime: tensorrt.Runtime = trt.Runtime(self._logger)
        if facts.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan carries a part of its own runtime
        engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise WeightsError(f"{path.name} was refused by TensorRT. {rebuild(path)}")
        self._engine = engine
        self._batches, self._sizes = facts.batches, dict(facts.sizes)
        self.metadata: Mapping[str, str] = facts.metadata
        self.inputs, self.outputs = stated_specs(self.metadata, "inputs"), stated_specs(self.metadata, "outputs")
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != {spec.name for spec in (*self.inputs, *self.outputs)}:
            raise WeightsError(f"{path.name} has other tensors than it states: {sorted(names)}. {rebuild(path)}")
        self.unprepared = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._held: dict[str, Tensor] = {}
        self._prepared: dict[int, Captured] = {}
        self._lock = threading.Lock()

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        given = [spec for spec in self.inputs if spec.name not in self._held]
        rows = check_inputs(self.name, given, arrays)[BATCH]
        self._check_sizes(given, arrays, rows)
        batch = padded_batch(rows, self._batches)
        self.unprepared += batch not in self._prepared
        with self._lock, torch.cuda.stream(self._stream):
            prepared = self._prepared.get(batch) or self._prepare(batch)
            results = prepared.replay(arrays, rows)
            return {spec.name: deliver(self.name, spec, results[spec.name].numpy(), out) for spec in self.outputs}

    def hold(self, **tables: Array) -> None:
        """Tables have the rows the engine was built for; fewer are followed by zeros."""
        with self._lock, torch.cuda.stream(self._stream):
            for name, table in tables.items():
                spec = next((spec for spec in self.inputs if spec.name == name), None)
                if spec is None:
                    raise EngineError(f"{self.name}: there is no input '{name}' to hold")
                shape = spec.sized(self._sizes)
                if (
                    table.dtype != spec.dtype
                    or table.ndim != len(shape)
                    or table.shape[1:] != shape[1:]
                    or len(table) > shape[0]
                ):
                    raise EngineError(
                        f"{self.name}: table '{name}' must be {spec.dtype} {shape} or shorter, got {table.dtype} "
                        f"{table.shape}"
                    )
                kept = self._held.get(name)
                if kept is None:
                    kept = self._held[name] = torch.zeros(shape, dtype=_torch_dtype(spec), device="cuda")
                    self._prepared.clear()
                kept[: len(table)].copy_(torch.from_numpy(table))
            self._stream.synchronize()

    def put(self, row: int, **rows: Array) -> None:
        specs = {spec.name: spec for spec in self.inputs}
        with self._lock, torch.cuda.stream(self._stream):
            for name, value in rows.items():
                table = self._held.get(name)
                held = None if table is None else replace(specs[name], shape=tuple(table.shape))
                check_row(self.name, name, held, row, value)
                self._held[name][row].copy_(torch.from_numpy(value))
            self._stream.synchronize()

    def warm(self, batches: Iterable[int], **sizes: int) -> None:
        """`sizes` other than the batch were settled when the engine was built."""
        free = {size for spec in self.inputs if spec.name not in self._held for size in spec.shape}
        other = {word: size for word, size in sizes.items() if word in free and self._sizes.get(word, size) != size}
        if other:
            raise EngineError(f"{self.name} was built for {dict(self._sizes)}, not for {other}")
        with self._lock, torch.cuda.stream(self._stream):
            for batch in batches:
                size = padded_batch(batch, self._batches)
                if size not in self._prepared:
                    self._prepare(size)

    def close(self) -> None:
        self._prepared.clear()
        self._held.clear()
        del self._engine, self._runtime

    def _prepare(self, batch: int) -> Captured:
        """Buffers, context and graph of one batch size, on the engine's stream."""
        context: tensorrt.IExecutionContext | None = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"{self.name}: TensorRT has no memory left for batch {batch}")
        handle = self._stream.cuda_stream
        self._check(context.set_optimization_profile_async(self._batches.index(batch), handle), "profile", batch)
        sizes = self._sizes | {BATCH: batch}
        inputs, outputs = (
            {
                spec.name: torch.zeros(spec.sized(sizes), dtype=_torch_dtype(spec), device="cuda")
                for spec in specs
                if spec.name not in self._held
            }
            for specs in (self.inputs, self.outputs)
        )
        for name, tensor in (inputs | self._held).items():
            self._check(context.set_input_shape(name, tuple(tensor.shape)), f"shape of '{name}'", batch)
        for name, tensor in (inputs | self._held | outputs).items():
            self._check(context.set_tensor_address(name, tensor.data_ptr()), f"address of '{name}'", batch)
        for _ in range(WARM_UP):
            self._check(context.execute_async_v3(handle), "run", batch)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating while this one captures.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._check(context.execute_async_v3(handle), "capture", batch)
        by_rows = frozenset(spec.name for spec in self.inputs if spec.shape[:1] == (BATCH,))
        self._prepared[batch] = captured(graph, inputs, outputs, by_rows, context)
        return self._prepared[batch]

    def _check_sizes(self, given: Iterable[TensorSpec], arrays: Mapping[str, Array], rows: int) -> None:
        """Shapes are static: free sizes other than the batch are those the engine was built for."""
        for spec in given:
            shape, array = spec.sized({**self._sizes, BATCH: rows}), arrays[spec.name]
            if array.shape != shape:
                raise EngineError(f"{self.name}: input '{spec.name}' must be {shape} in this engine, got {array.shape}")

    def _check(self, succeeded: bool, what: str, batch: int) -> None:
        if not succeeded:
            raise EngineError(f"{self.name}: TensorRT refused the {what} at batch {batch}; its log above says why")


def _torch_dtype(spec: TensorSpec) -> torch.dtype:
    return torch.from_numpy(np.empty(0, spec.dtype)).dtype
