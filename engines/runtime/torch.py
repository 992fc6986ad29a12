"""torch behind the engine contract: eager on the CPU, one CUDA graph a batch size on a GPU.

A ``.pt2`` file is a traced program with its weights (`torch.export`); it needs none of our network code.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from engines.runtime.base import (
    BATCH,
    Array,
    TensorSpec,
    check_inputs,
    deliver,
    example_inputs,
    padded_batch,
)
from engines.types import EngineError, WeightsError

FACTS = "facts.json"  # metadata inside a .pt2 file: {key: JSON text}, and the specs under SPECS
SPECS = "specs"


@dataclass(frozen=True, slots=True)
class _Captured:
    """A CUDA graph with the tensors it reads and writes, and pinned memory at the host's end."""

    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    host_in: Mapping[str, Tensor]
    host_out: Mapping[str, Tensor]


class TorchEngine:
    """A module under the contract. `module` takes its inputs by name and returns a dict of tensors or one tensor.

    On CUDA a batch prepared by `warm` replays its graph; rows between prepared sizes are padded up to the next.
    `channels_last` lays out convolution weights as tensor cores read them. `half`: convolutions and products compute in
    it, by autocast; inputs, results, statistics and coordinates stay in float32. One call at a time on a GPU.
    """

    runtime = "torch"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        metadata: Mapping[str, str] | None = None,
        *,
        device: str = "cpu",
        channels_last: bool = True,
        half: torch.dtype | None = None,
    ) -> None:
        self.name = name
        self._half = half
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.metadata: Mapping[str, str] = dict(metadata or {})
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)  # a device that is not there is noticed here and not at the first run
            self._module = module.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"{name}: torch cannot compute on '{device}': {str(error).splitlines()[0]}") from error
        if channels_last and self.device.type == "cuda":
            _channels_last(self._module)
        self._held: dict[str, Tensor] = {}
        self._captured: dict[int, _Captured] = {}
        self._lock = threading.Lock()

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        held = [spec for spec in self.inputs if spec.name in self._held]
        given = [spec for spec in self.inputs if spec.name not in self._held or spec.name in arrays]
        sizes = check_inputs(self.name, given, arrays)
        try:
            if self._captured:
                with self._lock:
                    results = self._replay(arrays, sizes[BATCH])
                    return self._deliver(results, out)
            tensors = {spec.name: torch.from_numpy(arrays[spec.name]).to(self.device) for spec in given}
            with torch.inference_mode():
                values = self._call({spec.name: self._held[spec.name] for spec in held} | tensors)
            return self._deliver({name: value.cpu() for name, value in values.items()}, out)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: {str(error).splitlines()[0]}") from error

    def hold(self, **tables: Array) -> None:
        check_inputs(self.name, [spec for spec in self.inputs if spec.name in tables], tables)
        for name, table in tables.items():
            kept = self._held.get(name)
            if kept is not None and kept.shape == table.shape:
                kept.copy_(torch.from_numpy(table))  # a captured graph reads this very memory
            else:
                self._held[name] = torch.from_numpy(table).clone().to(self.device)
                self._captured.clear()

    def warm(self, batches: Iterable[int]) -> None:
        for batch in batches:
            free = [spec for spec in self.inputs if spec.name not in self._held]
            arrays = example_inputs(free, {BATCH: batch})
            self.run(**arrays)
            if self.device.type == "cuda" and batch not in self._captured:
                self._captured[batch] = self._capture(arrays)

    def close(self) -> None:
        self._captured.clear()
        self._held.clear()
        del self._module

    def _call(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None):
            values = self._module(**tensors)
        named: dict[str, Tensor] = values if isinstance(values, dict) else {self.outputs[0].name: values}
        return {name: value.float() if value.dtype == self._half else value for name, value in named.items()}

    def _deliver(self, values: Mapping[str, Tensor], out: Mapping[str, Array] | None) -> dict[str, Array]:
        return {spec.name: deliver(self.name, spec, values[spec.name].numpy(), out) for spec in self.outputs}

    def _capture(self, arrays: Mapping[str, Array]) -> _Captured:
        host_in = {name: torch.from_numpy(array).pin_memory() for name, array in arrays.items()}
        inputs = {name: tensor.to(self.device) for name, tensor in host_in.items()}
        stream, graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms before the capture, not in it
                self._call(self._held | inputs)
            stream.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                outputs = self._call(self._held | inputs)
        host_out = {
            name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in outputs.items()
        }
        return _Captured(graph, inputs, outputs, host_in, host_out)

    def _replay(self, arrays: Mapping[str, Array], rows: int) -> dict[str, Tensor]:
        captured = self._captured[padded_batch(rows, list(self._captured))]
        for name, pinned in captured.host_in.items():
            fill_rows(pinned.numpy(), arrays[name])
            captured.inputs[name].copy_(pinned, non_blocking=True)
        captured.graph.replay()
        for name, pinned in captured.host_out.items():
            pinned.copy_(captured.outputs[name], non_blocking=True)
        torch.cuda.synchronize(self.device)
        return {name: pinned[:rows] for name, pinned in captured.host_out.items()}


def fill_rows(buffer: Array, rows: Array) -> None:
    """Write `rows` into a buffer of the same or more rows, repeating the last one."""
    count = len(rows)
    buffer[:count] = rows
    buffer[count:] = rows[-1]


def _channels_last(module: nn.Module) -> None:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def save_program(
    path: Path,
    module: nn.Module,
    example: Mapping[str, Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: Mapping[str, str],
) -> None:
    """Trace `module` with every word of the specs as a free size, and write it with its weights."""
    words = {word: torch.export.Dim(word) for spec in inputs for word in spec.shape if isinstance(word, str)}
    free = {
        spec.name: {axis: words[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in inputs
    }
    program = torch.export.export(module.eval(), (), kwargs=dict(example), dynamic_shapes=free)
    specs = {
        kind: [(spec.name, spec.dtype.str, spec.shape) for spec in some]
        for kind, some in (("inputs", inputs), ("outputs", outputs))
    }
    torch.export.save(program, path, extra_files={FACTS: json.dumps({**metadata, SPECS: specs})})


def open_program(path: Path, *, device: str = "cpu", threads: int = 1) -> TorchEngine:
    """The engine of a ``.pt2`` file; raises WeightsError where it is none. torch's threads are the process's."""
    if device == "cpu":
        torch.set_num_threads(threads)
    extra = {FACTS: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
        facts = json.loads(extra[FACTS])
        specs = {
            kind: tuple(TensorSpec(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in some)
            for kind, some in facts.pop(SPECS).items()
        }
        if device != "cpu":
            program = move_to_device_pass(program, device)
    except Exception as error:  # zip, pickle and schema errors of several unrelated classes
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path.name} cannot be opened by torch: {detail}") from error
    return TorchEngine(path.stem, program.module(), specs["inputs"], specs["outputs"], facts, device=device)
