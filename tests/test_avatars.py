"""Whose photo goes when there are too many."""

from __future__ import annotations

import numpy as np
import pytest

from engines.types import Identity
from server.shelf import Avatar, EnrolmentBusyError, SentPhotos

NOBODY = Identity(
    "embedded", "", np.zeros((21, 3), np.float32), np.zeros(70, np.float32), np.zeros((2, 2, 3), np.uint8)
)


class Kept:
    """Photos named by their sender and a number."""

    def __init__(self, limit: int) -> None:
        self.photos = SentPhotos(limit)
        self._names: list[str] = []

    def send(self, *names: str) -> None:
        for name in names:
            self._names.append(name)
            self.photos.put(Avatar(name, name, NOBODY, b"", owner=name[0]))

    @property
    def names(self) -> list[str]:
        return [name for name in self._names if self.photos.find(name, name[0]) is not None]


def test_whoever_sends_many_pushes_out_their_own() -> None:
    kept = Kept(4)
    kept.send("a1", "b1", "b2", "b3", "b4", "b5")
    assert kept.names == ["a1", "b3", "b4", "b5"]


def test_whoever_has_the_most_makes_room_for_others() -> None:
    kept = Kept(4)
    kept.send("b1", "b2", "b3", "b4", "a1", "c1")
    assert kept.names == ["b3", "b4", "a1", "c1"]
    kept.send("a2")
    assert kept.names == ["b3", "b4", "c1", "a2"], "with two like the most, it is the sender's own that goes"


def test_when_all_have_equally_many_the_newcomer_is_refused() -> None:
    kept = Kept(3)
    kept.send("a1", "b1", "c1")
    with pytest.raises(EnrolmentBusyError):
        kept.send("d1")
    assert kept.names == ["a1", "b1", "c1"]
    kept.send("a2")
    assert kept.names == ["b1", "c1", "a2"]


def test_a_photo_is_its_senders_alone() -> None:
    kept = Kept(2)
    kept.send("a1")
    assert kept.photos.find("a1", "b") is None
    kept.photos.forget("a1")
    kept.photos.forget("a1")
    assert kept.names == []
