"""torch behind the engine contract: eager on the CPU, one CUDA graph a batch size on a GPU.

A ``.pt2`` file is a traced program with its weights (`torch.export`); it needs none of our network code.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

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
from engines.runtime.captured import Captured, captured
from engines.types import EngineError, WeightsError

FACTS = "facts.json"  # metadata inside a .pt2 file: {key: JSON text}, and the specs under SPECS
SPECS = "specs"


Sizes = tuple[tuple[str, int], ...]  # free sizes other than the batch, sorted by their words


class TorchEngine:
    """A module under the contract. `module` takes its inputs by name and returns a dict of tensors or one tensor; it is
    the engine's from then on.

    On CUDA a batch prepared by `warm` replays its graph; rows between prepared sizes are padded up to the next, more
    rows run without a graph. `channels_last` lays out convolution weights as tensor cores read them. `half`:
    convolutions and products compute in it, by autocast; inputs, results, statistics and coordinates stay in float32.
    One call at a time on a GPU.
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
        _full_single_precision()
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)  # a device that is not there is noticed here and not at the first run
            self._module = module.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"{name}: torch cannot compute on '{device}': {str(error).splitlines()[0]}") from error
        if half is not None:
            _store_in(self._module, half)
        if channels_last and self.device.type == "cuda":
            _channels_last(self._module)
        self.unprepared = 0
        self._held: dict[str, Tensor] = {}
        self._warmed: dict[Sizes, list[int]] = {}  # batches
        self._captured: dict[tuple[Sizes, int], Captured] = {}
        self._pool: Any = None  # memory that the graphs share: they never run at once, and results leave it at once
        self._lock = threading.Lock()

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        given = [spec for spec in self.inputs if spec.name not in self._held]
        sizes = check_inputs(self.name, given, arrays)
        batch, others = self._prepared(sizes)
        self.unprepared += batch is None
        try:
            if batch is not None and (others, batch) in self._captured:
                with self._lock, torch.cuda.device(self.device):
                    results = self._captured[others, batch].replay(arrays, sizes[BATCH])
                    return self._deliver(results, out)
            tensors = {spec.name: torch.from_numpy(arrays[spec.name]).to(self.device) for spec in given}
            with torch.inference_mode():
                values = self._call(self._held | tensors)
            return self._deliver({name: value.cpu() for name, value in values.items()}, out)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: {str(error).splitlines()[0]}") from error

    def hold(self, **tables: Array) -> None:
        check_inputs(self.name, [spec for spec in self.inputs if spec.name in tables], tables)
        with self._lock:
            for name, table in tables.items():
                kept = self._held.get(name)
                if kept is not None and kept.shape == table.shape:
                    kept.copy_(torch.from_numpy(table))  # a captured graph reads this very memory
                else:
                    self._held[name] = torch.from_numpy(table).clone().to(self.device)
                    self._captured.clear()
                    self._warmed.clear()

    def put(self, row: int, **rows: Array) -> None:
        specs = {spec.name: spec for spec in self.inputs}
        with self._lock:
            for name, value in rows.items():
                table = self._held.get(name)
                held = None if table is None else replace(specs[name], shape=tuple(table.shape))
                check_row(self.name, name, held, row, value)
                self._held[name][row].copy_(torch.from_numpy(value))

    def warm(self, batches: Iterable[int], **sizes: int) -> None:
        free = [spec for spec in self.inputs if spec.name not in self._held]
        for batch in sorted(batches, reverse=True):  # smaller graphs find room in the memory of larger ones
            found = free_sizes(self.name, free, {**sizes, BATCH: batch})
            arrays = example_inputs(free, found)
            others = _others(found)
            if batch not in self._warmed.setdefault(others, []):
                self._warmed[others].append(batch)
            self.run(**arrays)
            if self.device.type == "cuda" and (others, batch) not in self._captured:
                with self._lock, torch.cuda.device(self.device):
                    self._captured[others, batch] = self._capture(arrays)

    def close(self) -> None:
        self._captured.clear()
        self._held.clear()
        del self._module

    def _prepared(self, sizes: Mapping[str, int]) -> tuple[int | None, Sizes]:
        """The warmed batch that takes `sizes`, on a GPU with rows to spare; None where there is none."""
        others, rows = _others(sizes), sizes[BATCH]
        padded = self.device.type == "cuda"
        fitting = [batch for batch in self._warmed.get(others, ()) if batch == rows or (padded and 0 < rows < batch)]
        return min(fitting, default=None), others

    def _call(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None):
            values = self._module(**tensors)
        named: dict[str, Tensor] = values if isinstance(values, dict) else {self.outputs[0].name: values}
        return {name: value.float() if value.dtype == self._half else value for name, value in named.items()}

    def _deliver(self, values: Mapping[str, Tensor], out: Mapping[str, Array] | None) -> dict[str, Array]:
        return {spec.name: deliver(self.name, spec, values[spec.name].numpy(), out) for spec in self.outputs}

    def _capture(self, arrays: Mapping[str, Array]) -> Captured:
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        stream, graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms before the capture, not in it
                self._call(self._held | inputs)
            stream.synchronize()
            # Other threads may go on allocating while this one captures.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                outputs = self._call(self._held | inputs)
        self._pool = self._pool or graph.pool()
        by_rows = frozenset(spec.name for spec in self.inputs if spec.shape[:1] == (BATCH,))
        return captured(graph, inputs, outputs, by_rows)


def _others(sizes: Mapping[str, int]) -> Sizes:
    return tuple(sorted((word, size) for word, size in sizes.items() if word != BATCH))


def _full_single_precision() -> None:
    """float32 means float32: by default cuDNN convolves it as TensorFloat-32, with 11 bits of mantissa.

    Both are settings of the process. Algorithms are timed once a shape, before a graph is captured.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def _store_in(module: nn.Module, half: torch.dtype) -> None:
    """Weights of convolutions and products in the type they compute in, which autocast then need not make."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.to(half)


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
