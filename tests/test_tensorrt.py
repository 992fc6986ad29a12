"""TensorRT's surroundings: cache keys, refusals, shapes, timings, progress, and the order of the build's calls.

TensorRT itself is not here: `StandIn` records what the build asks of it.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

torch = pytest.importorskip("torch", reason="networks are built with PyTorch")

from engines.networks.ddim import Ddim, DdimConfig  # noqa: E402
from engines.networks.denoiser import Denoiser, DenoiserConfig  # noqa: E402
from engines.runtime.engine_file import (  # noqa: E402
    BATCHES,
    EngineFacts,
    Target,
    read_engine,
    read_facts,
    write_engine,
)
from engines.runtime.opening import open_engine, source_of  # noqa: E402
from engines.types import EngineError, KDTalkerError, WeightsError  # noqa: E402
from export import refit, to_onnx, to_tensorrt  # noqa: E402
from export.cli import build as build_command  # noqa: E402
from export.graphs import window_graph  # noqa: E402
from export.to_tensorrt import BuildOptions, Progress  # noqa: E402
from tests.small_renderer import SmallRenderer  # noqa: E402
from tests.tensorrt_stand_in import HERE, StandIn  # noqa: E402

FACTS = EngineFacts("ab" * 32, HERE, "float16", BATCHES, {"identities": 16}, metadata={"network": '"window"'})


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("onnx"))


def written(folder: Path, seed: int = 0, steps: int = 2) -> Path:
    """A small window's float16 file, its weights by `seed`."""
    torch.manual_seed(seed)
    config = DenoiserConfig(width=24, layers=1, heads=2, time_width=8, audio_width=8, rotary=4)
    graph = window_graph(Ddim(Denoiser(config).eval(), DdimConfig(steps=steps, guided=True)), 5)
    return to_onnx.export_graph(graph, folder, {"profile": "test"}, (1,), halves=True, say=lambda _: None)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "cd" * 32},
        {"target": replace(HERE, tensorrt="11.4.0.106")},
        {"target": replace(HERE, compute_capability="8.9")},
        {"precision": "float32"},
        {"batches": (1, 2)},
        {"sizes": {"identities": 4}},
        {"version_compatible": True},
        {"hardware_compatible": True},
        {"refit": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_a_plan_is_in_its_key(change: dict[str, Any]) -> None:
    assert replace(FACTS, **change).key != FACTS.key


def test_names_for_people_are_not_in_the_key() -> None:
    assert replace(FACTS, target=replace(HERE, gpu="H100 NVL"), metadata={}).key == FACTS.key


def test_engine_files_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / FACTS.file_name("window")
    write_engine(path, FACTS, b"plan")
    assert read_facts(path) == FACTS
    assert read_engine(path, HERE) == (FACTS, b"plan")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("facts", "here", "reason"),
    [
        (FACTS, replace(HERE, tensorrt="10.17.0.1"), r"built with TensorRT 10\.16\.1\.11 and this machine has 10\.17"),
        (
            FACTS,
            replace(HERE, compute_capability="8.9"),
            r"compute capability 9\.0 \(NVIDIA H100\) and this GPU has 8\.9",
        ),
        (replace(FACTS, version_compatible=True), replace(HERE, tensorrt="9.3.0"), "built with TensorRT 10"),
        (
            replace(FACTS, hardware_compatible=True),
            replace(HERE, compute_capability="7.5"),
            r"this GPU has 7\.5",
        ),
    ],
)
def test_foreign_engines_are_refused_with_the_way_out(
    facts: EngineFacts, here: Target, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "window.engine"
    write_engine(path, facts, b"plan")
    with pytest.raises(WeightsError, match=rf"window\.engine cannot be used: .*{reason}.*`kdtalker build {tmp_path}`"):
        read_engine(path, here)


def test_compatible_engines_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "window.engine"
    write_engine(path, replace(FACTS, version_compatible=True, hardware_compatible=True), b"plan")
    newer = Target("11.4.0.106", "8.9", "RTX 4090")
    assert read_engine(path, newer)[1] == b"plan"


def test_stale_and_damaged_engines_are_refused(tmp_path: Path) -> None:
    path, onnx_file = tmp_path / "window.engine", tmp_path / "window.onnx"
    onnx_file.write_bytes(b"newer")
    write_engine(path, FACTS, b"plan")
    with pytest.raises(WeightsError, match=r"window\.onnx has changed since\. Build it again with `kdtalker build"):
        read_engine(path, HERE, onnx_file)
    write_engine(path, FACTS, b"")
    with pytest.raises(WeightsError, match="it breaks off"):
        read_engine(path, HERE)
    for content in (b"", b"not an engine", path.read_bytes()[:30]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"is no engine written by `kdtalker build` or is damaged"):
            read_facts(path)
    with pytest.raises(WeightsError, match="There is no engine"):
        read_facts(tmp_path / "none.engine")


def test_absent_tensorrt_is_explained(tmp_path: Path) -> None:
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT is installed here")
    path = tmp_path / "window.engine"
    write_engine(path, FACTS, b"plan")
    with pytest.raises(EngineError, match=r"TensorRT is not installed here.*pip install tensorrt"):
        open_engine(path)
    with pytest.raises(EngineError, match="TensorRT is not installed here"):
        build_command([str(tmp_path)])


def test_every_profile_has_one_shape(window: Path) -> None:
    facts = to_tensorrt.facts_for(window, HERE, BuildOptions())
    assert (facts.precision, facts.batches, facts.sizes) == ("float16", (1, 2, 4, 8), {})
    shapes = to_tensorrt.profile_shapes(to_tensorrt.stated_specs(facts.metadata, "inputs"), facts)
    assert [each["tokens"] for each in shapes] == [(batch, 2, 70) for batch in BATCHES]
    assert {each["guidance"] for each in shapes} == {(70,)}


def test_tables_get_the_rows_asked_for(tmp_path: Path) -> None:
    graph = SmallRenderer().graphs("native", "rgb")[1]
    path = tmp_path / "renderer.onnx"
    to_onnx.write(graph, path, {"profile": "test"})
    newest = Target("11.4.0.106", "9.0")
    facts = to_tensorrt.facts_for(path, newest, BuildOptions(table_rows=5))
    shapes = to_tensorrt.profile_shapes(to_tensorrt.stated_specs(facts.metadata, "inputs"), facts)
    assert [each["source"] for each in shapes] == [(5, 21, 3)] * 4
    assert [each["rows"] for each in shapes] == [(1,), (2,), (4,), (8,)]
    for version in ("10.16.1.11", "11.1.0.5"):
        with pytest.raises(KDTalkerError, match=rf"GridSample, which TensorRT {version} cannot read.*--target any"):
            to_tensorrt.facts_for(path, Target(version, "9.0"), BuildOptions())


def test_files_of_others_are_not_built(tmp_path: Path, window: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(window)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(WeightsError, match="states no inputs, so it is not from `kdtalker export`"):
        to_tensorrt.facts_for(foreign, HERE, BuildOptions())
    foreign.write_bytes(b"\xff\xff")
    with pytest.raises(WeightsError, match="is no ONNX file or is damaged"):
        to_tensorrt.facts_for(foreign, HERE, BuildOptions())
    with pytest.raises(KDTalkerError, match="holds no ONNX files"):
        to_tensorrt.choose_files(tmp_path / "empty", "float16")


def test_float16_twins_are_preferred(window: Path) -> None:
    assert to_tensorrt.choose_files(window.parent, "float16") == [window]
    assert to_tensorrt.choose_files(window.parent, "float32") == [window.with_name("window.onnx")]


def test_progress_says_at_most_a_tenth_at_a_time() -> None:
    said: list[str] = []
    progress = Progress("window", said.append)
    progress.start("Timing", 100)
    for step in range(100):
        progress.step("Timing", step)
    progress.start("Short", 3)
    progress.step("Short", 2)
    progress.finish("Timing")
    assert said[0] == "window: Timing"
    assert said[1:11] == [f"window: Timing {10 * tenth} %" for tenth in range(1, 11)]
    assert said[11:] == ["window: Short"]


def test_timings_are_kept_for_one_version_and_gpu(tmp_path: Path) -> None:
    name = to_tensorrt.timing_cache_name(HERE)
    assert name == "timings.10.16.1.11.nvidia-h100.cache"
    assert to_tensorrt.timing_cache_name(replace(HERE, gpu="NVIDIA L4")) != name
    assert to_tensorrt.read_timing(tmp_path / name) == b""
    to_tensorrt.write_timing(tmp_path / name, b"timings")
    assert to_tensorrt.read_timing(tmp_path / name) == b"timings"


def test_a_build_goes_through_and_is_found_again(window: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_file = tmp_path / window.name
    onnx_file.write_bytes(window.read_bytes())
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    said: list[str] = []
    options = BuildOptions(version_compatible=True, hardware_compatible=True, refit=True)
    place, built = to_tensorrt.build(onnx_file, HERE, options, said.append)
    assert built
    assert read_engine(place, HERE, onnx_file)[1] == b"plan"
    assert place.name.startswith("window.float16.")
    kinds = [call[0] for call in stand_in.calls]
    assert stand_in.calls[:2] == [("network", 2), ("parse", "window.float16.onnx")]
    assert ("flag", "version") in stand_in.calls
    assert ("flag", "refit") in stand_in.calls
    assert ("clear", "tf32") in stand_in.calls
    assert ("level", "ampere+") in stand_in.calls
    assert kinds.count("profile") == len(BATCHES)
    assert [call[2][0] for call in stand_in.calls if call[:2] == ("shape", "noise")] == list(BATCHES)
    assert any("Building 100 %" in line for line in said)
    assert to_tensorrt.read_timing(tmp_path / to_tensorrt.timing_cache_name(HERE)) == b"measured"

    assert to_tensorrt.build(onnx_file, HERE, options, said.append) == (place, False)
    place.write_bytes(b"torn")
    assert to_tensorrt.build(onnx_file, HERE, options, said.append) == (place, True)
    assert ("timings", b"measured") in stand_in.calls
    other, built = to_tensorrt.build(onnx_file, HERE, BuildOptions(), said.append)
    assert built
    assert other != place


def test_what_tensorrt_refuses_is_said(window: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_file = tmp_path / window.name
    onnx_file.write_bytes(window.read_bytes())
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn(readable=False))
    with pytest.raises(KDTalkerError, match=r"cannot read window.*: no importer for GridSample"):
        to_tensorrt.build(onnx_file, HERE, BuildOptions(), lambda _: None)
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn(plan=None))
    with pytest.raises(KDTalkerError, match="could not build window"):
        to_tensorrt.build(onnx_file, HERE, BuildOptions(), lambda _: None)
    assert not list(tmp_path.glob("*.engine"))


def test_timings_of_another_gpu_are_taken_anew(window: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_file, said = tmp_path / window.name, []
    onnx_file.write_bytes(window.read_bytes())
    to_tensorrt.write_timing(tmp_path / to_tensorrt.timing_cache_name(HERE), b"of another GPU")
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    to_tensorrt.build(onnx_file, HERE, BuildOptions(), said.append)
    assert [call for call in stand_in.calls if call[0] == "timings"] == [
        ("timings", b"of another GPU"),
        ("timings", b""),
    ]
    assert any("timings are taken anew" in line for line in said)


def test_a_build_removes_the_engines_of_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn())
    said: list[str] = []
    path = written(tmp_path, seed=0)
    old, _ = to_tensorrt.build(path, HERE, BuildOptions(), said.append)
    elsewhere = tmp_path / f"{path.stem}.elsewhere.engine"
    write_engine(elsewhere, replace(FACTS, target=replace(HERE, compute_capability="8.9")), b"plan")
    written(tmp_path, seed=1)
    new, built = to_tensorrt.build(path, HERE, BuildOptions(), said.append)
    assert built
    assert sorted(tmp_path.glob("*.engine")) == sorted([new, elsewhere])
    assert f"{old.name}: of an older {path.name}, removed" in said


def test_an_opened_engine_is_compared_with_the_file_it_was_built_from(tmp_path: Path, window: Path) -> None:
    path = tmp_path / f"{window.stem}.0123.engine"
    write_engine(path, FACTS, b"plan")
    assert source_of(path) == tmp_path / window.name


# ---- other weights into a built engine


def test_a_graph_is_the_same_whatever_its_weights(tmp_path: Path) -> None:
    paths = [written(tmp_path / str(number), **of) for number, of in enumerate(({}, {"seed": 1}, {"steps": 3}))]
    facts = [to_tensorrt.facts_for(path, HERE, BuildOptions()) for path in paths]
    assert facts[0].onnx_sha256 != facts[1].onnx_sha256
    assert facts[0].graph_sha256 == facts[1].graph_sha256
    assert facts[0].graph_sha256 != facts[2].graph_sha256
    assert facts[0].graph_sha256 != to_tensorrt.facts_for(float32_of(paths[0]), HERE, BuildOptions()).graph_sha256


def float32_of(path: Path) -> Path:
    return path.with_name(path.name.replace(".float16", ""))


def test_other_weights_go_into_a_refittable_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    options = BuildOptions(refit=True, version_compatible=True, batches=(1, 4))
    old = written(tmp_path / "old")
    place, _ = to_tensorrt.build(old, HERE, options, lambda _: None)
    new = written(tmp_path / "new", seed=1)
    refitted = refit.refit(place, refit.choose_file(place, tmp_path / "new"), HERE)
    facts, plan = read_engine(refitted, HERE, new)
    assert plan == b"plan with other weights"
    assert (facts.refit, facts.batches) == (True, (1, 4))
    assert facts.metadata["inputs"] == read_facts(place).metadata["inputs"]
    assert refitted == to_tensorrt.engine_path(new, to_tensorrt.facts_for(new, HERE, options))
    assert stand_in.calls[-4:] == [
        ("deserialize", b"plan", True),
        ("parse", new.name),
        ("refit",),
        ("serialization", "refittable"),
    ]
    assert to_tensorrt.build(new, HERE, options, lambda _: None) == (refitted, False)


def test_what_cannot_be_refitted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn())
    old, new = written(tmp_path / "old"), written(tmp_path / "new", seed=1)
    fixed, _ = to_tensorrt.build(old, HERE, BuildOptions(), lambda _: None)
    with pytest.raises(
        KDTalkerError, match="was not built to be refitted; build it anew with `kdtalker build --refit`"
    ):
        refit.refit(fixed, new, HERE)
    place, _ = to_tensorrt.build(old, HERE, BuildOptions(refit=True), lambda _: None)
    with pytest.raises(KDTalkerError, match="differ in more than their weights; build its own engine"):
        refit.refit(place, written(tmp_path / "longer", steps=3), HERE)
    with pytest.raises(KDTalkerError, match=r"window\.onnx is float32 and window\.float16\..* was built in float16"):
        refit.refit(place, float32_of(new), HERE)
    with pytest.raises(WeightsError, match="was built with TensorRT 10"):
        refit.refit(place, new, replace(HERE, tensorrt="11.4.0.106"))
    with pytest.raises(KDTalkerError, match=r"There is no .*float16\.onnx, whose weights"):
        refit.choose_file(place, tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn(readable=False))
    with pytest.raises(KDTalkerError, match=r"does not take the weights of window.*: no importer for GridSample"):
        refit.refit(place, new, HERE)
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn(missing=("layers.0.weight",)))
    with pytest.raises(KDTalkerError, match=r"could not refit .*lacks layers\.0\.weight"):
        refit.refit(place, new, HERE)
    assert not list((tmp_path / "new").glob("*.engine"))


@pytest.mark.parametrize("version", ["10.12.0.36", "11.3.0.12"])
def test_versions_that_lose_weights_do_not_build_refittable_engines(window: Path, version: str) -> None:
    target = replace(HERE, tensorrt=version)
    with pytest.raises(KDTalkerError, match=rf"TensorRT {version} cannot refit engines reliably"):
        to_tensorrt.facts_for(window, target, BuildOptions(refit=True))
    assert not to_tensorrt.facts_for(window, target, BuildOptions()).refit


def test_the_command_explains_that_tensorrt_is_absent(tmp_path: Path, window: Path) -> None:
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(EngineError, match="TensorRT is not installed here"):
        build_command([str(window), "--refit-from", str(tmp_path / "window.engine")])
