"""The engine contract against every runtime that can run here, on small networks written on the spot."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.networks.ddim import Ddim, DdimConfig
from engines.networks.denoiser import Denoiser, DenoiserConfig
from engines.runtime.base import (
    Engine,
    TensorSpec,
    check_inputs,
    example_inputs,
    padded_batch,
)
from engines.runtime.captured import fill_rows
from engines.runtime.onnxruntime import OnnxRuntimeEngine
from engines.runtime.opening import open_engine
from engines.runtime.stepped import SteppedWindow
from engines.runtime.torch import TorchEngine, save_program
from engines.talkers import open_talker
from engines.types import EngineError, Identity, WeightsError
from export import examples
from export.graphs import window_graph
from export.onnx_file import Graph, write

torch = pytest.importorskip("torch", reason="the torch runtime and the exporter need PyTorch")

FACTS = {"profile": '"test"', "network": '"doubler"'}


def doubler_onnx(folder: Path) -> Path:
    """y = x + x + table[0] for x f32 (batch, 3) and a table f32 (rows, 3)."""
    shapes = {"x": ["batch", 3], "table": ["rows", 3], "y": ["batch", 3]}
    x, table, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items())
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Gather", ["table", "zero"], ["first"], axis=0),
        helper.make_node("Add", ["twice", "first"], ["y"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
    graph = helper.make_graph(nodes, "doubler", [x, table], [y], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in FACTS.items():
        model.metadata_props.add(key=key, value=value)
    path = folder / "doubler.onnx"
    onnx.save(model, path)
    return path


class Doubler(torch.nn.Module):
    def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return x + x + table[0]


def doubler_program(folder: Path) -> Path:
    specs = [
        TensorSpec("x", np.dtype(np.float32), ("batch", 3)),
        TensorSpec("table", np.dtype(np.float32), ("rows", 3)),
    ]
    path = folder / "doubler.pt2"
    example = {"x": torch.zeros(2, 3), "table": torch.zeros(4, 3)}
    save_program(path, Doubler(), example, specs, [TensorSpec("y", np.dtype(np.float32), ("batch", 3))], FACTS)
    return path


@pytest.fixture(params=[doubler_onnx, doubler_program], ids=["onnxruntime", "torch"])
def doubler(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path)


def rows_of(count: int) -> np.ndarray:
    return np.arange(3.0 * count, dtype=np.float32).reshape(count, 3)


TABLE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def test_runs_any_batch_and_carries_metadata(doubler: Path) -> None:
    engine = open_engine(doubler, expect={"profile": "test", "network": "doubler"})
    for rows in (1, 3, 8):
        np.testing.assert_array_equal(engine.run(x=rows_of(rows), table=TABLE)["y"], 2 * rows_of(rows) + TABLE[0])
    assert engine.metadata["profile"] == '"test"'
    assert [spec.shape for spec in engine.inputs] == [("batch", 3), ("rows", 3)]
    assert [str(spec) for spec in engine.outputs] == ["float32 (batch, 3)"]
    engine.close()


def test_held_tables_are_left_out_of_calls(doubler: Path) -> None:
    engine = open_engine(doubler)
    engine.hold(table=TABLE)
    engine.warm([1, 2])
    for rows in (1, 2, 5):
        np.testing.assert_array_equal(engine.run(x=rows_of(rows))["y"], 2 * rows_of(rows) + TABLE[0])
    engine.hold(table=TABLE[::-1].copy())
    np.testing.assert_array_equal(engine.run(x=rows_of(2))["y"], 2 * rows_of(2) + TABLE[1])


def test_rows_of_held_tables_are_replaced_in_place(doubler: Path) -> None:
    engine = open_engine(doubler)
    given = TABLE.copy()
    engine.hold(table=given)
    engine.warm([2])
    engine.put(0, table=np.array([7, 8, 9], np.float32))
    np.testing.assert_array_equal(engine.run(x=rows_of(2))["y"], 2 * rows_of(2) + [7, 8, 9])
    np.testing.assert_array_equal(engine.run(x=rows_of(3))["y"], 2 * rows_of(3) + [7, 8, 9])
    assert engine.unprepared == 1
    np.testing.assert_array_equal(given, TABLE)
    with pytest.raises(EngineError, match=r"row 2 of table 'table' must be float32 \(3,\) and one of 2"):
        engine.put(2, table=TABLE[0])
    with pytest.raises(EngineError, match="no table 'x' is held"):
        engine.put(0, x=TABLE[0])
    with pytest.raises(EngineError, match="there is no input 'table'; it has x"):
        engine.run(x=rows_of(2), table=TABLE)


def test_calls_at_sizes_that_nobody_prepared_are_counted(doubler: Path) -> None:
    engine = open_engine(doubler)
    with pytest.raises(EngineError, match="how many rows are there"):
        engine.warm([2])
    engine.warm([1, 2], rows=2)
    for rows in (1, 2):
        engine.run(x=rows_of(rows), table=TABLE)
    assert engine.unprepared == 0
    engine.run(x=rows_of(3), table=TABLE)
    engine.run(x=rows_of(2), table=TABLE[:1])
    assert engine.unprepared == 2


def test_results_are_the_callers_own(doubler: Path) -> None:
    engine = open_engine(doubler)
    engine.hold(table=TABLE)
    engine.warm([2])
    first = engine.run(x=rows_of(2))["y"]
    kept = first.copy()
    engine.run(x=9 * rows_of(2))
    np.testing.assert_array_equal(first, kept)
    target = np.empty((2, 3), np.float32)
    assert engine.run({"y": target}, x=rows_of(2))["y"] is target
    np.testing.assert_array_equal(target, kept)
    with pytest.raises(EngineError, match=r"doubler: output 'y' must be float32 \(2, 3\), got float32 \(1, 3\)"):
        engine.run({"y": target[:1]}, x=rows_of(2))


@pytest.mark.parametrize("given", [np.zeros((2, 4), np.float32), np.zeros((2, 3)), np.zeros(3, np.float32)])
def test_wrong_input_names_engine_tensor_and_both_shapes(doubler: Path, given: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"doubler: input 'x' must be float32 \(batch, 3\), got") as refusal:
        open_engine(doubler).run(x=given, table=TABLE)
    assert str(given.shape) in str(refusal.value)


def test_missing_and_unknown_inputs_are_named(doubler: Path) -> None:
    engine = open_engine(doubler)
    with pytest.raises(EngineError, match="input 'x' is missing"):
        engine.run()
    with pytest.raises(EngineError, match="there is no input 'z'; it has x, table"):
        engine.run(x=rows_of(1), table=TABLE, z=TABLE)


def test_a_damaged_file_is_refused(doubler: Path) -> None:
    doubler.write_bytes(doubler.read_bytes()[:40])
    with pytest.raises(WeightsError, match=r"doubler\.(onnx|pt2) cannot be opened"):
        open_engine(doubler)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file .*window\.onnx; `kdtalker export`"):
        open_engine(tmp_path / "window.onnx")


def test_wrong_metadata_is_refused(doubler: Path) -> None:
    with pytest.raises(WeightsError, match="states profile 'test' and 'kdtalker' is needed; write the file again"):
        open_engine(doubler, expect={"profile": "kdtalker"})
    with pytest.raises(WeightsError, match="states no precision and 'float16' is needed"):
        open_engine(doubler, expect={"precision": "float16"})


def test_metadata_that_belies_the_graph_is_refused(tmp_path: Path) -> None:
    path = doubler_onnx(tmp_path)
    model = onnx.load(path)
    stated = {"x": "float32 (batch, 4)", "table": "float32 (rows, 3)"}
    model.metadata_props.add(key="inputs", value=json.dumps(stated))
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=r"doubler\.onnx states inputs .* and has .*; it was altered"):
        open_engine(path)


def test_a_missing_provider_is_named(tmp_path: Path) -> None:
    path = doubler_onnx(tmp_path)
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"cannot run on 'cuda'; it has .*CPUExecutionProvider"):
        open_engine(path, device="cuda")


def test_sizes_that_share_a_word_must_agree() -> None:
    specs = [TensorSpec(name, np.dtype(np.float32), ("batch", 2)) for name in "ab"]
    with pytest.raises(
        EngineError, match=r"net: input 'b' must be float32 \(batch, 2\) with batch = 3 .*got.*\(4, 2\)"
    ):
        check_inputs("net", specs, {"a": np.zeros((3, 2), np.float32), "b": np.zeros((4, 2), np.float32)})


def test_specs_are_read_back_from_their_text() -> None:
    for shape in ((), (3,), ("batch", 2, 70), ("batch",)):
        spec = TensorSpec("x", np.dtype(np.int64), shape)
        assert TensorSpec.parse("x", str(spec)) == spec


def test_rows_are_padded_to_the_next_prepared_batch() -> None:
    assert [padded_batch(rows, (1, 2, 4, 8)) for rows in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    for rows in (0, 9):
        with pytest.raises(EngineError, match=rf"{rows} rows do not fit"):
            padded_batch(rows, (1, 2, 4, 8))
    buffer = np.zeros((4, 2), np.float32)
    fill_rows(buffer, np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    np.testing.assert_array_equal(buffer, [[1, 2], [3, 4], [5, 6], [5, 6]])


def test_torch_names_a_device_it_has_not() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    spec = TensorSpec("x", np.dtype(np.float32), ("batch", 3))
    with pytest.raises(EngineError, match="doubler: torch cannot compute on 'cuda'"):
        TorchEngine("doubler", Doubler(), [spec], [spec], device="cuda")


SMALL = DenoiserConfig(width=48, layers=2, heads=4, time_width=16, audio_width=24, rotary=8, time_per_token=True)
LOOP = DdimConfig(steps=3, schedule="cosine", prediction="v", spacing="trailing", context_time=150, guided=True)


@pytest.fixture(scope="module")
def small_window(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    """The embedded profile's window, narrower."""
    torch.manual_seed(0)
    graph = window_graph(Ddim(Denoiser(SMALL).eval(), LOOP), 12, fixed=False)
    path = tmp_path_factory.mktemp("window") / "window.onnx"
    write(graph, path, {"profile": "embedded"})
    return graph, path


