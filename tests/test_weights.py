"""`kdtalker weights`: from folders, from a hub on loopback, with licences, records and refusals."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from engines.networks.checkpoints import CHECKPOINTS
from engines.published.cli import install, weights
from engines.published.weights_files import FILES, NORM, Entry, WeightsFile, WeightsFolder, find_in, open_model
from engines.types import KDTalkerError, WeightsError
from tests.golden import golden
from tests.hub_server import COMMIT, Hub, hub_server
from tests.published import published_content

SMALL = FILES[6]  # stitching, 0.9 MB
SECOND = FILES[2]  # appearance, 3.4 MB
LARGE = FILES[3]  # motion extractor, 112 MB


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All published files with seeded weights, as KDTalker's README lays them out."""
    folder = tmp_path_factory.mktemp("published")
    for checkpoint in CHECKPOINTS:
        place = next(file.places[0] for file in FILES if file.name == checkpoint.file)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(published_content(checkpoint), folder / place)
    norm = folder / NORM.places[0]
    norm.parent.mkdir()
    statistics = {name.removeprefix("norm_"): a for name, a in golden("e2e").items() if name.startswith("norm_")}
    np.savez(norm, **statistics)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDTALKER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    """Every file where its publisher keeps it, and norm.npz at an address of its own."""
    places = {file.name: file.places[1] if "liveportrait" in file.places[0] else file.places[0] for file in FILES}
    with hub_server({places[file.name]: published / file.places[0] for file in FILES}) as server:
        yield server


def small_part(folder: Path, *files: WeightsFile) -> WeightsFolder:
    """A weights folder that has everything recorded but `files`, by way of tiny stand-ins for the rest."""
    kept = WeightsFolder(folder)
    for file in FILES:
        if file not in files:
            stand_in = folder / "stand-in"
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text(file.name)
            kept.add(file, stand_in, "a stand-in", move=True)
    return kept


