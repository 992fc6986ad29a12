"""Head, brows, eyes and nods: deterministic, alive, never drifting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engines.audio import SILENCE
from engines.face_mesh import face_model
from engines.life import LifeModel, LifeState, Moves, Temper, life_model, loudness
from engines.motion import PITCH, ROLL, YAW, onto_photo
from engines.profile import EMBEDDED
from engines.types import FPS, MOTION_WIDTH

MINUTE = 60 * FPS
ANGLES = slice(YAW, ROLL + 1)
PHOTO = np.eye(1, MOTION_WIDTH, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def life() -> LifeModel:
    return life_model()


def syllables(ticks: int) -> np.ndarray:
    """Loudness of phrases of two seconds with pauses of one, five syllables a second."""
    tick = np.arange(ticks)
    rng = np.random.default_rng(0)
    strength = 0.3 + 0.7 * rng.random(ticks // 5 + 1)
    level = strength[tick // 5] * np.exp(-0.5 * ((tick % 5 - 1) / 1.2) ** 2)
    return (level * (tick % (3 * FPS) < 2 * FPS)).astype(np.float32)


def blink_starts(moves: Moves) -> np.ndarray:
    moving = (moves.lids**2).sum(1) > 1e-8
    return np.flatnonzero(moving[1:] & ~moving[:-1])


def steady(life: LifeModel, ticks: int, level: float, seed: int = 3) -> Moves:
    return life.advance(life.begin(seed), np.full(ticks, level, np.float32))[0]


def parts(moves: Moves) -> list[np.ndarray]:
    return [moves.pose, moves.brows, moves.gaze, moves.lids]


def test_any_hop_length_gives_the_same_life(life: LifeModel) -> None:
    levels, heard = syllables(600), np.roll(syllables(600), 2 * FPS)
    whole, _ = life.advance(life.begin(9), levels, heard)
    state, pieces = life.begin(9), []
    for first in range(0, 600, 7):
        moves, state = life.advance(state, levels[first : first + 7], heard[first : first + 7])
        pieces.append(parts(moves))
    for made, at_once in zip(zip(*pieces, strict=True), parts(whole), strict=True):
        np.testing.assert_array_equal(np.concatenate(made), at_once)
    assert not np.array_equal(life.advance(life.begin(10), levels, heard)[0].pose, whole.pose)


def test_people_blink_irregularly_and_oftener_when_they_speak(life: LifeModel) -> None:
    minutes = 30
    idle = blink_starts(steady(life, minutes * MINUTE, 0.0))
    speaking = blink_starts(steady(life, minutes * MINUTE, 0.6))
    assert 15 * minutes < len(idle) < 20 * minutes
    assert len(idle) < len(speaking) < 35 * minutes
    pauses = np.diff(idle)
    assert pauses.std() > 0.3 * pauses.mean()


def test_head_brows_and_eyes_move_in_silence_less_than_in_speech(life: LifeModel) -> None:
    speech = life.advance(life.begin(3), syllables(10 * MINUTE))[0]
    silence = steady(life, 10 * MINUTE, 0.0)
    for quiet, loud in ((silence.pose[:, ANGLES], speech.pose[:, ANGLES]), (silence.gaze, speech.gaze)):
        assert (quiet.std(0) > 0.2 * loud.std(0)).all()
        assert (quiet.std(0) < loud.std(0)).all()
    assert 0.2 * speech.brows.std() < silence.brows.std() < speech.brows.std()
    still = life.advance(life.begin(3), np.zeros(MINUTE, np.float32), temper=Temper(idle_sway=0.2))[0]
    assert (still.pose[:, ANGLES].std(0) < silence.pose[:MINUTE, ANGLES].std(0)).all()


def test_eyes_jump_and_rest(life: LifeModel) -> None:
    gaze = steady(life, 10 * MINUTE, 0.6).gaze
    moving = np.abs(np.diff(gaze, axis=0)).sum(1) > 0
    starts = np.flatnonzero(moving[1:] & ~moving[:-1])
    assert moving.mean() < 0.3
    assert 20 < len(starts) / 10 < 90  # a minute
    rests = np.diff(starts)
    assert rests.std() > 0.4 * rests.mean()


def test_a_call_begins_in_the_photo(life: LifeModel) -> None:
    moves = steady(life, 1, 0.5)
    assert np.abs(moves.pose[0, ANGLES]).max() < 3
    assert not moves.lids[0].any()
    assert not moves.gaze[0].any()


def test_heads_stroke_after_stressed_syllables(life: LifeModel) -> None:
    """Every second is a soft syllable or a stressed one: the head's acceleration tells which."""
    level = np.zeros(4 * MINUTE, np.float32)
    level[::FPS] = level[1::FPS] = 0.25
    stressed = np.arange(0, len(level), 2 * FPS)
    level[stressed] = level[stressed + 1] = 0.7
    energy = np.zeros(len(level))
    for seed in range(4):
        angles = life.advance(life.begin(seed), level)[0].pose[:, ANGLES]
        energy[1:-1] += (np.diff(angles, 2, axis=0) ** 2).sum(1)
    after = energy.reshape(-1, 2, FPS)[1:, :, 2:6].mean((0, 2))
    assert after[0] > 1.5 * after[1]


