"""A float32 ONNX file to a typed float16 one: convolutions and products in half, islands of float32 by explicit casts.

Nothing is left to a runtime's flags, which TensorRT 11 has no more: the types stand in the graph. Weighted products
(convolutions, matrix products with stored weights) and what merely moves their results about run in float16. What
stays in float32: normalisation statistics, softmax, exponentials, keypoints, sampling grids and the DDIM arithmetic.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.types import KDTalkerError

WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}
# Keep the type of their first input: they move numbers about, or bend each by itself without leaving its range.
FOLLOWING = {
    "AveragePool", "DepthToSpace", "Expand", "Flatten", "Gather", "Gelu", "Identity", "LeakyRelu", "MaxPool", "Neg",
    "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Tanh", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip
# Half where all that is not constant is half, else float32.
MIXING = {"Add", "Sub", "Mul", "Where", "Min", "Max"}
# Their weighted products stay in float32: what they give is the noise estimate that DDIM amplifies.
FLOAT32_LAYERS = ("output_projection",)
# Their results leave float16 at once: masks of grids, visibility, the last colours.
LEAVING_LAYERS = ("/mask/", "/occlusion/", "/conv_img/")
ISLANDS = {"Softmax", "LayerNormalization", "InstanceNormalization", "ReduceMean", "Exp", "Sqrt", "GridSample"}
LARGEST = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The typed float16 twin of a float32 `model`. Inputs and outputs keep their types.

    Raises KDTalkerError where a weight does not fit into float16.
    """
    return _Conversion(model).result()


class _Conversion:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.floats = {
            value.name
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.constants = {each.name: each for each in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.halves: set[str] = set()  # tensors that are float16
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}

    def result(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        outputs = {value.name for value in graph.output}
        for name in sorted(outputs & self.halves):
            self._rename_output(name)
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        graph.initializer.extend(self.added.values())
        used = {name for node in graph.node for name in node.input}
        kept = [each for each in graph.initializer if each.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model

    def _convert(self, node: onnx.NodeProto) -> None:
        target = self._target(node)
        if target is not None:
            for index, name in enumerate(node.input[:1] if node.op_type == "Resize" else node.input):
                node.input[index] = self._as(name, target)  # the scales of a resize are float32 in any case
        leaving = target == TensorProto.FLOAT16 and _within(node, LEAVING_LAYERS) and node.op_type in WEIGHTED
        self.nodes.append(node)
        if target == TensorProto.FLOAT16:
            self.halves.update(name for name in node.output if name in self.floats)
        if leaving:
            self._rename_output(node.output[0])

    def _target(self, node: onnx.NodeProto) -> int | None:
        """The type a node's floats get; None where it has none to decide about."""
        inputs = [name for name in node.input if name in self.floats or self._constant_float(name)]
        free = [name for name in inputs if name not in self.constants]
        if not free or node.op_type in ("Cast", "Shape"):
            return None
        half = [name in self.halves for name in free]
        if _within(node, FLOAT32_LAYERS):
            return TensorProto.FLOAT
        if _is_weighted(node, self.constants):
            return TensorProto.FLOAT16
        if node.op_type in ("MatMul", "Concat"):  # attention; parts that meet again before a convolution
            return TensorProto.FLOAT16 if any(half) else TensorProto.FLOAT
        if node.op_type in FOLLOWING:
            return TensorProto.FLOAT16 if half[0] else TensorProto.FLOAT
        if node.op_type in MIXING:
            return TensorProto.FLOAT16 if all(half) else TensorProto.FLOAT
        return TensorProto.FLOAT

    def _as(self, name: str, target: int) -> str:
        """`name` in the type `target`, by a cast or a converted constant; anything but floats stays itself."""
        if self._constant_float(name):
            return name if target == TensorProto.FLOAT else self._half_constant(name)
        if name not in self.floats or (name in self.halves) == (target == TensorProto.FLOAT16):
            return name
        if (name, target) not in self.casts:
            made = f"{name}_{'float16' if target == TensorProto.FLOAT16 else 'float32'}"
            self.nodes.append(helper.make_node("Cast", [name], [made], name=f"Cast_{made}", to=target))
            self.casts[name, target] = made
        return self.casts[name, target]

    def _half_constant(self, name: str) -> str:
        made = f"{name}_half"
        if made not in self.added:
            array = numpy_helper.to_array(self.constants[name])
            if array.size and np.abs(array).max() > LARGEST:
                raise KDTalkerError(
                    f"{name} holds {np.abs(array).max():.3g}, which float16 cannot (at most {LARGEST:.0f}); "
                    "run this network in float32."
                )
            self.added[made] = numpy_helper.from_array(array.astype(np.float16), made)
        return made

    def _rename_output(self, name: str) -> None:
        """Let `name` be float32 again: its maker writes another name, and a cast leads back."""
        maker = next(node for node in reversed(self.nodes) if name in node.output)
        raw = f"{name}_raw"
        maker.output[list(maker.output).index(name)] = raw
        for node in self.nodes:
            for index, each in enumerate(node.input):
                if each == name:
                    node.input[index] = raw
        self.nodes.append(helper.make_node("Cast", [raw], [name], name=f"Cast_{name}", to=TensorProto.FLOAT))
        self.halves.discard(name)

    def _constant_float(self, name: str) -> bool:
        constant = self.constants.get(name)
        return constant is not None and constant.data_type == TensorProto.FLOAT


def _within(node: onnx.NodeProto, layers: Iterable[str]) -> bool:
    return any(layer in node.name for layer in layers)


def _is_weighted(node: onnx.NodeProto, stored: Container[str]) -> bool:
    """A product of something computed with stored weights."""
    if node.op_type == "MatMul":
        return (node.input[0] in stored) != (node.input[1] in stored)
    return node.op_type in WEIGHTED and node.input[0] not in stored


def check_structure(model: onnx.ModelProto) -> dict[str, int]:
    """Types agree all through; every island is float32 and every convolution float16 -> how many of each, and casts.

    Raises KDTalkerError naming the first node that is not as it should be.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise KDTalkerError(f"the float16 graph is not typed: {str(error).splitlines()[0]}") from error
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    stored = {each.name for each in model.graph.initializer}
    types |= {each.name: each.data_type for each in graph.initializer}
    counted = {"islands": 0, "weighted": 0, "casts": 0}
    for node in graph.node:
        counted["casts"] += node.op_type == "Cast"
        if node.op_type in ISLANDS:
            counted["islands"] += 1
            wanted = TensorProto.FLOAT
        elif _is_weighted(node, stored) and not _within(node, FLOAT32_LAYERS):
            counted["weighted"] += 1
            wanted = TensorProto.FLOAT16
        else:
            continue
        if types.get(node.input[0]) != wanted:
            raise KDTalkerError(f"{node.op_type} '{node.name}' of the float16 graph has another type than it should")
    return counted
