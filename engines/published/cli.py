"""`kdtalker weights`: fetch, take over or check the files of the published profile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.cache import cache_folder
from engines.published import hub
from engines.published.weights_files import FILES, NORM, Publisher, WeightsFile, WeightsFolder, find_in, weights_folder
from engines.types import KDTalkerError, WeightsError

Ask = Callable[[str], bool]


def weights(argv: list[str]) -> int:
    """Fetch the published weights from their publishers, or take them from folders you have.

    Files already here and unchanged are kept; a download that broke off goes on where it stopped.
    """
    parser = argparse.ArgumentParser(prog="kdtalker weights", description=weights.__doc__)
    parser.add_argument(
        "--accept-licence", action="store_true", help="accept every licence shown; without it you are asked"
    )
    parser.add_argument(
        "--from",
        dest="folders",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder laid out as KDTalker's or LivePortrait's README says (may be given twice); "
        "only norm.npz is then fetched",
    )
    parser.add_argument("--norm", type=Path, metavar="FILE", help="norm.npz from KDTalker's code repository")
    parser.add_argument("--check", action="store_true", help="only compare what is here with its record")
    options = parser.parse_args(argv)
    console = Console(soft_wrap=True)
    folder = WeightsFolder(weights_folder(cache_folder()))
    if options.check:
        folder.checked()
        console.print(f"All {len(FILES)} files in {folder.folder} are what was fetched.")
        return 0
    ask = (lambda question: True) if options.accept_licence else _ask
    install(folder, console, ask, folders=options.folders, norm=options.norm)
    console.print(f"The published weights are ready in {folder.folder}.")
    return 0


def install(
    folder: WeightsFolder,
    console: Console,
    ask: Ask,
    *,
    folders: list[Path],
    norm: Path | None,
    **addresses: Any,
) -> None:
    """Bring every file into `folder`: from `folders`, from `norm`, else from its publisher (`hub.fetch`'s addresses).

    Every file is loaded strictly before it is put in its place. Raises KDTalkerError at the first that cannot be had.
    """
    here = find_in(folders) | ({NORM.name: norm} if norm else {})
    kept = [file for file in FILES if file.name not in here and folder.intact(file)]
    wanted = [file for file in FILES if file.name not in here and file not in kept]
    lacking = [file.name for file in wanted if file is not NORM]
    if folders and lacking:
        raise WeightsError(
            f"Not found in {', '.join(map(str, folders))}: {', '.join(lacking)}; give their folder with a further "
            "`--from DIR`, or run `kdtalker weights` without it to fetch them."
        )
    _agree(list(dict.fromkeys(file.publisher for file in wanted)), console, ask)
    for file in FILES:
        if file in kept:
            console.print(f"{file.name}: already here")
        elif file.name in here:
            _add(folder, file, here[file.name], str(here[file.name].resolve()), console, move=False)
        else:
            console.print(f"{file.name}: fetching from {file.publisher.name}")
            path, origin = hub.fetch(file, folder, **addresses)
            _add(folder, file, path, origin, console, move=True)
    hub.clean(folder)


def _add(folder: WeightsFolder, file: WeightsFile, path: Path, origin: str, console: Console, *, move: bool) -> None:
    before = folder.record().get(file.name)
    try:
        _load_once(file, path)
    except WeightsError:
        if move:  # what arrived is no good, and must not be continued by the next call
            path.unlink(missing_ok=True)
        raise
    entry = folder.add(file, path, origin, move=move)
    console.print(f"{file.name}: {entry.size / 1e6:.1f} MB, SHA-256 {entry.sha256}")
    if before is not None and before.sha256 != entry.sha256:
        console.print(f"{file.name}: differs from the one recorded before, which came from {before.origin}")


def _load_once(file: WeightsFile, path: Path) -> None:
    """Load the file as it will be loaded; raises WeightsError where that fails."""
    try:
        from engines.networks.checkpoints import CHECKPOINTS, load_checkpoint, load_normalisation
    except ImportError as error:
        raise WeightsError(f"Checking the files needs PyTorch, which is not installed ({error}).") from error
    if file is NORM:
        load_normalisation(path)
    else:
        load_checkpoint(next(checkpoint for checkpoint in CHECKPOINTS if checkpoint.file == file.name), path)


def _agree(publishers: list[Publisher], console: Console, ask: Ask) -> None:
    for publisher in publishers:
        console.print(f"{publisher.name}: {publisher.licence}\n  {publisher.terms}")
    for publisher in publishers:
        if not ask(f"Do you accept the licence of {publisher.name}?"):
            raise KDTalkerError(
                f"Nothing was fetched: the licence of {publisher.name} was not accepted; "
                "`--accept-licence` accepts all those shown without asking."
            )


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