def fetch(kept: WeightsFolder, hub: Hub, *, accept: bool = True) -> str:
    console = Console(file=io.StringIO(), width=200)
    addresses = {"endpoint": hub.address, "norm_address": f"{hub.address}/{NORM.places[0]}"}
    try:
        install(kept, console, lambda question: accept, folders=[], norm=None, **addresses)
    finally:
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_whole_set_from_a_folder_then_used(published: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights(["--from", str(published)]) == 0
    assert weights(["--check"]) == 0
    assert "are what was fetched" in capsys.readouterr().out
    model = open_model(None, cache, "cpu")
    np.testing.assert_array_equal(model.normalisation.std[4:7], golden("e2e")["norm_t_std"])
    damaged = cache / "weights" / SMALL.places[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.unlink()  # linked to the folder it came from
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{SMALL.name} .*again"):
        weights(["--check"])


def test_folders_of_both_readmes_are_found(published: Path, tmp_path: Path) -> None:
    assert len(find_in([published])) == len(FILES)
    liveportrait = published / "pretrained_weights"
    kdtalker = published / "ckpts"
    assert len(find_in([liveportrait])) == 5
    assert len(find_in([liveportrait / "liveportrait"])) == 5
    assert find_in([kdtalker]).keys() == {"KDTalker.pth", "wav2lip.pth"}
    assert len(find_in([liveportrait, kdtalker, published / "dataset_process"])) == len(FILES)
    with pytest.raises(WeightsError, match="is no folder"):
        find_in([tmp_path / "nowhere"])


def test_a_folder_that_lacks_files_is_refused(published: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"KDTalker\.pth, wav2lip\.pth.*--from DIR"):
        weights(["--from", str(published / "pretrained_weights"), "--norm", str(published / NORM.places[0])])
    assert not cache.exists()


@pytest.mark.parametrize("harm", ["truncated", "renamed", "altered"])
def test_a_folder_with_a_bad_file_is_refused(published: Path, cache: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(published, folder, copy_function=lambda a, b: Path(b).hardlink_to(a))
    bad = folder / SECOND.places[0]
    content = bytearray(bad.read_bytes())
    bad.unlink()
    if harm == "truncated":
        bad.write_bytes(content[:-1000])
    elif harm == "altered":
        content[len(content) // 2] ^= 4
        bad.write_bytes(content)
    else:
        bad.write_bytes((published / SMALL.places[0]).read_bytes())
    with pytest.raises(WeightsError, match=SECOND.name):
        weights(["--from", str(folder)])
    assert not WeightsFolder(cache / "weights").intact(SECOND)


def test_fetching_asks_for_every_licence_and_checks_every_file(hub: Hub, tmp_path: Path) -> None:
    kept = small_part(tmp_path / "weights", SMALL, SECOND, NORM)
    text = fetch(kept, hub)
    assert "LivePortrait: MIT" in text
    assert "KDTalker's code repository: CC BY-NC 4.0" in text
    assert "Wav2Lip" not in text  # its file was there
    record = kept.record()
    for file in (SMALL, SECOND):
        path = kept.path(file)
        assert record[file.name].origin == f"KwaiVGI/LivePortrait@{COMMIT}"
        assert record[file.name].size == path.stat().st_size
        assert record[file.name].sha256 in text
    assert record[NORM.name].origin == f"{hub.address}/{NORM.places[0]}"
    assert not (tmp_path / "weights" / ".download").exists()
    asked = len(hub.ranges)
    assert fetch(kept, hub).count("already here") == len(FILES)
    assert len(hub.ranges) == asked


def test_a_refused_licence_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    kept = small_part(tmp_path / "weights", SMALL)
    with pytest.raises(KDTalkerError, match="was not accepted"):
        fetch(kept, hub, accept=False)
    assert not hub.ranges


def test_without_a_terminal_the_licence_must_be_accepted_by_option(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(KDTalkerError, match="--accept-licence"):
        weights([])
    shown = capsys.readouterr().out
    assert all(file.publisher.licence in shown and file.publisher.terms in shown for file in FILES)
    assert not cache.exists()


def test_a_broken_download_is_continued(hub: Hub, tmp_path: Path) -> None:
    kept = small_part(tmp_path / "weights", LARGE)
    hub.breaks[LARGE.places[1]] = 60_000_000
    failures = []
    while not kept.intact(LARGE) and len(failures) < 3:  # how often the library itself tries again is its own affair
        try:
            fetch(kept, hub)
        except KDTalkerError as error:
            failures.append(str(error))
    assert failures
    assert all("goes on where it stopped" in failure for failure in failures)
    assert kept.intact(LARGE)
    starts = [first for path, first in hub.ranges if path == LARGE.places[1]]
    assert starts == [0, pytest.approx(50_000_000, abs=10_000_000)]


def test_a_file_that_arrives_altered_is_refused(hub: Hub, tmp_path: Path) -> None:
    kept = small_part(tmp_path / "weights", SMALL)
    hub.altered.add(SMALL.places[1])
    with pytest.raises(WeightsError, match="damaged"):
        fetch(kept, hub)
    hub.altered.clear()
    fetch(kept, hub)
    assert kept.intact(SMALL)


def test_a_file_the_publisher_moved_and_a_hub_out_of_reach_are_told(hub: Hub, tmp_path: Path) -> None:
    kept = small_part(tmp_path / "weights", SMALL)
    hub.files.pop(SMALL.places[1])
    with pytest.raises(WeightsError, match="none of the known places"):
        fetch(kept, hub)
    gone = Hub({}, address="http://127.0.0.1:1")
    with pytest.raises(KDTalkerError, match="check the network"):
        fetch(kept, gone)
    kept = small_part(tmp_path / "other", NORM)
    with pytest.raises(KDTalkerError, match="--norm FILE"):
        fetch(kept, gone)


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    kept = small_part(tmp_path)
    assert isinstance(kept.record()[SMALL.name], Entry)
    for content in ("", "[]", '{"files": {"norm.npz": 3}}', '{"files": []}'):
        (tmp_path / "weights.json").write_text(content)
        assert kept.record() == {}
        assert not kept.intact(SMALL)


def test_without_weights_one_sentence_names_the_command(tmp_path: Path, published: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        open_model(None, tmp_path)
    assert str(caught.value) == ("The published weights are not on this machine; run `kdtalker weights` to fetch them.")
    with pytest.raises(WeightsError, match=r"lacks ckpts/KDTalker\.pth"):
        open_model(str(published / "pretrained_weights"), tmp_path)
    with pytest.raises(WeightsError, match="random:0"):
        open_model("random:soon", tmp_path)
