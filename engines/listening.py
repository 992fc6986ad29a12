"""What a listener's head does: nods and lifted brows where the other person leaves room for them.

Listeners answer at the ends of phrases: Ward and Tsukahara (Journal of Pragmatics 32, 2000) predict an answer when
the other person has spoken for at least 700 ms and lowers the voice, and none within 800 ms of the last one. Their
English speakers answered five to six times a minute, aloud; nods come beside those and oftener. The shapes of nods
and lifted brows are fitted to tracked people; when they come is a renewal process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engines.chance import NODS, normals
from engines.types import FloatArray

HEARD = 0.25  # loudness from which the other person speaks
SPOKEN = 18  # ticks of speech, 720 ms, after which an answer is due
PAUSE = (3, 12)  # ticks of quiet, 120 to 480 ms, in which it mostly comes
FORGOTTEN = 50  # ticks of quiet after which what was said needs no answer any more
APART = 30  # ticks between two answers at least
OPPORTUNITY, UNASKED = 0.05, 0.0008  # chance of an answer in a tick of such a pause, and of one of speech


@dataclass(frozen=True, slots=True)
class ListeningState:
    """`spoken`: ticks of the other person's speech since the last answer, `quiet`: ticks since they were last heard.
    `hazard` and `patience`: the sum of chances so far and the one at which the next answer comes. `nod`: ticks since
    the last answer began, `turns`: nods in it, `size`: of its nods, `lift`: of its lifted brows. `answers`: how many.
    """

    spoken: int = 0
    quiet: int = FORGOTTEN
    hazard: float = 0.0
    patience: float = 1.0
    nod: int = 10**6
    turns: int = 1
    size: float = 0.0
    lift: float = 0.0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class ListeningModel:
    """`nod` f32 (K, 7): change of the pose during one nod, physical units. `lift` f32 (J,): height of the brows
    while they are lifted, eye distances. Both begin and end at zero.
    """

    nod: FloatArray
    lift: FloatArray

    @property
    def longest(self) -> int:
        """Ticks after which an answer is over."""
        return max(3 * len(self.nod), len(self.lift), APART + 1)

    @property
    def still(self) -> FloatArray:
        return np.zeros(self.nod.shape[1], np.float32)

    def begin(self, seed: int) -> ListeningState:
        return ListeningState(patience=_patience(seed, 0))

    def step(
        self, state: ListeningState, seed: int, heard: float, speaking: float
    ) -> tuple[FloatArray, float, ListeningState]:
        """One tick: change of the pose (7,) and of the brows' height, and the state that follows.

        `heard`: loudness of the other person, `speaking`: how much the avatar itself has been speaking, 0 to 1.
        """
        if heard < HEARD and state.quiet >= FORGOTTEN and state.nod >= self.longest:
            return self.still, 0.0, state
        voice = heard >= HEARD
        spoken, quiet = state.spoken + voice, 0 if voice else state.quiet + 1
        if quiet >= FORGOTTEN:
            spoken = 0
        nod, hazard = state.nod + 1, state.hazard
        if nod > APART:
            due = PAUSE[0] <= quiet < PAUSE[1] and spoken >= SPOKEN
            hazard += (OPPORTUNITY if due else UNASKED * voice) * max(0.0, 1 - 2 * speaking)
        state = replace(state, spoken=spoken, quiet=quiet, nod=nod, hazard=hazard)
        if hazard >= state.patience:
            state = self._answer(state, seed)
        pose = self.still
        cycle, phase = divmod(state.nod, len(self.nod))
        if cycle < state.turns:
            pose = np.asarray(state.size * 0.7**cycle * self.nod[phase], np.float32)
        brows = state.lift * float(self.lift[state.nod]) if state.nod < len(self.lift) else 0.0
        return pose, brows, state

    def _answer(self, state: ListeningState, seed: int) -> ListeningState:
        answers = state.answers + 1
        size, again, lift = normals(seed, NODS, -answers, 3)
        return replace(
            state,
            spoken=0,
            hazard=0.0,
            patience=_patience(seed, answers),
            nod=0,
            turns=1 + (again > 0) + (again > 1.3),
            size=float(np.clip(np.exp(0.3 * size), 0.5, 1.6)),
            lift=float(np.clip(0.8 + 0.3 * lift, 0.8, 1.4)) if lift > 0 else 0.0,
            answers=answers,
        )


def _patience(seed: int, answers: int) -> float:
    """Exponentially distributed, as half the sum of two squared normals."""
    return float((normals(seed, NODS, answers, 2) ** 2).sum() / 2)
