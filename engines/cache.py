"""Where the program keeps what it would otherwise have to make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder KDTALKER_CACHE names, else ``kdtalker`` in the XDG cache directory."""
    named = os.environ.get("KDTALKER_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdtalker"
