"""How many floating-point operations an ONNX graph does, by its convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

from engines.runtime.base import example_inputs
from engines.runtime.opening import open_engine

COUNTED = ("Conv", "MatMul", "Gemm")


def operations(path: Path, sizes: Mapping[str, int]) -> int:
    """Multiplications and additions of one run with its free sizes set. The graph is run once, to see every shape."""
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type in COUNTED]
    tensors = {one.name: list(one.dims) for one in model.graph.initializer}
    wanted = dict.fromkeys(name for node in nodes for name in (*node.input[:2], node.output[0]) if name not in tensors)
    given = {value.name for value in model.graph.input}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    engine = open_engine(path)
    arrays = example_inputs(engine.inputs, dict(sizes))
    engine.close()
    names = [value.name for value in session.get_outputs()]
    made = dict(zip(names, session.run(names, {name: arrays[name] for name in given}), strict=True))
    shapes = tensors | {name: list(array.shape) for name, array in (made | arrays).items()}
    count = 0
    for node in nodes:
        first, second, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
        if node.op_type == "Conv":
            inner = math.prod(second[1:])  # channels of a group, and the kernel
        else:
            turned = node.op_type == "Gemm" and any(part.name == "transA" and part.i for part in node.attribute)
            inner = first[0] if turned else first[-1]
        count += 2 * math.prod(out) * inner
    return count
