"""From what a profile's denoiser predicts to the motion of one photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engines import motion
from engines.life import LifeModel, LifeState
from engines.motion import Limits, Normalisation
from engines.types import FloatArray, Identity


class Placing(Protocol):
    """How a profile puts motion on a photo. Keeps no caller's state: it comes in with a call and leaves with it."""

    @property
    def normalisation(self) -> Normalisation: ...

    def begin(self, seed: int) -> Any:
        """State of one call before its first frame."""
        ...

    def rest(self, identity: Identity) -> FloatArray:
        """The photo's own motion (70,) as the denoiser would have predicted it, in physical units."""
        ...

    def place(self, source: FloatArray, clip: FloatArray, levels: FloatArray, state: Any) -> tuple[FloatArray, Any]:
        """Predicted motion (N, 70) in physical units, with loudness (N,), on the photo of motion `source` (70,).

        Returns what the renderer takes, (N, 70), and the state that follows.
        """
        ...

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        """Motion (N, 70) that was placed on the photo of motion `made_on` (70,), for the photo of motion `source`."""
        ...


@dataclass(frozen=True, slots=True)
class RelativePlacing:
    """The embedded profile: lips from the denoiser, head and lids from the life model, all relative to the photo."""

    normalisation: Normalisation
    life: LifeModel
    limits: Limits

    def begin(self, seed: int) -> LifeState:
        return self.life.begin(seed)

    def rest(self, identity: Identity) -> FloatArray:
        still = np.zeros(3, np.float32)
        return motion.pack(1.0, still, still, motion.expression(identity.source))

    def place(
        self, source: FloatArray, clip: FloatArray, levels: FloatArray, state: LifeState
    ) -> tuple[FloatArray, LifeState]:
        poses, lids, state = self.life.advance(state, levels)
        return motion.onto_photo(source, self.life.apply(clip, poses, lids), self.limits), state

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        change = placed.copy()
        change[:, motion.SCALE] /= made_on[motion.SCALE]
        for part in (motion.ANGLES, motion.TRANSLATION):
            change[:, part] -= made_on[part]
        return motion.onto_photo(source, change, self.limits)


@dataclass(frozen=True, slots=True)
class PublishedPlacing:
    """The published profile: motion as predicted (absolute), or as change from the first frame (`relative`)."""

    normalisation: Normalisation
    relative: bool = False

    def begin(self, seed: int) -> FloatArray | None:
        return None

    def rest(self, identity: Identity) -> FloatArray:
        return identity.source

    def place(
        self, source: FloatArray, clip: FloatArray, levels: FloatArray, state: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        first = clip[0] if state is None else state
        return (change_from(first, source, clip) if self.relative else as_predicted(source, clip)), first

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        return self.place(source, placed, np.zeros(len(placed), np.float32), None)[0]


def as_predicted(source: FloatArray, clip: FloatArray) -> FloatArray:
    """Motion (N, 70) on the photo of motion `source` (70,): its own scale is kept, depth is ignored."""
    placed = clip.copy()
    placed[:, motion.SCALE] = source[motion.SCALE]
    placed[:, motion.TRANSLATION.stop - 1] = 0
    return placed


def change_from(first: FloatArray, source: FloatArray, clip: FloatArray) -> FloatArray:
    """Motion (N, 70) as change from `first` (70,), on the photo of motion `source` (70,)."""
    turn = motion.rotation(clip[:, motion.ANGLES]) @ motion.rotation(first[motion.ANGLES]).T
    placed = (source + (clip - first)).astype(np.float32)
    placed[:, motion.SCALE] = source[motion.SCALE] * clip[:, motion.SCALE] / first[motion.SCALE]
    placed[:, motion.ANGLES] = motion.angles_of(turn @ motion.rotation(source[motion.ANGLES]))
    placed[:, motion.TRANSLATION.stop - 1] = 0
    return placed
