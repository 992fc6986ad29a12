"""The sliding window: noise, context, and a stream that equals the whole sound."""

import numpy as np
import pytest

from engines.face_mesh import face_model
from engines.pipeline import Talker
from engines.sampler import tick_noise
from engines.talkers import open_talker
from engines.types import Identity, MotionTick


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    """A face at rest, frontal: all the sampler needs of a person."""
    source = np.zeros(70, np.float32)
    source[0] = 0.37
    face = face_model()
    canonical = face.canonical_keypoints(face.template)
    return Identity(talker.profile.name, "rest", canonical, source, np.zeros((512, 512, 3), np.uint8))


def speech(seconds: float = 2.4) -> np.ndarray:
    """A buzz whose loudness swells five times a second: enough like speech to move a mouth."""
    time = np.arange(int(seconds * 16000)) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 25))
    return (0.1 * buzz * (1 + np.sin(2 * np.pi * 5 * time))).astype(np.float32)


def stream(talker: Talker, identity: Identity, sound: np.ndarray, chunk: int, seed: int = 0) -> np.ndarray:
    talk = talker.begin(identity, seed)
    ticks: list[MotionTick] = []
    for at in range(0, len(sound), chunk):
        ticks += talker.listen(talk, sound[at : at + chunk])
    ticks += talker.finish(talk, len(sound) // 640)
    assert [tick.tick for tick in ticks] == list(range(len(sound) // 640))
    return np.stack([tick.motion for tick in ticks])


def test_noise_is_a_function_of_seed_and_tick_alone() -> None:
    whole = tick_noise(7, -3, 12)
    np.testing.assert_array_equal(whole[5:9], tick_noise(7, 2, 4))
    assert not np.array_equal(whole, tick_noise(8, -3, 12))
    many = tick_noise(0, 0, 2000)
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01


def test_ticks_one_by_one_equal_the_whole_sound(talker: Talker, identity: Identity) -> None:
    sound = speech()
    whole = stream(talker, identity, sound, len(sound))
    assert np.isfinite(whole).all()
    for chunk in (640, 1000):
        np.testing.assert_array_equal(stream(talker, identity, sound, chunk), whole)


def test_a_seed_replays_and_another_differs(talker: Talker, identity: Identity) -> None:
    sound = speech(1.2)
    first = stream(talker, identity, sound, 640, seed=1)
    np.testing.assert_array_equal(first, stream(talker, identity, sound, 640, seed=1))
    assert not np.array_equal(first, stream(talker, identity, sound, 640, seed=2))


def test_frames_leave_as_soon_as_their_look_ahead_is_there(talker: Talker, identity: Identity) -> None:
    plan, reach = talker.profile.window, talker.profile.mel.reach
    talk = talker.begin(identity)
    sound = speech(1.0)
    arrived = {}
    for tick in range(20):
        for ready in talker.listen(talk, sound[tick * 640 : (tick + 1) * 640]):
            arrived[ready.tick] = tick + 1
    delay = plan.new - 1 + plan.lookahead + -(-reach // 640)
    assert arrived[0] <= delay
    # Once running, the first frame of a hop waits for the whole delay, the last one for H - 1 ticks less.
    assert {arrived[tick] - tick for tick in arrived if tick >= plan.new} <= set(range(delay - plan.new + 1, delay + 1))


def test_committed_rows_come_back_untouched(talker: Talker) -> None:
    plan = talker.profile.window
    rng = np.random.default_rng(0)
    rows = {"tokens": (2, 2, 70), "sound": (2, plan.length, talker.profile.feature_width)}
    rows |= dict.fromkeys(("noise", "committed"), (2, plan.length, 70))
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in rows.items()}
    mask = np.zeros((2, plan.length), np.float32)
    mask[:, : plan.committed] = 1
    sampler = talker.sampler
    out = sampler.engine.run(mask=mask, guidance=sampler.guidance, temperature=sampler.temperature, **arrays)
    np.testing.assert_array_equal(out["motion"][:, : plan.committed], arrays["committed"][:, : plan.committed])


def test_calls_in_one_batch_do_not_touch_each_other(talker: Talker, identity: Identity) -> None:
    plan, width = talker.profile.window, talker.profile.feature_width
    states = [talker.begin(identity, seed).sampler for seed in (1, 2)]
    sound = np.random.default_rng(0).normal(size=(2, plan.length, width)).astype(np.float32)
    together, _ = talker.sampler.advance(states, sound)
    for row in range(2):
        alone, _ = talker.sampler.advance([states[row]], sound[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-4)
