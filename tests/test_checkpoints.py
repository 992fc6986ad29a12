"""Checkpoint files in the published layouts load whole; every other file is refused whole."""

import io
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.networks import checkpoints
from engines.networks.checkpoints import CHECKPOINTS, Checkpoint, load_checkpoint, load_normalisation
from engines.types import WeightsError
from tests.golden import golden
from tests.published import network, published_content, tensors

SMALL = checkpoints.STITCHING


class TrainerConfig(dict[str, Any]):
    """Stands for the configuration object of a third-party class beside the weights."""

    def __init__(self, marker: Path) -> None:
        super().__init__(lr=1e-4)
        self.nested = [Path("somewhere"), {"betas": (0.9, 0.99)}]
        self.marker = marker

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["marker"].touch()


class Attack:
    """Would make a file appear if it were ever brought to life."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda c: c.file)
def test_published_layouts_load_strictly(checkpoint: Checkpoint[Any], zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / checkpoint.file, tmp_path / "marker"
    content = published_content(checkpoint)
    if checkpoint is checkpoints.DENOISER:
        content |= {"cfg": TrainerConfig(marker), "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 7}
        content |= {"best_val": np.float64(0.5), "scheduler": TrainerConfig, "model_ema": {}, "step": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(checkpoint, path).state_dict()
    path.unlink()
    expected = network(checkpoint).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert not marker.exists()


def test_wrappers_and_prefixes_may_be_there_or_not(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    plain = {key.removeprefix("module."): value for key, value in tensors(SMALL).items()}
    parallel = {f"module.{key}": value for key, value in plain.items()}
    for content in (plain, parallel, {"model": plain}, {"state_dict": parallel}):
        torch.save(content, path)
        assert load_checkpoint(SMALL, path).training is False


def test_half_precision_file_becomes_float32(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    torch.save({key: value.half() for key, value in tensors(SMALL).items()}, path)
    assert {value.dtype for value in load_checkpoint(SMALL, path).state_dict().values()} == {torch.float32}


def test_entries_beyond_the_networks_are_listed_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / SMALL.file
    torch.save(tensors(SMALL) | {"retarget_nose.weight": torch.zeros(2), "note": "hello"}, path)
    with caplog.at_level(logging.WARNING):
        load_checkpoint(SMALL, path)
    assert "retarget_nose.weight" in caplog.text


def refused(path: Path, checkpoint: Checkpoint[Any] = SMALL) -> str:
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(checkpoint, path)
    return str(caught.value)


def test_missing_and_wrong_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    content = tensors(SMALL)
    first, second = list(content)[:2]
    shape = tuple(content.pop(first).shape)
    content[second] = torch.zeros(5, 7)
    torch.save(content, path)
    message = refused(path)
    assert f"'{first}' {shape} is missing" in message
    assert f"'{second}' is (5, 7) and should be" in message
    assert "kdtalker weights" in message


def test_only_the_first_differences_are_named(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    torch.save({"something": torch.zeros(1)}, path)
    message = refused(path)
    assert message.count("is missing") == checkpoints.SHOWN
    assert f"and {len(tensors(SMALL)) - checkpoints.SHOWN} more" in message


def test_renamed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / checkpoints.APPEARANCE.file
    torch.save(published_content(checkpoints.AUDIO_ENCODER), path)
    assert "does not hold the weights of appearance_feature_extractor.pth" in refused(path, checkpoints.APPEARANCE)


def test_impossible_values_are_refused(tmp_path: Path) -> None:
    path, content = tmp_path / SMALL.file, tensors(SMALL)
    key = next(iter(content))
    for value, words in ((torch.full_like(content[key], torch.nan), "not finite"), (content[key].int(), "torch.int32")):
        torch.save(content | {key: value}, path)
        assert words in refused(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_truncated_files_are_refused(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    torch.save(published_content(SMALL), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged" in refused(path)


def test_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    torch.save(published_content(SMALL), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>404", b"PK\x03\x04"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    path.write_bytes(content)
    assert "no PyTorch checkpoint" in refused(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "There is no file" in refused(tmp_path / SMALL.file)
    assert "There is no file" in refused(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_nothing_in_a_file_is_ever_run(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / SMALL.file, tmp_path / "marker"
    torch.save(published_content(SMALL) | {"cfg": Attack(marker)}, path, _use_new_zipfile_serialization=zipped)
    load_checkpoint(SMALL, path)
    path.write_bytes(pickle.dumps(Attack(marker)))
    refused(path)
    torch.save(Attack(marker), path, _use_new_zipfile_serialization=zipped)
    assert "no table of weights" in refused(path)
    assert not marker.exists()


def test_programs_and_whole_modules_are_refused(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    torch.save(network(SMALL), path)
    assert "no table of weights" in refused(path)
    torch.save(published_content(SMALL), path)
    with zipfile.ZipFile(path, "a") as archive:  # what tells a TorchScript archive from a checkpoint
        archive.writestr("archive/constants.pkl", b"")
    assert "TorchScript" in refused(path)


def norm_arrays() -> dict[str, np.ndarray]:
    data = golden("e2e")
    return {name.removeprefix("norm_"): value for name, value in data.items() if name.startswith("norm_")}


def test_normalisation_loads_and_ignores_what_is_unused(tmp_path: Path) -> None:
    path, arrays = tmp_path / "norm.npz", norm_arrays()
    np.savez(path, **arrays, c_lip_mean=np.zeros(1, np.float32), c_eye_std=np.ones(2, np.float32))
    loaded = load_normalisation(path)
    order = ("scale", "yaw", "pitch", "roll", "t", "exp")
    np.testing.assert_array_equal(loaded.mean, np.concatenate([arrays[f"{name}_mean"] for name in order]))
    np.testing.assert_array_equal(loaded.std, np.concatenate([arrays[f"{name}_std"] for name in order]))
    np.testing.assert_array_equal(loaded.canonical_std, arrays["kp_std"])


def test_damaged_normalisation_is_refused(tmp_path: Path) -> None:
    path, arrays = tmp_path / "norm.npz", norm_arrays()
    bad = (
        {name: value for name, value in arrays.items() if name != "t_std"},
        arrays | {"exp_mean": np.zeros(62, np.float32)},
        arrays | {"kp_std": np.zeros(63, np.float32)},
        arrays | {"yaw_mean": np.array([object()])},
    )
    for content in bad:
        np.savez(path, **content)
        with pytest.raises(WeightsError, match="--norm FILE"):
            load_normalisation(path)
    np.savez(path, **arrays)
    whole = path.read_bytes()
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    for data in (b"", b"404", whole[: len(whole) // 2], single.getvalue()):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="--norm FILE"):
            load_normalisation(path)
    path.unlink()
    with pytest.raises(WeightsError, match="kdtalker weights"):
        load_normalisation(path)
