"""Fetching published weights from their publishers; imported only by `kdtalker weights`."""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from engines.published.weights_files import INSTALL, NORM, WeightsFile, WeightsFolder, sha256
from engines.types import KDTalkerError, WeightsError

# norm.npz is published with the code, not with the weights.
NORM_ADDRESS = "https://raw.githubusercontent.com/chaolongy/KDTalker/f78bf4c/dataset_process/norm.npz"
NORM_LIMIT = 1_000_000  # bytes; the file has 5.6 thousand
TIMEOUT = 30  # seconds without an answer
AGAIN = "run `kdtalker weights` again, it goes on where it stopped"


def fetch(
    file: WeightsFile, folder: WeightsFolder, *, endpoint: str | None = None, norm_address: str = NORM_ADDRESS
) -> tuple[Path, str]:
    """Download a file into a corner of the folder -> its path there and its origin, to be checked and added.

    A download that breaks off is kept and continued by the next call. `endpoint`: another hub than the one
    huggingface_hub is set to. Raises KDTalkerError with what to do when nothing comes.
    """
    corner = folder.folder / ".download"
    corner.mkdir(parents=True, exist_ok=True)
    if file is NORM:
        return _fetch_address(norm_address, corner / file.name), norm_address
    return _fetch_repository(file, corner, endpoint)


def clean(folder: WeightsFolder) -> None:
    """Remove what downloads left, once every file is in its place."""
    shutil.rmtree(folder.folder / ".download", ignore_errors=True)


def _fetch_repository(file: WeightsFile, corner: Path, endpoint: str | None) -> tuple[Path, str]:
    hub = _library()
    repository = file.publisher.repository
    try:
        url, metadata = _locate(hub, file, endpoint)
        # The library's own downloads start anew in every process; what it does within one can be given a beginning.
        path = corner / f"{file.name}.{metadata.commit_hash}"
        with path.open("ab") as partial:
            if metadata.size is not None and partial.tell() > metadata.size:
                partial.truncate(0)
            hub.file_download.http_get(
                url,
                partial,
                resume_size=partial.tell(),
                headers=hub.utils.build_hf_headers(),
                expected_size=metadata.size,
                displayed_filename=file.name,
            )
    except KDTalkerError:
        raise
    except Exception as error:  # the transport below changes with the library's version, and its errors with it
        raise KDTalkerError(
            f"{file.name} could not be fetched from {repository} ({_first_line(error)}); check the network and {AGAIN}."
        ) from error
    # Large files are named by their SHA-256, so the publisher vouches for every bit.
    if re.fullmatch(r"[0-9a-f]{64}", metadata.etag or "") and sha256(path) != metadata.etag:
        path.unlink()
        raise WeightsError(f"{file.name} arrived damaged from {repository}; {AGAIN}.")
    return path, f"{repository}@{metadata.commit_hash}"


def _locate(hub: Any, file: WeightsFile, endpoint: str | None) -> tuple[str, Any]:
    """The file's address at the repository's present commit, and the hub's metadata of it."""
    repository = file.publisher.repository
    for place in file.places:
        try:
            newest = hub.hf_hub_url(repository, place, endpoint=endpoint)
            metadata = hub.get_hf_file_metadata(newest, timeout=TIMEOUT)
            return hub.hf_hub_url(repository, place, revision=metadata.commit_hash, endpoint=endpoint), metadata
        except hub.errors.RepositoryNotFoundError:
            raise
        except hub.errors.HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
    raise WeightsError(
        f"{repository} holds {file.name} in none of the known places ({', '.join(file.places)}); fetch it by hand and "
        "give its folder with `kdtalker weights --from DIR`."
    )


def _fetch_address(address: str, path: Path) -> Path:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content = answer.read(NORM_LIMIT)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise KDTalkerError(
            f"{path.name} could not be fetched from {address} ({error}); check the network and run `kdtalker weights` "
            "again, or give the file with `--norm FILE`."
        ) from error
    path.write_bytes(content)
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise KDTalkerError(
            f"Fetching needs huggingface_hub, which is not installed ({error}); {INSTALL}, or give a folder "
            " that holds the files with `--from DIR`."
        ) from error
    return huggingface_hub
