"""The 70-vector: packing, rotation, keypoints, limits."""

import json

import numpy as np
import pytest

from engines import motion
from tests.golden import golden, golden_seed


def test_pack_and_parts_agree() -> None:
    rng = np.random.default_rng(0)
    exp = rng.normal(size=(4, 21, 3)).astype(np.float32)
    packed = motion.pack(1.1, np.full((4, 3), 2.0, np.float32), np.zeros((4, 3), np.float32), exp)
    assert packed.shape == (4, 70)
    np.testing.assert_array_equal(motion.expression(packed), exp)
    np.testing.assert_allclose(packed[:, motion.SCALE], 1.1, rtol=1e-6)
    np.testing.assert_array_equal(packed[:, motion.ANGLES], 2.0)


def test_angles_survive_the_rotation_matrix() -> None:
    angles = np.random.default_rng(1).uniform(-60, 60, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(motion.angles_of(motion.rotation(angles)), angles, atol=1e-3)


def test_rotation_and_transform_match_the_published_arithmetic() -> None:
    data = golden("keypoints")
    angles = np.concatenate([data["yaw"], data["pitch"], data["roll"]], axis=1)
    np.testing.assert_allclose(motion.rotation(angles), data["rotation"], atol=1e-6)
    vectors = motion.pack(data["scale"][:, 0], angles, data["t"] * [1, 1, 0], data["exp"].reshape(-1, 21, 3))
    placed = np.stack(
        [motion.keypoints(kp.reshape(21, 3), vector) for kp, vector in zip(data["kp"], vectors, strict=True)]
    )
    scale = np.abs(data["transformed"]).max()
    assert np.abs(placed - data["transformed"]).max() <= 1e-6 * scale * 2, json.dumps({"seed": golden_seed()})


def test_turned_expression_makes_keypoints_turn_rigidly() -> None:
    rng = np.random.default_rng(2)
    canonical, exp = rng.normal(size=(2, 21, 3)).astype(np.float32)
    angles = np.array([10.0, 8.0, -5.0], np.float32)
    vector = motion.pack(1.0, angles, np.zeros(3, np.float32), exp)
    turned = motion.keypoints(canonical, motion.turn_expression(vector))
    np.testing.assert_allclose(turned, (canonical + exp) @ motion.rotation(angles), atol=1e-5)


def test_normalisation_is_inverted() -> None:
    rng = np.random.default_rng(3)
    stats = motion.Normalisation(
        rng.normal(size=70).astype(np.float32),
        rng.uniform(0.5, 2, 70).astype(np.float32),
        np.zeros(63, np.float32),
        np.ones(63, np.float32),
    )
    vector = rng.normal(size=(5, 70)).astype(np.float32)
    np.testing.assert_allclose(stats.denormalise(stats.normalise(vector)), vector, atol=1e-5)
    token = stats.canonical_token(rng.normal(size=(21, 3)).astype(np.float32))
    assert token.shape == (70,)
    assert not token[:7].any()


@pytest.mark.parametrize("bound", [0.06, 10.0])
def test_soft_limit_keeps_small_values_and_never_passes_the_bound(bound: float) -> None:
    value = np.linspace(-5 * bound, 5 * bound, 1001).astype(np.float32)
    limited = motion.soft_limit(value, bound)
    small = np.abs(value) <= 0.6 * bound
    np.testing.assert_allclose(limited[small], value[small], rtol=1e-6)
    assert np.abs(limited).max() <= bound * (1 + 1e-6)
    assert (np.diff(limited) >= 0).all()


def test_motion_on_a_turned_photo_stays_within_the_total_yaw() -> None:
    source = motion.pack(0.4, np.array([22.0, 0, 0]), np.zeros(3), np.zeros((21, 3)))
    relative = motion.pack(
        np.ones(3), np.array([[9.0, 0, 0], [0, 0, 0], [-9.0, 0, 0]]), np.zeros((3, 3)), np.zeros((3, 21, 3))
    )
    placed = motion.onto_photo(source, relative, motion.Limits())
    assert placed[:, motion.YAW].max() <= 25.0
    np.testing.assert_allclose(placed[1], source, atol=1e-6)
    assert placed[2, motion.YAW] < source[motion.YAW]
