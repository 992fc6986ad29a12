"""Random inputs of exported graphs, the same on every machine for the same seed; plausible by the inputs' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from engines.profile import EMBEDDED
from engines.runtime.base import BATCH, IDENTITIES, Array, TensorSpec

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
FRAMES = "frames"  # the free size of a window
SIZES = {IDENTITIES: 2, FRAMES: EMBEDDED.window.length}


def _normal(deviation: float, mean: float = 0.0) -> Draw:
    return lambda generator, shape: (mean + deviation * generator.standard_normal(shape)).astype(np.float32)


def _settled(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The first third of the frames is settled, in every row."""
    return np.broadcast_to(np.arange(shape[1]) < shape[1] // 3, shape).astype(np.float32)


def _number(value: int) -> Draw:
    return lambda _, shape: np.full(shape, value, np.int64)


RULES: Mapping[str, Draw] = {
    "mel": lambda generator, shape: generator.uniform(-4, 4, shape).astype(np.float32),
    "mask": _settled,
    "guidance": _normal(0.2, 1.5),
    "temperature": _normal(0.1, 0.8),
    "keypoints": _normal(0.3),
    "source": _normal(0.3),
    "heatmaps": lambda generator, shape: generator.uniform(0, 1, shape).astype(np.float32),
    "ratios": lambda generator, shape: generator.uniform(0, 0.5, shape).astype(np.float32),
    "rows": lambda _, shape: np.arange(shape[0], dtype=np.int64) % SIZES[IDENTITIES],
    "step": _number(500),
    "following": _number(400),
}


def draw(inputs: Sequence[TensorSpec], batch: int, seed: int = 0) -> dict[str, Array]:
    """One batch of inputs. Every input has its own generator, so that the order of inputs does not matter."""
    made = {}
    for spec in inputs:
        shape = spec.sized({**SIZES, BATCH: batch})
        generator = np.random.default_rng([seed, batch, *spec.name.encode()])
        if spec.dtype == np.uint8:
            made[spec.name] = generator.integers(0, 256, shape, np.uint8)
        else:
            made[spec.name] = RULES.get(spec.name, _normal(1.0))(generator, shape)
    return made
