"""Random numbers that belong to a place and not to an order: counter-based, so that any division into hops agrees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SWAY, EYES, GAZE, NODS = 0x11FE, 0x11FF, 0x1200, 0x1201  # second words of the Philox key, the sampler's being 0


def normals(seed: int, stream: int, index: int, count: int) -> NDArray[np.float64]:
    """Unit normal numbers (count,) that belong to (`seed`, `stream`, `index`); `index` is at least -2**32."""
    bits = np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index + 2**32])
    return np.random.Generator(bits).standard_normal(count)
