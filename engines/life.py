"""What the sound does not decide: sway of the head, brows, blinks, gaze, and what a listener does.

Head and brows are a linear state-space model: a vector autoregression of head pose and brows, driven by innovations
that grow with the loudness of speech and with its stressed syllables, a slow drift of posture, and breath. Blinks and
saccades (`engines.eyes`) and a listener's nods (`engines.listening`) are renewal processes. All parameters come out of
``weights/embedded/life.npz``, fitted by ``kdtalker train life``. A frame is a pure function of the seed and of the
loudness so far.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.chance import SWAY, normals
from engines.eyes import EyesModel, EyesState
from engines.listening import ListeningModel, ListeningState
from engines.tables import tables
from engines.types import FloatArray

POSE = slice(0, 7)  # scale, angles, translation
LOUDNESS_COLUMNS = 5  # mel columns, the latest of a window: about 30 ms past the frame's begin
RISE = 0.3  # of loudness within `MEMORY` ticks: a stressed syllable
MEMORY = 6
STROKE = 3  # ticks from a stressed syllable to the head's stroke
ATTACK, RELEASE = 0.2, 0.02  # share of the way a tick: from idle to speaking, and back


@dataclass(frozen=True, slots=True)
class Temper:
    """Settings that are a matter of taste, not of data.

    `idle_sway`: share of the head's and brows' motion that is left while nobody speaks (the tracks hold almost no
    listening). `idle_blinks` a minute, and `idle_gaze`: share of the eyes' roaming, both while nobody speaks.
    `emphasis`: energy of the head's strokes on stressed syllables, times the tracked people's; other motion gives way.
    Theirs comes spread over half a second around the syllable, ours at one tick, and 1 is too little to be seen.
    """

    idle_sway: float = 0.6
    idle_blinks: float = 17.5
    idle_gaze: float = 0.8
    emphasis: float = 2.8


DEFAULT_TEMPER = Temper()


@dataclass(frozen=True, slots=True)
class Moves:
    """What life adds in H frames. `pose` f32 (H, 7): offsets in physical units. `brows` f32 (H,): height in eye
    distances. `gaze` f32 (H, 2): where the eyes look beside the viewer. `lids` f32 (H, L): blinks.
    """

    pose: FloatArray
    brows: FloatArray
    gaze: FloatArray
    lids: FloatArray


@dataclass(frozen=True, slots=True)
class LifeState:
    """What one call remembers. `sway` f64 (S,): of the state-space model. `speaking`: how much the avatar has been
    speaking, 0 to 1. `levels` f64 (MEMORY,): loudness of the latest ticks. `stressed`: ticks since a stressed syllable.
    """

    seed: int
    tick: int
    sway: NDArray[np.float64]
    speaking: float
    levels: NDArray[np.float64]
    stressed: int
    eyes: EyesState
    listening: ListeningState


@dataclass(frozen=True, slots=True)
class SwayModel:
    """Linear state-space model of M sources, S numbers of state, 7 + 1 numbers out.

    `transition` f64 (S, S), `sources` f64 (M, S), `readout` f64 (S, 8): rows times these give the next state, what
    noise adds to it, and the pose with the brows' height (physical units). `voiced` f64 (M,): 1 for sources that speech
    stirs. `energy` f64 (3,): variance of those in silence, what full loudness adds, and what a stroke adds.
    """

    transition: NDArray[np.float64]
    sources: NDArray[np.float64]
    readout: NDArray[np.float64]
    voiced: NDArray[np.float64]
    energy: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LifeModel:
    """All fitted parameters. `brows` i64 (N,): which of the 70 numbers lift the brows, `lifting` f32 (N,): by how much
    for one eye distance.
    """

    sway: SwayModel
    eyes: EyesModel
    listening: ListeningModel
    brows: NDArray[np.int64]
    lifting: FloatArray

    def begin(self, seed: int) -> LifeState:
        """A call begins in the photo's pose, with open eyes on the viewer."""
        still = np.zeros(len(self.sway.transition))
        memory = np.zeros(MEMORY)
        return LifeState(seed, 0, still, 0.0, memory, STROKE + 1, self.eyes.begin(seed), self.listening.begin(seed))

    def advance(
        self, state: LifeState, loudness: FloatArray, heard: FloatArray | None = None, temper: Temper = DEFAULT_TEMPER
    ) -> tuple[Moves, LifeState]:
        """The next H ticks. `loudness` f32 (H,) of the avatar's own speech (see `loudness`), `heard` f32 (H,) of the
        person it listens to, default: silence.
        """
        count, rows = len(loudness), np.clip(loudness, 0, 1)
        shapes = (count, POSE.stop), (count,), (count, 2), (count, len(self.eyes.lids))
        moves = Moves(*(np.zeros(shape, np.float32) for shape in shapes))
        others = np.zeros_like(rows) if heard is None else heard
        pace = temper.idle_blinks / self.eyes.speaking_blinks
        rest, loud, stroke = self.sway.energy
        yielding = _yielding(self.sway.energy, temper.emphasis)
        sway, speaking, levels, stressed = state.sway, state.speaking, state.levels, state.stressed
        eyes, listening = state.eyes, state.listening
        for row, (level, other) in enumerate(zip(rows, others, strict=True)):
            voice = min(1.0, 4 * float(level))
            speaking += (ATTACK if voice > speaking else RELEASE) * (voice - speaking)
            stressed = next_stress(levels, float(level), stressed)
            levels = np.append(levels[1:], level)
            energy = (rest + loud * level) * (1 - yielding * speaking)
            energy += temper.emphasis * stroke * (stressed == STROKE)
            stirred = np.sqrt(energy) * (temper.idle_sway + (1 - temper.idle_sway) * speaking)
            noise = normals(state.seed, SWAY, state.tick + row, len(self.sway.sources))
            sway = sway @ self.sway.transition + (noise * (1 + self.sway.voiced * (stirred - 1))) @ self.sway.sources
            swayed = sway @ self.sway.readout
            roaming = temper.idle_gaze + (1 - temper.idle_gaze) * speaking
            moves.lids[row], eyes = self.eyes.step(eyes, state.seed, pace + (1 - pace) * speaking, roaming)
            nod, lift, listening = self.listening.step(listening, state.seed, float(other), speaking)
            moves.pose[row], moves.brows[row] = swayed[POSE] + nod, swayed[POSE.stop] + lift
            moves.gaze[row] = eyes.gaze
        return moves, LifeState(state.seed, state.tick + count, sway, speaking, levels, stressed, eyes, listening)

    def apply(self, motion: FloatArray, moves: Moves) -> FloatArray:
        """Motion (H, 70) relative to rest with its head, eyes and lids replaced by these moves, its brows moved on."""
        alive = np.array(motion, np.float32, copy=True)
        alive[:, POSE] = moves.pose
        alive[:, 0] += 1
        alive[:, self.brows] += moves.brows[:, None] * self.lifting
        alive[:, self.eyes.irises] = moves.gaze + moves.pose[:, 1:4] @ self.eyes.steadying
        alive[:, self.eyes.lids] = alive[:, self.eyes.drivers] @ self.eyes.coupling + moves.lids
        return alive


