"""Which runtime opens a network file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.runtime.base import Engine, check_facts, check_shapes
from engines.types import WeightsError


def open_engine(
    path: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    batches: Sequence[int] = (),
    sizes: Mapping[str, int] | None = None,
    expect: Mapping[str, object] | None = None,
) -> Engine:
    """Open a network file with the runtime its ending asks for.

    ``.onnx``: ONNX Runtime; ``.pt2``: torch; ``.engine``: TensorRT. `device`: ``cpu`` or ``cuda``. `batches`,
    with the other free `sizes`: what to prepare at once, see `Engine.warm`. `expect`: facts the file's metadata must
    state, such as its profile.
    Raises WeightsError for a file that is missing, damaged, foreign or not what was expected.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; `kdtalker export` writes it.")
    engine = _open(path, device, threads)
    check_facts(path.name, engine.metadata, expect or {})
    check_shapes(path.name, engine)
    if batches:
        engine.warm(batches, **(sizes or {}))
    return engine


def _open(path: Path, device: str, threads: int) -> Engine:
    # Imported only when asked for: a machine without torch or TensorRT needs neither.
    if path.suffix == ".pt2":
        from engines.runtime.torch import open_program

        return open_program(path, device=device, threads=threads)
    if path.suffix == ".engine":
        from engines.runtime.tensorrt import TensorRtEngine

        return TensorRtEngine(path, onnx=source_of(path))
    from engines.runtime.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, device=device, threads=threads)


def source_of(path: Path) -> Path:
    """The ONNX file beside an engine that it was built from: NAME.onnx of NAME.KEY.engine, there or not."""
    return path.with_name(f"{path.name.rsplit('.', 2)[0]}.onnx")
