"""Reference numbers of the original networks; KDTALKER_GOLDEN names another set in the same layout."""

import json
import os
from pathlib import Path

import numpy as np

GOLDEN = Path(os.environ.get("KDTALKER_GOLDEN") or Path(__file__).parent / "data" / "golden")


def golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of `<name>.npz`."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def golden_seed() -> int:
    return int(json.loads((GOLDEN / "seed.json").read_text())["seed"])
