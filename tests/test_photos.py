"""Sent photos that are to outlive a process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="fsspec is not installed (pip install '.[cluster]')")

from server.photos import Photos


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_photo_is_its_senders_and_outlives_who_took_it(kind: str, tmp_path: Path) -> None:
    url = str(tmp_path / "photos") if kind == "folder" else f"memory://{tmp_path.name}"
    Photos(url, keep=60).put("a-1", "ann", b"\nphoto\n\x00")
    photos = Photos(url, keep=60)
    assert photos.find("a-1", "ann") == b"\nphoto\n\x00"
    assert photos.find("a-1", "ben") is None
    assert photos.find("a-2", "ann") is None
    photos.remove("a-1")
    photos.remove("a-1")
    assert photos.find("a-1", "ann") is None


def test_a_photo_is_deleted_when_its_time_is_over_and_not_kept_longer_by_being_used(tmp_path: Path) -> None:
    photos = Photos(str(tmp_path), keep=0.3)
    photos.put("a", "ann", b"photo")
    begin = time.monotonic()
    while photos.find("a", "ann") is not None:
        photos.put("a", "ann", b"photo")
        assert time.monotonic() - begin < 20
    photos.remove("a")
    Photos(str(tmp_path), keep=0).put("b", "ann", b"photo")
    photos.sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_leads_elsewhere_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "secret.photo").write_bytes(b'{"owner": "ann", "until": 9e12}\nsecret')
    photos = Photos(str(tmp_path / "photos"), keep=60)
    assert photos.find("../secret", "ann") is None
    photos.remove("../secret")
    assert (tmp_path / "secret.photo").exists()
