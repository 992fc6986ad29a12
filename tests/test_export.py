"""Exported files: parity with torch at several batches, facts inside, float16 structure, the commands around them."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

torch = pytest.importorskip("torch", reason="the exporter needs PyTorch")

from benchmarks.compute import compute  # noqa: E402
from engines.networks.ddim import Ddim, DdimConfig  # noqa: E402
from engines.networks.denoiser import Denoiser, DenoiserConfig  # noqa: E402
from engines.networks.model import PublishedModel, random_model  # noqa: E402
from engines.networks.window_graph import MOST_UNROLLED, StepGraph, WindowGraph  # noqa: E402
from engines.runtime.base import fact  # noqa: E402
from engines.runtime.onnxruntime import PROVIDERS  # noqa: E402
from engines.runtime.opening import open_engine  # noqa: E402
from engines.runtime.stepped import DONE  # noqa: E402
from engines.types import EngineError, KDTalkerError  # noqa: E402
from export import examples, half, parity, to_onnx  # noqa: E402
from export import verify as verification  # noqa: E402
from export.cli import export as export_command  # noqa: E402
from export.cli import verify as verify_command  # noqa: E402
from export.graphs import published, window_graph  # noqa: E402
from export.onnx_file import FEWEST_PARAMETERS, Graph, check_size, share_initializers, write  # noqa: E402
from export.verify import verify_file  # noqa: E402
from tests.small_renderer import SmallRenderer  # noqa: E402

FACTS = {"profile": "test", "weights": "random:0"}
BATCHES = (1, 3, 8)
# Both families of denoiser at a fraction of their size: one time a window, and one a token.
NARROW = DenoiserConfig(width=48, layers=2, heads=4, time_width=16, audio_width=24, rotary=8, published_layout=True)
PUBLISHED_LOOP = DdimConfig(steps=5, guided=True)
EMBEDDED_LOOP = DdimConfig(
    steps=3, schedule="cosine", prediction="v", spacing="trailing", context_time=150, guided=True
)


def quiet(_: str) -> None: ...


def narrow_loop(*, per_token: bool) -> Ddim:
    torch.manual_seed(0)
    sizes = {
        name: getattr(NARROW, name) for name in ("width", "layers", "heads", "time_width", "audio_width", "rotary")
    }
    config = DenoiserConfig(**sizes, time_per_token=True) if per_token else NARROW
    return Ddim(Denoiser(config).eval(), EMBEDDED_LOOP if per_token else PUBLISHED_LOOP)


@pytest.fixture(scope="module")
def model() -> PublishedModel:
    return random_model(3, "cpu")


@pytest.fixture(scope="module")
def graphs(model: PublishedModel) -> dict[str, Graph]:
    wanted = ("audio_encoder", "stitching", "retargeting_lips", "retargeting_eyes")
    return {graph.name: graph for graph in published(model, steps=50) if graph.name in wanted}


def assert_parity(graph: Graph, folder: Path, batches: tuple[int, ...] = BATCHES) -> list[Path]:
    written = to_onnx.export_graph(graph, folder, FACTS, batches, halves=graph.half, say=quiet)
    report = json.loads(parity.report_path(written[0]).read_text())
    assert report["passed"] is True
    assert {each["batch"] for each in report["comparisons"]} == set(batches)
    assert {each["output"] for each in report["comparisons"]} == {spec.name for spec in graph.outputs}
    return written


@pytest.mark.parametrize("name", ["audio_encoder", "stitching", "retargeting_lips", "retargeting_eyes"])
def test_published_graphs_compute_what_torch_computes(graphs: dict[str, Graph], name: str, tmp_path: Path) -> None:
    path, *_ = assert_parity(graphs[name], tmp_path)
    engine = open_engine(path, expect={"profile": "test", "network": name, "precision": "float32"})
    for key in ("inputs", "outputs", "units", "opset", "torch", "onnx", "source", "weights"):
        assert fact(engine.metadata, key), key


def test_motion_extractor_is_exported_in_float32_alone(model: PublishedModel, tmp_path: Path) -> None:
    (graph,) = (graph for graph in published(model, steps=50) if graph.name == "motion_extractor")
    written = assert_parity(graph, tmp_path)
    assert [path.name for path in written] == ["motion_extractor.onnx"]


@pytest.mark.parametrize("sampling", ["decomposed", "native"])
def test_renderer_graphs_compute_what_torch_computes(sampling, tmp_path: Path) -> None:
    for graph in SmallRenderer().graphs(sampling, "rgb"):
        assert_parity(graph, tmp_path)
    operators = {node.op_type for node in onnx.load(tmp_path / "renderer.onnx").graph.node}
    assert ("GridSample" in operators) == (sampling == "native")


def test_programs_for_torch_compute_the_same(tmp_path: Path) -> None:
    loop = narrow_loop(per_token=True)
    graphs = [*SmallRenderer().graphs("decomposed", "rgb"), window_graph(loop, 12, fixed=False)]
    graphs.append(window_graph(loop, 9, stepped=True))
    for graph in graphs:
        engine = open_engine(to_onnx.write_program(graph, tmp_path, FACTS, say=quiet), expect={"network": graph.name})
        reference = parity.compute_reference(graph.compute, engine, (1, 3))
        assert all(each.passed for each in parity.compare(engine, reference))


def test_i420_comes_as_one_plane_of_bytes(tmp_path: Path) -> None:
    graph = SmallRenderer().graphs("decomposed", "i420")[1]
    path, *_ = assert_parity(graph, tmp_path, (1, 3))
    model = onnx.load(path)
    last = model.graph.node[-1]
    assert (last.op_type, last.attribute[0].i) == ("Cast", TensorProto.UINT8)
    assert sum(node.op_type == "Cast" and node.attribute[0].i == TensorProto.UINT8 for node in model.graph.node) == 1
    assert graph.outputs[0].shape[1:] == (384, 256)


@pytest.mark.parametrize("per_token", [False, True], ids=["published", "embedded"])
def test_window_and_step_compute_the_loop(per_token: bool, tmp_path: Path) -> None:
    loop = narrow_loop(per_token=per_token)
    window, step = (window_graph(loop, 9, fixed=not per_token, stepped=stepped) for stepped in (False, True))
    for batch in BATCHES:
        arrays = {name: torch.from_numpy(array) for name, array in examples.draw(window.inputs, batch).items()}
        with torch.inference_mode():
            expected, found = loop(**arrays), window.module(**arrays)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    for graph in (window, step):
        (path, *_) = assert_parity(graph, tmp_path)
        engine, arrays = open_engine(path), examples.draw(graph.inputs, 3)
        if graph is step:
            arrays["following"][:] = DONE
        result = next(iter(engine.run(**arrays).values()))
        settled = arrays["mask"] > 0
        assert settled.any()
        np.testing.assert_array_equal(result[settled], arrays["committed"][settled])


def test_hop_and_context_are_data(tmp_path: Path) -> None:
    loop = narrow_loop(per_token=True)
    path, *_ = assert_parity(window_graph(loop, 12, fixed=False), tmp_path, (1,))
    engine = open_engine(path)
    for frames, settled in ((1, 0), (4, 0), (9, 4), (9, 9), (12, 6)):
        arrays = {spec.name: np.ones(spec.sized({"batch": 2, "frames": frames}), np.float32) for spec in engine.inputs}
        rows = ("tokens", "sound", "noise", "committed")
        drawn = np.random.default_rng(frames)
        arrays |= {name: drawn.standard_normal(arrays[name].shape, np.float32) for name in rows}
        arrays["mask"] = np.broadcast_to(np.arange(frames) < settled, (2, frames)).astype(np.float32)
        motion = engine.run(**arrays)["motion"]
        np.testing.assert_array_equal(motion[:, :settled], arrays["committed"][:, :settled])
        with torch.inference_mode():
            expected = loop(**{name: torch.from_numpy(array) for name, array in arrays.items()}).numpy()
        np.testing.assert_allclose(motion, expected, atol=1e-4)
    arrays["mask"] = np.zeros((2, 11), np.float32)
    with pytest.raises(EngineError, match="with frames = 12"):
        engine.run(**arrays)


def test_long_loops_are_not_unrolled() -> None:
    loop = Ddim(Denoiser(NARROW), DdimConfig(steps=MOST_UNROLLED + 1, guided=True))
    with pytest.raises(EngineError, match=r"11 steps are not unrolled \(at most 10\)"):
        WindowGraph(loop, 9)
    StepGraph(loop, 9)


def test_unrolled_steps_store_every_weight_once(tmp_path: Path) -> None:
    config = DenoiserConfig(width=160, layers=4, heads=4, time_width=64, audio_width=128, rotary=8)
    graph = window_graph(Ddim(Denoiser(config).eval(), DdimConfig(steps=MOST_UNROLLED, guided=True)), 9)
    assert graph.parameters > FEWEST_PARAMETERS
    path, twin = to_onnx.export_graph(graph, tmp_path, FACTS, (1,), halves=True, say=quiet)
    assert path.stat().st_size <= 1.1 * 4 * graph.parameters
    assert twin.stat().st_size <= 1.1 * 2 * graph.parameters
    with pytest.raises(KDTalkerError, match=r"window\.onnx is \d\.\d\d times its parameters; at most 1\.1"):
        check_size(graph, path, width=2)


def test_equal_constants_become_one() -> None:
    values = numpy_helper.from_array(np.arange(3, dtype=np.float32), "")
    nodes = [helper.make_node("Constant", [], [name], value=values) for name in ("a", "b")]
    nodes += [helper.make_node("Add", ["x", "a"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xz"]
    model = helper.make_model(helper.make_graph(nodes, "sums", ends[:1], ends[1:]))
    share_initializers(model)
    assert [node.op_type for node in model.graph.node] == ["Add", "Add"]
    assert len(model.graph.initializer) == 1
    assert model.graph.node[0].input[1] == model.graph.node[1].input[1] == model.graph.initializer[0].name


# ---- float16


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {each.name: each.data_type for each in graph.initializer}


@pytest.fixture(scope="module")
def half_files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[onnx.ModelProto, Path]]:
    """Float16 twins of a window and of a renderer, each with its float32 file."""
    folder, files = tmp_path_factory.mktemp("half"), []
    graphs = [window_graph(narrow_loop(per_token=True), 9), SmallRenderer().graphs("decomposed", "rgb")[1]]
    for graph in graphs:
        path, twin = to_onnx.export_graph(graph, folder, FACTS, (1,), halves=True, say=quiet)
        assert fact(open_engine(twin).metadata, "precision") == "float16"
        files.append((onnx.load(twin), path))
    return files


def test_float16_keeps_its_islands_in_float32(half_files: list[tuple[onnx.ModelProto, Path]]) -> None:
    for model, _ in half_files:
        types, counted = types_of(model), half.check_structure(model)
        assert min(counted.values()) > 0
        assert all(value.type.tensor_type.elem_type != TensorProto.FLOAT16 for value in model.graph.input)
        assert all(value.type.tensor_type.elem_type != TensorProto.FLOAT16 for value in model.graph.output)
        for node in model.graph.node:
            if node.op_type in half.ISLANDS:
                assert types[node.input[0]] == TensorProto.FLOAT, node.name
            if node.op_type == "Conv":
                assert types[node.input[0]] == types[node.input[1]] == TensorProto.FLOAT16, node.name


def test_float16_leaves_ddim_and_grids_in_float32(half_files: list[tuple[onnx.ModelProto, Path]]) -> None:
    (window, _), (renderer, _) = half_files
    types, makers = types_of(window), {name: node for node in window.graph.node for name in node.output}
    # Backwards from the result, through the loop's arithmetic and no further than what the network gave.
    seen, ahead = set(), [window.graph.output[0].name]
    while ahead:
        node = makers.get(ahead.pop())
        if node is None or node.name in seen or "output_projection" in node.name:
            continue
        seen.add(node.name)
        floats = [name for name in node.input if types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16)]
        assert all(types[name] == TensorProto.FLOAT for name in floats), node.name
        ahead += floats
    assert len(seen) > 20
    types = types_of(renderer)
    # Sampling positions become cell numbers by a cast to int64: all six were float32 until then.
    numbers = [n for n in renderer.graph.node if n.op_type == "Cast" and n.attribute[0].i == TensorProto.INT64]
    origins = [types[node.input[0]] for node in numbers]
    assert origins.count(TensorProto.FLOAT) >= 6
    assert TensorProto.FLOAT16 not in origins


def test_float16_numbers_are_near_even_on_a_cpu(half_files: list[tuple[onnx.ModelProto, Path]]) -> None:
    for _, path in half_files:
        report = json.loads(parity.report_path(path.with_name(f"{path.stem}.float16.onnx")).read_text())
        assert report["passed"] is None
        assert report["note"].startswith("structure checked, precision not verified")
        engine = open_engine(path.with_name(f"{path.stem}.float16.onnx"))
        assert all(each.passed for each in parity.compare(engine, parity.load_reference(path)))


def test_a_weight_beyond_float16_is_refused() -> None:
    weight = numpy_helper.from_array(np.full((3, 3), 7e4, np.float32), "heavy")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "heavy"], ["y"])], "g", ends[:1], ends[1:], [weight])
    with pytest.raises(KDTalkerError, match=r"heavy holds 7e\+04, which float16 cannot"):
        half.to_half(helper.make_model(graph))


# ---- parity and the commands


def test_bytes_may_tip_one_step_in_few_pixels() -> None:
    expected = np.full(10_000, 100, np.uint8)
    near, far = expected.copy(), expected.copy()
    near[:5] += 1
    far[0] += 2
    assert parity.difference(near, expected, 1e-4)[2]
    assert not parity.difference(far, expected, 1e-4)[2]
    assert not parity.difference(expected + 1, expected, 1e-4)[2]


def test_what_is_not_finite_never_passes() -> None:
    expected = np.ones(4, np.float32)
    assert not parity.difference(np.array([1, 1, 1, np.nan], np.float32), expected, 1e-4)[2]
    assert not parity.difference(expected[:3], expected, 1e-4)[2]


def test_export_and_verify_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert export_command(["--out", str(out), "--profile", "embedded", "--weights", "random:3", "--torch"]) == 0
    files = {path.name for path in (out / "embedded").iterdir()}
    for name in ("audio_encoder", "window", "brief"):
        assert {f"{name}.onnx", f"{name}.float16.onnx", f"{name}.pt2", f"{name}.reference.npz"} <= files
        assert {f"{name}.parity.json", f"{name}.float16.parity.json"} <= files
    assert verify_command([str(out), "--batches", "1", "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "none of 9 failed" in shown
    assert "precision not verified" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert {each["runtime"] for each in found} == {"onnxruntime", "torch"}
    assert all(each["load_seconds"] > 0 and each["load_cpu_seconds"] > 0 for each in found)
    assert json.loads((out / "embedded" / "window.parity.json").read_text())["load_cpu_seconds"] > 0
    assert all(each["passed"] is not False for each in found)

    model = onnx.load(out / "embedded" / "window.onnx")
    largest = max(model.graph.initializer, key=lambda each: int(np.prod(each.dims)))
    largest.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(largest), largest.name))
    onnx.save(model, out / "embedded" / "window.onnx")
    assert verify_command([str(out), "--batches", "1"]) == 1
    assert "1 of 9 failed" in capsys.readouterr().out


def test_shipped_files_are_exported_as_they_are(tmp_path: Path) -> None:
    assert export_command(["--out", str(tmp_path), "--profile", "embedded"]) == 0
    for name in ("audio_encoder", "window", "brief"):
        shipped = to_onnx.WEIGHTS / f"{name}.onnx"
        assert (tmp_path / "embedded" / shipped.name).read_bytes() == shipped.read_bytes()
        assert (tmp_path / "embedded" / f"{name}.float16.onnx").is_file()


def test_missing_weights_and_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(KDTalkerError, match=r"lacks KDTalker\.pth.*run `kdtalker weights`.*random:1"):
        export_command(["--out", str(tmp_path), "--profile", "kdtalker", "--weights", str(tmp_path)])
    with pytest.raises(KDTalkerError, match="no checkpoint"):
        export_command(["--out", str(tmp_path), "--profile", "embedded", "--checkpoint", str(tmp_path / "no.pt")])
    with pytest.raises(KDTalkerError, match=r"no network files below .*kdtalker export"):
        verify_command([str(tmp_path)])


def test_a_file_without_its_reference_fails_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_command(
        ["--out", str(tmp_path), "--profile", "embedded", "--weights", "random:1", "--only", "audio_encoder"]
    )
    (tmp_path / "embedded" / "audio_encoder.reference.npz").unlink()
    assert verify_command([str(tmp_path)]) == 1
    assert "audio_encoder.reference.npz does not lie beside" in capsys.readouterr().out


def test_nodes_on_another_provider_fail_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real session: the Azure provider takes none of our nodes, so all of them fall to the CPU."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no provider that leaves our nodes to the CPU")
    export_command(["--out", str(tmp_path), "--profile", "embedded", "--weights", "random:1", "--batches", "1"])
    files = sorted((tmp_path / "embedded").glob("*.onnx"))
    assert {finding.passed for path in files for finding in verify_file(path, "cpu")} == {True, None}
    monkeypatch.setitem(PROVIDERS, "azure", "AzureExecutionProvider")
    for path in files:
        (finding,) = verify_file(path, "azure")
        assert finding.passed is False
        assert re.fullmatch(r"\d+ nodes fell to CPUExecutionProvider \(\w+(, \w+)*\)", finding.note)
    assert verification.run(tmp_path, "azure", None, None, Console(width=160)) == 1
    assert f"{len(files)} of {len(files)} failed" in capsys.readouterr().out


def test_pictures_come_and_go_as_bytes_by_casts_alone(tmp_path: Path) -> None:
    """TensorRT takes nothing else of them."""
    for graph in SmallRenderer().graphs("decomposed", "rgb"):
        path = tmp_path / f"{graph.name}.onnx"
        write(graph, path, FACTS)
        model = onnx.load(path).graph
        ends = {value.name for value in (*model.input, *model.output) if of_bytes(value)}
        touching = [node for node in model.node if ends & {*node.input, *node.output}]
        assert len(ends) == len(touching) == 1
        assert touching[0].op_type == "Cast"


def of_bytes(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.UINT8)


def test_times_are_measured_by_network_runtime_precision_and_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compute.json"
    options = ["--batches", "1,3", "--seconds", "0.01", "--only", "audio_encoder", "--out", str(out)]
    assert compute(options) == 0
    (one, three) = json.loads(out.read_text())["rows"]
    assert (one["batch"], three["batch"]) == (1, 3)
    for row in (one, three):
        stated = {key: row[key] for key in ("profile", "network", "runtime", "precision")}
        assert stated == {
            "profile": "embedded",
            "network": "audio_encoder",
            "runtime": "onnxruntime",
            "precision": "float32",
        }
        assert 0 < row["best"] <= row["p50"] <= row["p95"]
        assert row["load_seconds"] > 0
    assert "audio_encoder" in capsys.readouterr().out
