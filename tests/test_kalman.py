"""The published smoothing against the numbers of the original."""

import numpy as np
import pytest

from engines.published.kalman import filtered, smoothed
from tests.golden import assert_close, golden


def channels() -> list[str]:
    return [name.removesuffix("_in") for name in golden("kalman") if name.endswith("_in")]


@pytest.mark.parametrize("name", channels())
def test_whole_clip(name: str) -> None:
    data = golden("kalman")
    assert_close(smoothed(data[f"{name}_in"]), data[f"{name}_out"], 1e-5)


@pytest.mark.parametrize("frames", [2, 5])
def test_first_frames(frames: int) -> None:
    data = golden("kalman")
    values = data["t_in"][:frames]
    assert_close(smoothed(values), data[f"t_first{frames}_out"], 1e-5)
    assert_close(filtered(values), data[f"t_first{frames}_filtered"], 1e-5)


def test_one_frame_passes_unchanged() -> None:
    values = np.array([[1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(smoothed(values), values)


def test_a_step_is_eased_but_reached() -> None:
    step = np.repeat(np.array([[0.0], [1.0]], np.float32), 20, axis=0)
    result = smoothed(step)
    assert (np.diff(result[:, 0]) >= 0).all()
    assert 0 < result[19, 0] < result[20, 0] < 1
    assert result[[0, -1], 0] == pytest.approx([0, 1], abs=1e-6)