def next_stress(levels: NDArray[np.float64], level: float, stressed: int) -> int:
    """Ticks since the last stressed syllable, from the loudness of the latest ticks and of this one."""
    if stressed >= MEMORY - 1 and level - levels.min() > RISE:
        return 0
    return stressed + 1


def _yielding(energy: NDArray[np.float64], emphasis: float) -> float:
    """Share of the other energy that gives way to strokes while speaking, so that people's loudness and rhythm give the
    same sum.
    """
    rest, loud, stroke = energy
    usual_loudness, usual_rhythm = 0.45, 0.08  # strokes a tick, as in the natural clips
    return float(np.clip((emphasis - 1) * stroke * usual_rhythm / (rest + usual_loudness * loud), -1, 0.8))


def loudness(window: FloatArray) -> float:
    """Loudness of a mel window (80, columns) from 0 (silence) to 1 (speech), by its latest columns."""
    level = float(window[:, -LOUDNESS_COLUMNS:].mean())
    return float(np.clip((level + 2.5) / 2.0, 0.0, 1.0))


PARTS = {"sway": SwayModel, "eyes": EyesModel, "listening": ListeningModel}


@cache
def life_model(folder: Path | None = None) -> LifeModel:
    """The parameters in `folder`, default: the shipped ones; raises WeightsError when they are missing or not ours."""
    with tables("life.npz", "life tables", folder) as archive:
        parts = {name: kind(**_fields(kind, archive, f"{name}.")) for name, kind in PARTS.items()}
        return LifeModel(**parts, brows=archive["brows"], lifting=archive["lifting"])


def _fields(kind: Any, archive: Any, prefix: str) -> dict[str, Any]:
    values = {field.name: archive[prefix + field.name] for field in fields(kind)}
    return {name: float(value) if value.ndim == 0 else value for name, value in values.items()}
