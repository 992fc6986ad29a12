"""A window sampled step by step, behind the contract of a window: for more steps than a graph unrolls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from engines.runtime.base import Array, Engine, TensorSpec, fact
from engines.types import WeightsError

DONE = 1000  # the step after the last
OWN = ("state", "step", "following")  # inputs of a step that a window does not have


class SteppedWindow:
    """Loops over an engine of one step; takes and gives what a window's engine does.

    `steps`: diffusion steps from the noisiest on; without them those the file states.
    """

    def __init__(self, engine: Engine, steps: Iterable[int] | None = None) -> None:
        missing = set(OWN) - {spec.name for spec in engine.inputs}
        if missing:
            raise WeightsError(f"{engine.name} is no sampler step: it has no input '{min(missing)}'")
        self._engine = engine
        self.name, self.runtime = engine.name, engine.runtime
        self.metadata: Mapping[str, str] = engine.metadata
        self.inputs = tuple(spec for spec in engine.inputs if spec.name not in OWN)
        (following,) = engine.outputs
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("motion", following.dtype, following.shape),)
        chosen = list(steps if steps is not None else fact(engine.metadata, "timesteps") or ())
        if not chosen:
            raise WeightsError(f"{engine.name} does not state its diffusion steps; name them")
        self._pairs = [
            (np.array([step]), np.array([following]))
            for step, following in zip(chosen, [*chosen[1:], DONE], strict=True)
        ]

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        noise = arrays.get("noise")
        state = np.empty(0, np.float32) if noise is None else noise.copy()  # a missing input is named by the engine
        ones = np.ones_like(arrays["temperature"]) if "temperature" in arrays else None
        for number, (step, following) in enumerate(self._pairs):
            if number and ones is not None:
                arrays["temperature"] = ones
            target = None if number == 0 else {"next": state}
            state = self._engine.run(target, **arrays, state=state, step=step, following=following)["next"]
        if out is None or "motion" not in out:
            return {"motion": state}
        np.copyto(out["motion"], state)
        return {"motion": out["motion"]}

    def hold(self, **tables: Array) -> None:
        self._engine.hold(**tables)

    def put(self, row: int, **rows: Array) -> None:
        self._engine.put(row, **rows)

    @property
    def unprepared(self) -> int:
        return self._engine.unprepared

    def warm(self, batches: Iterable[int], **sizes: int) -> None:
        self._engine.warm(batches, **sizes)

    def close(self) -> None:
        self._engine.close()
