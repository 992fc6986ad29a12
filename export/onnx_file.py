"""One network to one ONNX file: traced, every weight stored once, its facts inside."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from engines.runtime.base import TensorSpec
from engines.types import KDTalkerError
from export import examples

OPSET = 20  # the first with 5-D GridSample, and the last the tracing exporter writes
NETWORKS = Path(__file__).resolve().parent.parent / "engines" / "networks"
LARGEST_SHARE = 1.1  # bytes of a sampler file over those of its network's parameters
FEWEST_PARAMETERS = 500_000  # below it the graph's own description outweighs them


@dataclass(frozen=True, slots=True)
class Graph:
    """A network as it is exported.

    `parameters`: of the network it was made from. `tolerance`: of ONNX Runtime against torch in float32, as a share of
    the largest magnitude; bytes may differ by one step. `half`: also written in float16. `bounded`: the file's size is
    held against the parameters'. `batches`: sizes at which it is compared with torch. `units`: what the numbers mean;
    `facts`: metadata beyond what every file states.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    units: Mapping[str, str]
    facts: Mapping[str, object] = field(default_factory=dict)
    tolerance: float = 1e-4
    half: bool = True
    bounded: bool = False
    batches: tuple[int, ...] = (1, 3, 8)

    def example(self, batch: int = 2) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in examples.draw(self.inputs, batch).items()}

    def compute(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        with torch.inference_mode():
            values = self.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        if isinstance(values, Tensor):
            values = (values,)
        elif isinstance(values, dict):
            return values
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}


def write(graph: Graph, path: Path, facts: Mapping[str, object]) -> float:
    """Export `graph`; returns the seconds it took. Raises KDTalkerError when a sampler file stores weights twice."""
    began = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    free = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in (*graph.inputs, *graph.outputs)
    }
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own end, and every constant it meets
        torch.onnx.export(
            graph.module.eval(),
            (),
            str(path),
            kwargs=graph.example(),
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            dynamic_axes={name: axes for name, axes in free.items() if axes},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    share_initializers(model)
    declare(model, graph.outputs)
    stamp(model, {"precision": "float32", **describe(graph), **facts})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    check_size(graph, path, width=4)
    return time.perf_counter() - began


def describe(graph: Graph) -> dict[str, object]:
    return {
        "network": graph.name,
        "inputs": {spec.name: str(spec) for spec in graph.inputs},
        "outputs": {spec.name: str(spec) for spec in graph.outputs},
        "units": dict(graph.units),
        "parameters": graph.parameters,
        "opset": OPSET,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "source": source_hash(),
        **graph.facts,
    }


def stamp(model: onnx.ModelProto, facts: Mapping[str, object]) -> None:
    """Metadata of a file, as JSON values; replaces what stood there."""
    del model.metadata_props[:]
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))


def facts_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def check_size(graph: Graph, path: Path, width: int) -> None:
    share = path.stat().st_size / (graph.parameters * width)
    if graph.bounded and graph.parameters > FEWEST_PARAMETERS and share > LARGEST_SHARE:
        raise KDTalkerError(
            f"{path.name} is {share:.2f} times its parameters; at most {LARGEST_SHARE} are allowed, so some weights "
            "are stored more than once."
        )


def declare(model: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> None:
    """State the outputs' shapes, which tracing leaves open where it lost them."""
    for value, spec in zip(model.graph.output, outputs, strict=True):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in spec.shape:
            shape.dim.add(**({"dim_param": size} if isinstance(size, str) else {"dim_value": size}))


def share_initializers(model: onnx.ModelProto) -> None:
    """Keep one copy of equal constants: unrolled steps would store them once per step."""
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        if node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            model.graph.node.remove(node)
    kept: dict[tuple[Any, ...], str] = {}
    renamed: dict[str, str] = {}
    unique = []
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        renamed[tensor.name] = kept.setdefault(key, tensor.name)
        if renamed[tensor.name] == tensor.name:
            unique.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(unique)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def source_hash() -> str:
    """SHA-256 over the network sources that graphs are made from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(NETWORKS.glob("*.py")))).hexdigest()


def graph_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph without its weights: two files that share it differ in float values alone."""
    bare = onnx.GraphProto()
    bare.CopyFrom(model.graph)
    for tensor in bare.initializer:
        _forget(tensor)
    for node in bare.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _forget(attribute.t)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _forget(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        for values in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(values)
