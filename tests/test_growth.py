"""Costs by size: counted operations are right, and every size has its row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cli import bench
from benchmarks.flops import operations
from benchmarks.motion import folder_of_weights
from engines.profile import EMBEDDED


def test_operations_are_those_of_convolutions_and_products(tmp_path: Path) -> None:
    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["seen"], group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["seen"], ["kept"]),
            helper.make_node("Flatten", ["kept"], ["flat"]),
            helper.make_node("MatMul", ["flat", "wide"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [weight("kernel", 6, 2, 3, 3), weight("wide", 96, 10)],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    one = 2 * (6 * 4 * 4) * (2 * 3 * 3) + 2 * 10 * 96
    assert operations(path, {"batch": 1}) == one
    assert operations(path, {"batch": 3}) == 3 * one


def test_a_batch_of_a_shipped_network_does_as_often_as_much() -> None:
    sizes = {"frames": EMBEDDED.window.length}
    for name in ("audio_encoder", "brief", "window"):
        one, four = (operations(folder_of_weights() / f"{name}.onnx", {"batch": n, **sizes}) for n in (1, 4))
        assert 3.5 * one < four <= 4 * one, name


def test_every_size_has_a_row(tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    options = ["--batches", "1,2", "--calls", "1,2", "--ticks", "12", "--seconds", "0.02"]
    assert bench(["growth", *options, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [(row["network"], row["batch"]) for row in found["batches"]] == [
        (name, batch) for name in ("audio_encoder", "brief", "window") for batch in (1, 2)
    ]
    assert all(row["% of peak"] > 0 for row in found["batches"])
    assert [row["steps"] for row in found["steps"]] == [1, 2]
    assert [row["calls"] for row in found["calls"]] == [1, 2]
    assert found["peak GFLOP/s"] > 0
