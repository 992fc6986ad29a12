"""From what a profile's denoiser predicts to the motion of one photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines import motion
from engines.controls import AMPLITUDES, DEFAULT, EVERYTHING, Effect, Offer, steady
from engines.gaze import Gaze
from engines.life import LifeModel, LifeState
from engines.motion import Limits, Normalisation
from engines.types import KEYPOINTS, FloatArray, Identity

HEAD = slice(0, motion.TRANSLATION.stop)
# Keypoints of the lips in the published motion extractor's order (LivePortrait, `animation_region` "lip").
PUBLISHED_LIPS = np.isin(np.arange(KEYPOINTS), (6, 12, 14, 17, 19, 20))


class Placing(Protocol):
    """How a profile puts motion on a photo. Keeps no caller's state: it comes in with a call and leaves with it."""

    @property
    def normalisation(self) -> Normalisation: ...

    @property
    def offer(self) -> Offer:
        """Which controls there are."""
        ...

    def begin(self, seed: int) -> Any:
        """State of one call before its first frame."""
        ...

    def rest(self, identity: Identity) -> FloatArray:
        """The photo's own motion (70,) as the denoiser would have predicted it, in physical units."""
        ...

    def place(
        self,
        source: FloatArray,
        clip: FloatArray,
        levels: FloatArray,
        effect: Effect,
        state: Any,
        heard: FloatArray | None = None,
    ) -> tuple[FloatArray, Any]:
        """Predicted motion (N, 70) in physical units, with loudness (N,), on the photo of motion `source` (70,).

        `effect`: what the controls do to each of the N frames. `heard` (N,): loudness of the person the avatar listens
        to, default: silence. Returns what the renderer takes, (N, 70), and the state that follows.
        """
        ...

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        """Motion (N, 70) that was placed on the photo of motion `made_on` (70,), for the photo of motion `source`."""
        ...


@dataclass(frozen=True, slots=True)
class RelativePlacing:
    """The embedded profile: lips from the denoiser, head, brows and eyes from the life model, relative to the photo.

    `mouth` bool (21,): keypoints of lips and jaw. `emotions` f32 (E, 63): see `engines.emotions`.
    """

    normalisation: Normalisation
    life: LifeModel
    limits: Limits
    mouth: NDArray[np.bool_]
    emotions: FloatArray
    gaze: Gaze
    offer: Offer = EVERYTHING

    def begin(self, seed: int) -> LifeState:
        return self.life.begin(seed)

    def rest(self, identity: Identity) -> FloatArray:
        still = np.zeros(3, np.float32)
        return motion.pack(1.0, still, still, motion.expression(identity.source))

    def place(
        self,
        source: FloatArray,
        clip: FloatArray,
        levels: FloatArray,
        effect: Effect,
        state: LifeState,
        heard: FloatArray | None = None,
    ) -> tuple[FloatArray, LifeState]:
        moves, state = self.life.advance(state, levels, heard)
        # Blinks keep their size: eyes that only half close would look ill.
        moves = replace(
            moves,
            pose=moves.pose * effect.pose[:, None],
            brows=moves.brows * effect.expression,
            gaze=moves.gaze * (1 - effect.gaze)[:, None],
        )
        alive = self.life.apply(amplified(clip, effect, self.mouth), moves)
        alive[:, motion.EXPRESSION] += effect.emotions @ self.emotions
        placed = motion.onto_photo(source, alive, self.limits)
        return self.gaze.held(source, placed, effect.gaze), state

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        change = placed.copy()
        change[:, motion.SCALE] /= made_on[motion.SCALE]
        for part in (motion.ANGLES, motion.TRANSLATION):
            change[:, part] -= made_on[part]
        return motion.onto_photo(source, change, self.limits)


@dataclass(frozen=True, slots=True)
class PublishedPlacing:
    """The published profile: motion as predicted (absolute), or as change from the first frame (`relative`).

    Amplitudes act on the difference from the photo's own motion.
    """

    normalisation: Normalisation
    relative: bool = False
    # Which way an emotion or a glance lies in the published expression space, nothing published says.
    offer: Offer = AMPLITUDES

    def begin(self, seed: int) -> FloatArray | None:
        return None

    def rest(self, identity: Identity) -> FloatArray:
        return identity.source

    def place(
        self,
        source: FloatArray,
        clip: FloatArray,
        levels: FloatArray,
        effect: Effect,
        state: FloatArray | None,
        heard: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray | None]:
        first = clip[0] if state is None else state
        placed = change_from(first, source, clip) if self.relative else as_predicted(source, clip)
        rest = as_predicted(source, source[None])
        # Written so that factors of 1 leave the prediction as it is, to the last bit.
        more = amplified(placed - rest, effect, PUBLISHED_LIPS) - (placed - rest)
        more[:, HEAD] = (effect.pose - 1)[:, None] * (placed - rest)[:, HEAD]
        return placed + more, first

    def transfer(self, source: FloatArray, placed: FloatArray, made_on: FloatArray) -> FloatArray:
        count = len(placed)
        return self.place(source, placed, np.zeros(count, np.float32), steady(DEFAULT, count), None)[0]


def amplified(change: FloatArray, effect: Effect, mouth: NDArray[np.bool_]) -> FloatArray:
    """Motion (N, 70) whose `exp` is a change from rest, with that change made larger or smaller."""
    larger = change.copy()
    gains = effect.expression[:, None] * np.where(np.repeat(mouth, 3), effect.mouth[:, None], 1)
    larger[:, motion.EXPRESSION] *= gains.astype(np.float32)
    return larger


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
