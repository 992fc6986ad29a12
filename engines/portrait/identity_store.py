"""Enrolled identities kept on disk, so that a photo is prepared once and not once a call.

One npz file (never pickle) per profile, photo and enrolment version, written beside its place and
renamed into it: a reader sees a whole file or none.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from engines.types import FRAME_SIZE, KEYPOINTS, MOTION_WIDTH, Identity

_log = logging.getLogger(__name__)
_FIELDS = {  # name: dtype and shape
    "canonical": (np.float32, (KEYPOINTS, 3)),
    "source": (np.float32, (MOTION_WIDTH,)),
    "crop": (np.uint8, (FRAME_SIZE, FRAME_SIZE, 3)),
}
_TABLE = "table."


class IdentityStore:
    """Identities in `directory` (made when first written to).

    `version` is that of the enrolment: what another version wrote is never read. Safe to share
    between threads and processes; the last writer of a key wins.
    """

    def __init__(self, directory: Path, version: int) -> None:
        self._directory = directory
        self._version = version

    def path(self, profile: str, digest: str) -> Path:
        """Where the identity of a photo lies, whether it exists or not."""
        if not re.fullmatch(r"[0-9a-f]{16,128}", digest) or not re.fullmatch(r"[a-z0-9_]+", profile):
            raise ValueError(f"No name for a cached identity: profile {profile!r}, digest {digest!r}.")
        return self._directory / f"{profile}-v{self._version}-{digest}.npz"

    def load(self, profile: str, digest: str) -> Identity | None:
        """The identity, or None where there is none or its file is damaged (which is then removed)."""
        path = self.path(profile, digest)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            return self._discard(path, str(error))
        for name, (dtype, shape) in _FIELDS.items():
            if name not in arrays or arrays[name].dtype != dtype or arrays[name].shape != shape:
                return self._discard(path, f"{name} is missing or has another shape")
        tables = {name.removeprefix(_TABLE): array for name, array in arrays.items() if name.startswith(_TABLE)}
        return Identity(profile, digest, arrays["canonical"], arrays["source"], arrays["crop"], tables)

    def save(self, identity: Identity) -> Path:
        """Write the identity; raises OSError where the directory cannot be written to."""
        path = self.path(identity.profile, identity.digest)
        arrays = {name: getattr(identity, name) for name in _FIELDS}
        arrays |= {_TABLE + name: np.asarray(table) for name, table in identity.tables.items()}
        self._directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._directory, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    def enrolled(self, profile: str, digest: str, enrol: Callable[[], Identity]) -> Identity:
        """The cached identity, or the one `enrol` makes, which is then cached if the disk allows it."""
        identity = self.load(profile, digest)
        if identity is None:
            identity = enrol()
            try:
                self.save(identity)
            except OSError as error:
                _log.warning("identity not cached in %s: %s", self._directory, error)
        return identity

    @staticmethod
    def _discard(path: Path, why: str) -> None:
        _log.warning("cached identity %s is damaged (%s) and will be made again", path.name, why)
        with suppress(OSError):  # where it cannot be removed it is refused again the next time
            path.unlink()
