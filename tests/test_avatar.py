"""The illustrated avatar is what its drawing program draws."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from training.avatar.__main__ import draw


def test_the_shipped_picture_is_what_the_program_draws() -> None:
    shipped = cv2.cvtColor(cv2.imread(str(Path("engines/avatars/iris.png"))), cv2.COLOR_BGR2RGB)
    difference = np.abs(draw().astype(int) - shipped.astype(int))
    # Other versions of OpenCV may round antialiased lines differently by a shade.
    assert difference.mean() < 0.2
    assert np.percentile(difference, 99.9) < 12
