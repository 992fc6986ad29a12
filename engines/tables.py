"""The embedded profile's tables: archives of arrays beside its networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.types import WeightsError


@contextmanager
def tables(
    file: str, what: str, folder: Path | None = None, cure: str = "reinstall the package"
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Arrays by name of `file` in `folder`, default: the shipped one.

    Raises WeightsError, which calls it `what` and ends in the `cure`, when it is missing or what is looked up in the
    block is not in it.
    """
    resource = (folder or files("engines") / "weights" / "embedded") / file
    try:
        with as_file(resource) as path, np.load(path) as archive:
            yield archive
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"The {what} {resource} cannot be read ({error}); {cure}.") from error


def own(folder: Path | None, file: str) -> Path | None:
    """`folder` where it has a `file` of its own, else None: the shipped one."""
    return folder if folder is not None and (folder / file).exists() else None
