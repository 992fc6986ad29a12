"""Where the published weights lie on disk, who published them and under which terms.

One folder holds them in the layout of KDTalker's README, beside a record of every file's size and SHA-256 from the
day it came; a file that differs from its record is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.types import WeightsError

RECORD = "weights.json"
INSTALL = "run `pip install -e '.[kdtalker]'` in the project's environment"
FETCH = "run `kdtalker weights` to fetch them"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes some of the files: `repository` on the hub, or "" for those that come from elsewhere."""

    name: str
    repository: str
    licence: str
    terms: str


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One published file. `places`: where it lies in the folders people have, the published layout first."""

    name: str
    publisher: Publisher
    places: tuple[str, ...]

    def find(self, folder: Path) -> Path | None:
        return next((folder / place for place in self.places if (folder / place).is_file()), None)


KDTALKER = Publisher(
    "KDTalker",
    "ChaolongYang/KDTalker",
    "CC BY-NC 4.0: no commercial use",
    "https://creativecommons.org/licenses/by-nc/4.0/",
)
WAV2LIP = Publisher(
    "Wav2Lip, as published with KDTalker",
    "ChaolongYang/KDTalker",
    "research and other non-commercial use only, because it was trained on LRS2",
    "https://github.com/Rudrabha/Wav2Lip",
)
LIVEPORTRAIT = Publisher("LivePortrait", "KwaiVGI/LivePortrait", "MIT", "https://huggingface.co/KwaiVGI/LivePortrait")
KDTALKER_CODE = Publisher(
    "KDTalker's code repository",
    "",
    "CC BY-NC 4.0: no commercial use",
    "https://github.com/chaolongy/KDTalker",
)


def _liveportrait(folder: str, name: str) -> WeightsFile:
    roots = ("pretrained_weights/liveportrait/", "liveportrait/", "")
    return WeightsFile(name, LIVEPORTRAIT, (*(f"{root}{folder}/{name}" for root in roots), name))


NORM = WeightsFile("norm.npz", KDTALKER_CODE, ("dataset_process/norm.npz", "norm.npz"))
FILES = (
    WeightsFile("KDTalker.pth", KDTALKER, ("ckpts/KDTalker.pth", "KDTalker.pth")),
    WeightsFile("wav2lip.pth", WAV2LIP, ("ckpts/wav2lip.pth", "wav2lip.pth")),
    _liveportrait("base_models", "appearance_feature_extractor.pth"),
    _liveportrait("base_models", "motion_extractor.pth"),
    _liveportrait("base_models", "warping_module.pth"),
    _liveportrait("base_models", "spade_generator.pth"),
    _liveportrait("retargeting_models", "stitching_retargeting_module.pth"),
    NORM,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is recorded of a file: `origin` is a repository with its commit, an address or a folder."""

    size: int
    sha256: str
    origin: str


def weights_folder(cache: Path) -> Path:
    """Where fetched weights lie in the cache folder of the program."""
    return cache / "weights"


class WeightsFolder:
    """The folder in which fetched weights are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: WeightsFile) -> Path:
        return self.folder / file.places[0]

    def record(self) -> dict[str, Entry]:
        """Entries by file name; a record that cannot be read counts as none."""
        try:
            content = json.loads((self.folder / RECORD).read_text())
            return {name: Entry(**entry) for name, entry in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def intact(self, file: WeightsFile) -> bool:
        """Whether the file is there and is what was recorded."""
        entry, path = self.record().get(file.name), self.path(file)
        return (
            entry is not None and path.is_file() and path.stat().st_size == entry.size and sha256(path) == entry.sha256
        )

    def add(self, file: WeightsFile, source: Path, origin: str, *, move: bool = False) -> Entry:
        """Put a checked file in its place (moved, linked or copied) and record it."""
        entry = Entry(source.stat().st_size, sha256(source), origin)
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        if move:
            shutil.move(source, partial)
        else:
            _link_or_copy(source, partial)
        partial.replace(path)
        entries = self.record() | {file.name: entry}
        content = {"files": {name: asdict(value) for name, value in sorted(entries.items())}}
        draft = self.folder / f".{RECORD}.partial"
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(self.folder / RECORD)
        return entry

    def checked(self) -> dict[str, Path]:
        """Every file by name, each compared with its record; raises WeightsError where one is missing or changed."""
        missing = [file.name for file in FILES if not self.path(file).is_file()]
        if len(missing) == len(FILES):
            raise WeightsError(f"The published weights are not on this machine; {FETCH}.")
        if missing:
            raise WeightsError(f"Some of the published weights are missing ({', '.join(missing)}); {FETCH}.")
        changed = [file.name for file in FILES if not self.intact(file)]
        if changed:
            raise WeightsError(
                f"Not what was fetched (size or checksum differ): {', '.join(changed)} in {self.folder}; "
                "run `kdtalker weights` to fetch them again."
            )
        return {file.name: self.path(file) for file in FILES}


def find_in(folders: Sequence[Path]) -> dict[str, Path]:
    """Published files by name in folders people have; raises WeightsError for a folder that is none."""
    for folder in folders:
        if not folder.is_dir():
            raise WeightsError(f"{folder} is no folder; give the one that holds ckpts/ or pretrained_weights/.")
    found = {file.name: next((path for f in folders if (path := file.find(f))), None) for file in FILES}
    return {name: path for name, path in found.items() if path is not None}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def open_model(weights: str | None, cache: Path, device: str = "auto", precision: str = "float32") -> Any:
    """The published networks, ready: `engines.networks.model.PublishedModel`.

    `weights`: a folder in a published layout, ``random:N`` for random weights (the whole path without the files, for
    development: the picture is noise), or None for those that `kdtalker weights` put into the folder `cache`.
    """
    kept = WeightsFolder(weights_folder(cache))
    if weights is None:
        files = kept.checked()
    elif not weights.startswith("random:"):
        files = find_in([Path(weights)])
        if NORM.name not in files and kept.intact(NORM):
            files[NORM.name] = kept.path(NORM)
        missing = [file.places[0] for file in FILES if file.name not in files]
        if missing:
            raise WeightsError(f"{weights} lacks {', '.join(missing)}; `kdtalker weights` fetches them.")
    try:
        from engines.networks.model import load_model, random_model
    except ImportError as error:
        raise WeightsError(
            f"The published profile needs PyTorch, which is not installed ({error}); {INSTALL}."
        ) from error
    if weights is None or not weights.startswith("random:"):
        return load_model(files, device, precision)
    seed = weights.removeprefix("random:")
    if not seed.isdecimal():
        raise WeightsError(f"'{weights}' names no seed; write random:0, random:1, ...")
    return random_model(int(seed), device, precision)
