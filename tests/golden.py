"""Reference numbers of the original networks; KDTALKER_GOLDEN names another set in the same layout."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
GOLDEN = Path(os.environ.get("KDTALKER_GOLDEN") or DATA / "golden")
MANIFESTS = DATA / "manifests"


def golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of `<name>.npz`."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def golden_seed() -> int:
    return int(json.loads((GOLDEN / "seed.json").read_text())["seed"])


def assert_close(actual: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Largest difference at most `bound` times the largest magnitude expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(np.float64) - expected).max() <= bound * np.abs(expected).max()


def assert_sampled(actual: np.ndarray, data: Mapping[str, np.ndarray], name: str, bound: float) -> None:
    """`actual` against a strided sample and the statistics of the full tensor (mean, deviation, largest magnitude)."""
    assert actual.shape == tuple(data[f"{name}_shape"])
    sample = actual[tuple(slice(None, None, int(step)) for step in data[f"{name}_strides"])]
    largest = float(data[f"{name}_stats"][2])
    assert sample.shape == data[name].shape
    assert np.abs(sample.astype(np.float64) - data[name]).max() <= bound * largest
    full = actual.astype(np.float64)
    stats = [full.mean(), full.std(), np.abs(full).max()]
    np.testing.assert_allclose(stats, data[f"{name}_stats"], atol=bound * largest)
