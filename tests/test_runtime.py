"""The engine contract, on a small network written on the spot."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.runtime.base import open_engine
from engines.types import EngineError, WeightsError


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """y = x + x for x f32 (any, 3)."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubler", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key="profile", value="test")
    path = tmp_path / "doubler.onnx"
    onnx.save(model, path)
    return path


def test_runs_any_batch_and_carries_metadata(doubler: Path) -> None:
    engine = open_engine(doubler)
    for rows in (1, 3, 8):
        given = np.arange(3.0 * rows, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(engine.run(x=given)["y"], 2 * given)
    assert engine.metadata["profile"] == "test"
    assert engine.inputs[0].shape == (None, 3)
    engine.close()


@pytest.mark.parametrize("given", [np.zeros((2, 4), np.float32), np.zeros((2, 3)), np.zeros(3, np.float32)])
def test_wrong_input_names_engine_tensor_and_both_shapes(doubler: Path, given: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"doubler: input 'x' must be float32 \(None, 3\), got") as refusal:
        open_engine(doubler).run(x=given)
    assert str(given.shape) in str(refusal.value)


def test_missing_input_is_named(doubler: Path) -> None:
    with pytest.raises(EngineError, match="input 'x' is missing"):
        open_engine(doubler).run()


def test_a_damaged_file_is_refused(doubler: Path) -> None:
    doubler.write_bytes(doubler.read_bytes()[:40])
    with pytest.raises(WeightsError, match=r"doubler\.onnx cannot be opened"):
        open_engine(doubler)
