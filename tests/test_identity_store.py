"""Identities kept on disk: the same comes back, and a damaged file never does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.portrait.identity_store import IdentityStore
from engines.types import FRAME_SIZE, KEYPOINTS, MOTION_WIDTH, Identity

DIGEST = "ab" * 32


@pytest.fixture
def identity() -> Identity:
    random = np.random.default_rng(3)
    return Identity(
        "embedded",
        DIGEST,
        random.normal(size=(KEYPOINTS, 3)).astype(np.float32),
        random.normal(size=MOTION_WIDTH).astype(np.float32),
        random.integers(0, 256, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8),
        {"weights": random.normal(size=(64, 25)).astype(np.float16), "index": np.arange(7), "flag": np.array(True)},
    )


def assert_same(a: Identity, b: Identity) -> None:
    assert (a.profile, a.digest) == (b.profile, b.digest)
    for name in ("canonical", "source", "crop"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    assert a.tables.keys() == b.tables.keys()
    for name in a.tables:
        np.testing.assert_array_equal(a.tables[name], b.tables[name], strict=True)


def never() -> Identity:
    raise AssertionError("enrolled although it was cached")


def test_round_trip_leaves_one_file_and_nothing_else(tmp_path: Path, identity: Identity) -> None:
    store = IdentityStore(tmp_path / "cache", version=1)
    assert store.load("embedded", DIGEST) is None
    path = store.save(identity)
    assert list((tmp_path / "cache").iterdir()) == [path]
    loaded = store.load("embedded", DIGEST)
    assert loaded is not None
    assert_same(loaded, identity)
    assert_same(store.enrolled("embedded", DIGEST, never), identity)


def test_another_version_profile_or_photo_is_not_read(tmp_path: Path, identity: Identity) -> None:
    IdentityStore(tmp_path, version=1).save(identity)
    assert IdentityStore(tmp_path, version=2).load("embedded", DIGEST) is None
    assert IdentityStore(tmp_path, version=1).load("kdtalker", DIGEST) is None
    assert IdentityStore(tmp_path, version=1).load("embedded", "cd" * 32) is None


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_byte_changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def pickled(path: Path) -> None:
    np.savez(path, allow_pickle=True, canonical=np.array([{"run": "me"}], object))


def field_missing(path: Path) -> None:
    with np.load(path) as archive:
        rest = {name: archive[name] for name in archive.files if name != "source"}
    np.savez(path, allow_pickle=False, **rest)


def shape_changed(path: Path) -> None:
    with np.load(path) as archive:
        rest = {name: archive[name] for name in archive.files}
    np.savez(path, allow_pickle=False, **(rest | {"canonical": np.zeros((20, 3), np.float32)}))


@pytest.mark.parametrize("damage", [cut_short, emptied, one_byte_changed, pickled, field_missing, shape_changed])
def test_a_damaged_file_is_enrolled_again(tmp_path: Path, identity: Identity, damage: Callable[[Path], None]) -> None:
    store = IdentityStore(tmp_path, version=1)
    path = store.save(identity)
    damage(path)
    assert store.load("embedded", DIGEST) is None
    assert not path.exists(), "a damaged file must not be met again"
    assert_same(store.enrolled("embedded", DIGEST, lambda: identity), identity)
    assert_same(store.enrolled("embedded", DIGEST, never), identity)


def test_a_disk_that_cannot_be_written_to_does_not_stop_a_call(tmp_path: Path, identity: Identity) -> None:
    (tmp_path / "file").write_text("a file where the directory should be")
    store = IdentityStore(tmp_path / "file", version=1)
    assert_same(store.enrolled("embedded", DIGEST, lambda: identity), identity)


def test_names_cannot_leave_the_directory(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path, version=1)
    for profile, digest in (("../embedded", DIGEST), ("embedded", "../" + DIGEST), ("embedded", f"ab{os.sep}cd" * 8)):
        with pytest.raises(ValueError, match="No name"):
            store.path(profile, digest)
