"""The engine contract: named arrays in, named arrays out, close.

An engine keeps no caller's state: rows come in with a call and leave with it. Every runtime takes the
same names, order and dtypes, so callers have no branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one input or output; None stands for any size."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def accepts(self, array: Array) -> bool:
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


class Engine(Protocol):
    """One network, ready to run."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]

    def run(self, **arrays: Array) -> dict[str, Array]:
        """Run once; raises EngineError naming the engine, the tensor and both shapes."""
        ...

    def close(self) -> None: ...


def open_engine(path: Path, *, threads: int = 1) -> Engine:
    """Open a network file with the runtime its name asks for (`.onnx`: ONNX Runtime on the CPU)."""
    from engines.runtime.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, threads=threads)
