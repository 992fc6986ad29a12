"""ONNX Runtime behind the engine contract, on the CPU or on CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from engines.runtime.base import (
    BATCH,
    Array,
    TensorSpec,
    check_inputs,
    check_row,
    deliver,
    example_inputs,
    free_sizes,
)
from engines.types import EngineError, WeightsError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


Key = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Binding:
    """Buffers of one batch size, bound once. Used by one call at a time."""

    io: onnxruntime.IOBinding
    inputs: Mapping[str, Array]
    outputs: tuple[Array, ...]


class OnnxRuntimeEngine:
    """One session with one intra-op thread by default: parallelism belongs to the workers above.

    A call whose free sizes were prepared by `warm` copies into bound buffers and allocates nothing but its results;
    any other size runs too and lets the runtime allocate.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int = 1) -> None:
        self.name = path.stem
        self.device = device
        provider = PROVIDERS.get(device)
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"{path.name}: this build of ONNX Runtime cannot run on '{device}'; it has "
                f"{', '.join(onnxruntime.get_available_providers())}. For CUDA install onnxruntime-gpu in its place."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning keeps a core busy between calls, which other sessions' renderers need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # TensorFloat-32 has 11 bits of mantissa, and what stays in float32 here does so for its precision.
        chosen = (provider, {"use_tf32": "0"}) if device == "cuda" else provider
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[chosen])
        except Exception as error:  # the runtime raises its own unrelated classes
            raise WeightsError(
                f"{path.name} cannot be opened by ONNX Runtime: {error}. Write it again with `kdtalker export`."
            ) from error
        unnamed = count()
        self.inputs = tuple(_spec(node, unnamed) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, unnamed) for node in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._output_names = [spec.name for spec in self.outputs]
        self.unprepared = 0
        self._held: dict[str, tuple[Array, onnxruntime.OrtValue]] = {}
        self._held_sizes: dict[str, int] = {}
        self._bindings: dict[Key, list[_Binding]] = {}

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        sizes = self._held_sizes | check_inputs(self.name, self._free(), arrays)
        pool = self._bindings.get(_key(sizes))
        self.unprepared += pool is None
        try:
            if pool is None and not self._held:
                results = self._session.run(self._output_names, arrays)
                if out is None:
                    return dict(zip(self._output_names, results, strict=True))
            else:
                # Concurrent calls of one size each take a binding of their own; there are as many as threads.
                binding = pool.pop() if pool else self._bind(sizes)
                for name, buffer in binding.inputs.items():
                    np.copyto(buffer, arrays[name])
                self._session.run_with_iobinding(binding.io)
                results = binding.outputs
        except Exception as error:  # the runtime raises its own unrelated classes
            raise EngineError(f"{self.name}: {error}") from error
        delivered = {
            spec.name: deliver(self.name, spec, value, out) for spec, value in zip(self.outputs, results, strict=True)
        }
        if pool is not None:
            pool.append(binding)
        return delivered

    def hold(self, **tables: Array) -> None:
        self._held_sizes |= check_inputs(self.name, [spec for spec in self.inputs if spec.name in tables], tables)
        for name, table in tables.items():
            kept = np.array(table, order="C")  # a copy: on a CPU the network reads this very memory
            self._held[name] = (kept, onnxruntime.OrtValue.ortvalue_from_numpy(kept, self.device, 0))
        self._bindings.clear()

    def put(self, row: int, **rows: Array) -> None:
        for name, value in rows.items():
            held = self._held.get(name)
            check_row(self.name, name, held and held[0], row, value)
            table, resident = self._held[name]
            table[row] = value
            if self.device != "cpu":
                resident.update_inplace(table)

    def warm(self, batches: Iterable[int], **sizes: int) -> None:
        for batch in batches:
            found = free_sizes(self.name, self._free(), {**sizes, BATCH: batch})
            whole = self._held_sizes | found
            self._bindings.setdefault(_key(whole), []).append(self._bind(whole))
            self.run(**example_inputs(self._free(), found))

    def assignment(self) -> dict[str, Counter[str]]:
        """How many nodes of which operator each execution provider runs."""
        nodes: dict[str, Counter[str]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
        return nodes

    def close(self) -> None:
        self._bindings.clear()
        self._held.clear()
        del self._session

    def _free(self) -> list[TensorSpec]:
        """Inputs that calls bring."""
        return [spec for spec in self.inputs if spec.name not in self._held]

    def _bind(self, sizes: Mapping[str, int]) -> _Binding:
        io = self._session.io_binding()
        inputs = {}
        for spec in self.inputs:
            if spec.name in self._held:
                io.bind_ortvalue_input(spec.name, self._held[spec.name][1])
                continue
            inputs[spec.name] = np.empty(spec.sized(sizes), spec.dtype)
            io.bind_cpu_input(spec.name, inputs[spec.name])
        outputs = tuple(np.empty(spec.sized(sizes), spec.dtype) for spec in self.outputs)
        for spec, buffer in zip(self.outputs, outputs, strict=True):
            io.bind_output(spec.name, "cpu", 0, spec.dtype, buffer.shape, buffer.ctypes.data)
        return _Binding(io, inputs, outputs)


def _key(sizes: Mapping[str, int]) -> Key:
    return tuple(sorted(sizes.items()))


def _spec(node: onnxruntime.NodeArg, unnamed: count[int]) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else (size or f"size{next(unnamed)}") for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)