# In a process of its own, so that nothing else's memory is counted.
STEPS = """
import resource, sys
from pathlib import Path
import numpy as np
from engines.runtime.opening import open_engine
from export import examples

engine = open_engine(Path(sys.argv[1]), batches=(1, 2), sizes=examples.SIZES)
arrays = {batch: examples.draw(engine.inputs, batch) for batch in (1, 2)}
out = {batch: {"motion": np.empty((batch, 9, 70), np.float32)} for batch in (1, 2)}

def kilobytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

def run(steps):
    for step in range(steps):
        batch = 1 + step % 2
        engine.run(out[batch], **arrays[batch])

run(2_000)
before = kilobytes()
run(10_000)
print(kilobytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc, as on Linux")
def test_ten_thousand_steps_allocate_nothing(small_window: tuple[Graph, Path]) -> None:
    command = [sys.executable, "-c", STEPS, str(small_window[1])]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    # The kernel's huge pages come and go, up to 2 MB; one result kept a step would be 25 MB.
    assert int(grown.stdout) < 2560


def test_bound_buffers_give_what_free_calls_give(small_window: tuple[Graph, Path]) -> None:
    bound = open_engine(small_window[1], batches=(1, 3), sizes=examples.SIZES)
    free = open_engine(small_window[1])
    for batch in (1, 3, 8):
        arrays = examples.draw(free.inputs, batch)
        np.testing.assert_array_equal(bound.run(**arrays)["motion"], free.run(**arrays)["motion"])


def test_threads_share_an_engine(small_window: tuple[Graph, Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = open_engine(small_window[1], batches=(1,), sizes=examples.SIZES)
    drawn = [examples.draw(engine.inputs, 1, seed) for seed in range(16)]
    alone = [engine.run(**arrays)["motion"] for arrays in drawn]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda arrays: engine.run(**arrays)["motion"], drawn))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_meets_no_size_that_was_not_prepared() -> None:
    talker = open_talker()
    talker.warm()
    identity = Identity("embedded", "0" * 64, *(np.zeros(shape, np.float32) for shape in ((21, 3), 70, (512, 512, 3))))
    for tick in (640, 960, 6400):  # even where sound comes in larger pieces
        talk = talker.begin(identity)
        motions = [motion for _ in range(0, 16000, tick) for motion in talker.listen(talk, np.zeros(tick, np.float32))]
        assert len(motions + talker.finish(talk, 26)) > 20
    assert (talker.encoder.unprepared, talker.sampler.engine.unprepared) == (0, 0)
    talker.encoder.run(mel=np.zeros((3, *talker.mel_shape), np.float32))
    assert talker.encoder.unprepared == 1


def test_every_node_runs_where_it_was_asked_to(small_window: tuple[Graph, Path]) -> None:
    engine = OnnxRuntimeEngine(small_window[1])
    assert set(engine.assignment()) == {"CPUExecutionProvider"}


def test_a_loop_over_the_step_is_the_window(small_window: tuple[Graph, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = Ddim(Denoiser(SMALL).eval(), LOOP)
    path = tmp_path / "step.onnx"
    write(window_graph(loop, 12, fixed=False, stepped=True), path, {"profile": "embedded"})
    stepped: Engine = SteppedWindow(open_engine(path))
    window = open_engine(small_window[1])
    assert (stepped.inputs, stepped.outputs) == (window.inputs, window.outputs)
    arrays = examples.draw(window.inputs, 3)
    expected, motion = window.run(**arrays)["motion"], stepped.run(**arrays)["motion"]
    np.testing.assert_allclose(motion, expected, atol=1e-5)
    settled = arrays["mask"] > 0
    np.testing.assert_array_equal(motion[settled], arrays["committed"][settled])
    with pytest.raises(EngineError, match=r"input 'noise' is missing|input 'state' must be"):
        stepped.run(**{name: array for name, array in arrays.items() if name != "noise"})
    with pytest.raises(WeightsError, match="window is no sampler step"):
        SteppedWindow(window)


def test_examples_fit_their_specs() -> None:
    specs = [TensorSpec("a", np.dtype(np.uint8), ("batch", 2)), TensorSpec("b", np.dtype(np.float32), (3,))]
    made = example_inputs(specs, {"batch": 4})
    assert all(spec.accepts(made[spec.name]) for spec in specs)
