"""What the tests of adapters share. They run where the frameworks are: `make adapters`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.performance import Performance, open_performance

IRIS = Path(__file__).resolve().parents[2] / "engines" / "avatars" / "iris.png"


@pytest.fixture
def performance() -> Performance:
    return open_performance(IRIS.read_bytes())


def tone(seconds: float, rate: int) -> bytes:
    """PCM16 mono."""
    return np.round(9000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.int16).tobytes()
