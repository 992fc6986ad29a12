"""Sent photos in a folder, or wherever a URL that fsspec knows points: what outlives the process that took them."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SUFFIX = ".photo"


class Photos:
    """One file a photo: a line of JSON that says whose it is and until when, then the photo's own bytes. Blocks."""

    def __init__(self, url: str, keep: float) -> None:
        import fsspec

        self._files: Any
        self._files, self._folder = fsspec.core.url_to_fs(url)
        self._keep = keep
        self._files.makedirs(self._folder, exist_ok=True)

    def put(self, name: str, owner: str, photo: bytes) -> None:
        """Keep one for `keep` seconds; the same one again keeps its time."""
        if self._read(name) is None:
            head = {"owner": owner, "until": time.time() + self._keep}
            self._files.pipe_file(self._path(name), json.dumps(head).encode() + b"\n" + photo)

    def find(self, name: str, owner: str) -> bytes | None:
        found = self._read(name)
        return found[1] if found is not None and found[0] == owner else None

    def remove(self, name: str) -> None:
        if NAME.fullmatch(name):
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def sweep(self) -> None:
        """Delete those whose time is over."""
        for path in self._files.ls(self._folder, detail=False):
            name = path.rpartition("/")[2]
            if name.endswith(SUFFIX):
                self._read(name.removesuffix(SUFFIX))

    def _read(self, name: str) -> tuple[str, bytes] | None:
        """(owner, photo); one that is too old is deleted instead."""
        if not NAME.fullmatch(name):
            return None
        try:
            head, _, photo = self._files.cat_file(self._path(name)).partition(b"\n")
        except FileNotFoundError:
            return None
        about = json.loads(head)
        if about["until"] < time.time():
            self.remove(name)
            return None
        return about["owner"], photo

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}{SUFFIX}"
