"""Head sway and blinks: deterministic, alive, never drifting."""

from __future__ import annotations

import numpy as np
import pytest

from engines.audio import SILENCE
from engines.face_mesh import face_model
from engines.life import LifeModel, Temper, life_model, loudness
from engines.motion import ROLL, YAW
from engines.types import MOTION_WIDTH


@pytest.fixture(scope="module")
def life() -> LifeModel:
    return life_model()


def blink_starts(lids: np.ndarray) -> np.ndarray:
    moving = (lids**2).sum(1) > 1e-8
    return np.flatnonzero(moving[1:] & ~moving[:-1])


def run(life: LifeModel, ticks: int, level: float, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    poses, lids, _ = life.advance(life.begin(seed), np.full(ticks, level, np.float32))
    return poses, lids


def test_any_hop_length_gives_the_same_life(life: LifeModel) -> None:
    levels = np.random.default_rng(0).random(300).astype(np.float32)
    whole = life.advance(life.begin(9), levels)
    state, poses, lids = life.begin(9), [], []
    for first in range(0, 300, 7):
        pose, lid, state = life.advance(state, levels[first : first + 7])
        poses.append(pose)
        lids.append(lid)
    np.testing.assert_array_equal(np.concatenate(poses), whole[0])
    np.testing.assert_array_equal(np.concatenate(lids), whole[1])
    assert not np.array_equal(life.advance(life.begin(10), levels)[0], whole[0])


def test_people_blink_irregularly_and_oftener_when_they_speak(life: LifeModel) -> None:
    minutes = 10
    idle = blink_starts(run(life, minutes * 1500, 0.0)[1])
    speaking = blink_starts(run(life, minutes * 1500, 0.6)[1])
    assert 12 * minutes < len(idle) < 22 * minutes
    assert len(idle) < len(speaking) < 40 * minutes
    pauses = np.diff(idle)
    assert pauses.std() > 0.3 * pauses.mean()


def test_a_head_sways_in_speech_more_than_in_silence_and_stays(life: LifeModel) -> None:
    speech, _ = run(life, 15000, 0.6)
    silence, _ = run(life, 15000, 0.0)
    assert (silence[:, YAW : ROLL + 1].std(0) > 0.3).all()
    assert (silence[:, YAW : ROLL + 1].std(0) < speech[:, YAW : ROLL + 1].std(0)).all()
    first, last = speech[:5000, YAW], speech[-5000:, YAW]
    assert abs(first.mean() - last.mean()) < 2
    still, _ = LifeModel.advance(life, life.begin(1), np.ones(200, np.float32), Temper(pose_scale=0.0))[:2]
    assert not still.any()


def test_a_call_begins_in_the_photo(life: LifeModel) -> None:
    poses, lids = run(life, 1, 0.5)
    assert np.abs(poses[0, YAW : ROLL + 1]).max() < 3
    assert not lids[0].any()


def test_life_replaces_head_and_lids_and_nothing_else(life: LifeModel) -> None:
    face = face_model()
    motion = face.normalisation.denormalise(np.random.default_rng(0).standard_normal((8, MOTION_WIDTH), np.float32))
    poses, lids = run(life, 8, 0.5)
    alive = life.apply(motion, poses, lids)
    np.testing.assert_allclose(alive[:, 0], 1 + poses[:, 0])
    np.testing.assert_array_equal(alive[:, 1:7], poses[:, 1:])
    others = np.setdiff1d(np.arange(7, MOTION_WIDTH), life.lids)
    np.testing.assert_array_equal(alive[:, others], motion[:, others])
    mouth = 7 + np.flatnonzero(np.repeat(face.mouth, 3))
    assert not np.isin(life.lids, mouth).any()


def test_loudness_tells_silence_from_speech() -> None:
    assert loudness(np.full((80, 20), SILENCE, np.float32)) == 0
    assert loudness(np.zeros((80, 20), np.float32)) == 1
