"""The sign that says: an AI avatar."""

from __future__ import annotations

import numpy as np
import pytest

from engines.mark import marked


@pytest.mark.parametrize("shape", [(512, 512), (256, 256), (384, 768), (768, 576)])
def test_the_sign_is_in_its_corner_and_nowhere_else(shape: tuple[int, int]) -> None:
    height, width = shape
    picture = np.full((height, width, 3), 128, np.uint8)
    with_sign = marked(picture)
    changed = (with_sign != 128).any(-1)
    rows, columns = np.nonzero(changed)
    side = min(shape)
    assert rows.min() > 0
    assert rows.max() < side / 9
    assert columns.min() > width - side / 3
    assert columns.max() < width - 1
    assert with_sign.max() > 200, "light words"
    assert with_sign.min() < 80, "on dark ground"
    assert (picture == 128).all(), "the picture itself is as it was"


def test_it_can_be_read_on_white_and_on_black() -> None:
    for grey in (0, 255):
        sign = marked(np.full((512, 512, 3), grey, np.uint8))[20:48, 400:490].astype(int)
        assert np.percentile(sign, 99) - np.percentile(sign, 40) > 90