def answers(life: LifeModel, levels: np.ndarray, heard: np.ndarray) -> list[tuple[int, LifeState]]:
    """Ticks at which an answer of the listener begins."""
    state, found = life.begin(5), []
    for tick in range(len(levels)):
        before = state.listening.answers
        _, state = life.advance(state, levels[tick : tick + 1], heard[tick : tick + 1])
        if state.listening.answers > before:
            found.append((tick, state))
    return found


def test_listeners_nod_in_the_pauses_of_the_other_person(life: LifeModel) -> None:
    minutes = 8
    heard = syllables(minutes * MINUTE)
    quiet = np.zeros_like(heard)
    found = answers(life, quiet, heard)
    assert 3 * minutes < len(found) < 15 * minutes
    in_pause = np.array([tick % (3 * FPS) >= 2 * FPS - 4 for tick, _ in found])
    assert in_pause.mean() > 0.6  # they are 36 % of the time
    assert all(later - earlier > 25 for (earlier, _), (later, _) in pairwise(found))
    lifted = [state.listening.lift > 0 for _, state in found]
    assert 0.2 < np.mean(lifted) < 0.8
    assert not answers(life, quiet[: 2 * MINUTE], quiet[: 2 * MINUTE])
    assert not answers(life, heard[: 2 * MINUTE], heard[: 2 * MINUTE]), "nobody answers while speaking"


def test_a_nod_goes_down_and_comes_back(life: LifeModel) -> None:
    heard = syllables(4 * MINUTE)
    silent = np.zeros_like(heard)
    alone, listening = (life.advance(life.begin(5), silent, other)[0] for other in (None, heard))
    nods = listening.pose[:, PITCH] - alone.pose[:, PITCH]
    assert 1 < nods.max() < 5
    assert nods.min() > -0.3 * nods.max()
    assert (np.abs(nods) < 1e-5).mean() > 0.5
    lifts = listening.brows - alone.brows
    assert lifts.max() > 0.005
    np.testing.assert_array_equal(listening.gaze, alone.gaze)


def test_an_hour_of_talk_does_not_drift(life: LifeModel) -> None:
    """Two people take turns every twenty seconds; what is measured is what the renderer would get."""
    ticks = 60 * MINUTE
    mine = np.arange(ticks) // (20 * FPS) % 2 == 0
    sound = syllables(ticks)
    moves, _ = life.advance(life.begin(1), sound * mine, sound * ~mine)
    rest = np.repeat(PHOTO[None], ticks, axis=0)
    angles = onto_photo(PHOTO, life.apply(rest, moves), EMBEDDED.limits)[:, ANGLES]
    first, last = angles[: 10 * MINUTE], angles[-10 * MINUTE :]
    assert (np.abs(angles.mean(0)) < 2).all()
    assert (np.abs(last.mean(0)) < 2).all()
    spread = last.std(0) / first.std(0)
    assert ((spread > 0.75) & (spread < 1.33)).all(), spread
    assert moves.brows[-10 * MINUTE :].std() < 1.33 * moves.brows[: 10 * MINUTE].std()


def test_life_moves_head_brows_and_eyes_and_nothing_else(life: LifeModel) -> None:
    face = face_model()
    motion = face.normalisation.denormalise(np.random.default_rng(0).standard_normal((8, MOTION_WIDTH), np.float32))
    moves = life.advance(life.begin(3), np.full(58, 0.5, np.float32))[0]
    moves = Moves(*(part[-8:] for part in parts(moves)))
    alive = life.apply(motion, moves)
    np.testing.assert_allclose(alive[:, 0], 1 + moves.pose[:, 0])
    np.testing.assert_array_equal(alive[:, 1:7], moves.pose[:, 1:])
    moved = np.concatenate([life.brows, life.eyes.irises, life.eyes.lids])
    others = np.setdiff1d(np.arange(7, MOTION_WIDTH), moved)
    np.testing.assert_array_equal(alive[:, others], motion[:, others])
    mouth = 7 + np.flatnonzero(np.repeat(face.mouth, 3))
    assert not np.isin(moved, mouth).any()


def test_eyes_turn_against_the_head(life: LifeModel) -> None:
    rest = np.repeat(PHOTO[None], 2, axis=0)
    pose = np.zeros((2, 7), np.float32)
    pose[1, YAW], pose[1, PITCH] = 8, 6
    moves = Moves(pose, np.zeros(2, np.float32), np.zeros((2, 2), np.float32), np.zeros((2, len(life.eyes.lids))))
    sideways, down = np.diff(life.apply(rest, moves)[:, life.eyes.irises], axis=0)[0]
    # Positive yaw turns the nose to smaller x, positive pitch to larger y; 8 degrees are .018 eye distances.
    assert 0.005 < sideways < 0.025
    assert -0.02 < down < -0.002


def test_loudness_tells_silence_from_speech() -> None:
    assert loudness(np.full((80, 20), SILENCE, np.float32)) == 0
    assert loudness(np.zeros((80, 20), np.float32)) == 1
