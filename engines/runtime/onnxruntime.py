"""ONNX Runtime on the CPU behind the engine contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from engines.runtime.base import Array, TensorSpec
from engines.types import EngineError, WeightsError

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
}


class OnnxRuntimeEngine:
    """One session with one intra-op thread by default: parallelism belongs to the workers above."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning keeps a core busy between calls, which other sessions' renderers need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name = path.stem
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own unrelated classes
            raise WeightsError(f"{path.name} cannot be opened by ONNX Runtime: {error}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, **arrays: Array) -> dict[str, Array]:
        for spec in self.inputs:
            given = arrays.get(spec.name)
            if given is None:
                raise EngineError(f"{self.name}: input '{spec.name}' is missing")
            if not spec.accepts(given):
                got = f"{given.dtype} {given.shape}"
                raise EngineError(f"{self.name}: input '{spec.name}' must be {spec.dtype} {spec.shape}, got {got}")
        try:
            results = self._session.run(self._output_names, arrays)
        except Exception as error:  # the runtime raises its own unrelated classes
            raise EngineError(f"{self.name}: {error}") from error
        return dict(zip(self._output_names, results, strict=True))

    def close(self) -> None:
        del self._session


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)
