"""The learned keypoints: their tables, their geometry, what they explain."""

from __future__ import annotations

import numpy as np
import pytest

from engines.face_mesh import LEFT_EYE_CORNER, RIGHT_EYE_CORNER, STABLE, STABLE_CENTRE, Pose, face_model
from engines.motion import EXPRESSION, keypoints, pack, rotation, turn_expression
from engines.types import KEYPOINTS, KDTalkerError
from training.keypoints import explained, fit, gram, point_weights
from training.shapes import Shape, first_template, lip_gap, mirrored, shapes_of
from training.tracks import Clip, data_folder, read_clips


@pytest.fixture(scope="module")
def natural_shapes() -> list[Shape]:
    """Validation clips of natural speech, head motion removed."""
    try:
        folder = data_folder()
    except KDTalkerError as error:
        pytest.skip(str(error))
    clips = [clip for clip in read_clips(folder, ("clips",)) if clip.split == "val"]
    return shapes_of(clips, face_model().template)


def random_expression(seed: int) -> np.ndarray:
    normalisation = face_model().normalisation
    noise = np.random.default_rng(seed).standard_normal(3 * KEYPOINTS)
    exp = normalisation.mean[EXPRESSION] + 2 * normalisation.std[EXPRESSION] * noise
    return exp.reshape(KEYPOINTS, 3).astype(np.float32)


def test_tables_are_what_they_say() -> None:
    model = face_model()
    assert model.mixing.shape == (478, KEYPOINTS)
    assert model.reading.shape == model.placing.shape == (KEYPOINTS, 478)
    assert model.mixing.min() >= 0
    np.testing.assert_allclose(model.placing.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(model.template[STABLE].mean(0), STABLE_CENTRE, atol=1e-5)
    assert np.linalg.norm(model.template[LEFT_EYE_CORNER] - model.template[RIGHT_EYE_CORNER]) == pytest.approx(1)
    assert 6 <= model.mouth.sum() <= 15
    assert (model.normalisation.std > 0).all()
    assert (model.normalisation.canonical_std > 0).all()


def test_template_is_frontal_symmetric_and_silent() -> None:
    template = face_model().template
    left, right = template[LEFT_EYE_CORNER], template[RIGHT_EYE_CORNER]
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-5)
    assert abs(template[1, 0]) < 1e-5
    assert abs(template[152, 0]) < 1e-5
    assert lip_gap(template) < 0.08  # persons' rest gaps average a little above zero
    assert template[152, 1] > template[10, 1]  # y down
    assert template[1, 2] < template[234, 2]  # the nose is nearer to the camera than the ear


def test_turned_keypoints_carry_the_rigidly_turned_mesh() -> None:
    """Keypoints turned with the head, mixed onto the mesh, give the turned mesh within .5 % of the eye distance."""
    model = face_model()
    angles, scale, shift = np.array([10.0, 8.0, 0.0], np.float32), 0.31, np.array([0.05, -0.02, 0.0], np.float32)
    for seed in range(5):
        exp = random_expression(seed)
        moved = model.template + model.offsets(exp)
        rigid = Pose(scale, rotation(angles), shift).apply(moved)
        motion = turn_expression(pack(scale, angles, shift, exp))
        at_rest = turn_expression(pack(scale, angles, shift, np.zeros_like(exp)))
        canonical = model.canonical_keypoints(model.template)
        carried = model.mixing @ (keypoints(canonical, motion) - keypoints(canonical, at_rest))
        mesh = Pose(scale, rotation(angles), shift).apply(model.template) + carried
        assert np.abs(mesh - rigid).max() < 0.005 * scale
        unturned = model.mixing @ (scale * exp)
        assert np.abs(carried - unturned).max() > 0.005 * scale  # the check can tell turned from unturned


def test_keypoints_explain_people_they_were_not_fitted_to(natural_shapes: list[Shape]) -> None:
    scores = explained(face_model(), natural_shapes)
    assert scores["lips"] > 0.98
    assert scores["opening"] > 0.98
    assert scores["width"] > 0.97
    assert scores["lids"] > 0.95
    assert scores["brows"] > 0.93
    assert scores["face"] > 0.93


def test_rest_is_closed_lips_and_open_eyes(natural_shapes: list[Shape]) -> None:
    for shape in natural_shapes:
        gap = lip_gap(shape.rest + shape.offsets)
        assert lip_gap(shape.rest) <= np.quantile(gap, 0.2)


def talking_ellipsoids(people: int = 4, frames: int = 60) -> list[Clip]:
    """Synthetic tracks: the template with a jaw, lids and a head that move at random."""
    model, clips, centre = face_model(), [], np.array([200, 200, 0], np.float32)
    for person in range(people):
        rng = np.random.default_rng(person)
        walk = np.cumsum(rng.standard_normal((frames, KEYPOINTS, 3)), axis=0).astype(np.float32)
        exp = 0.01 * walk / walk.std()
        poses = np.cumsum(rng.normal(0, 0.3, (frames, 3)), axis=0)
        mesh = np.stack([
            Pose(100 + person, rotation(angle), centre).apply(model.template + model.offsets(e))
            for angle, e in zip(poses, exp, strict=True)
        ])  # fmt: skip
        dataset = ("grid_s1", "lrcar", "clips")[person % 3]
        clips.append(Clip(dataset, f"c{person}", f"p{person}", "train", mesh, np.zeros(640 * frames, np.float32)))
    return clips


def test_fit_recovers_a_low_rank_face() -> None:
    clips = talking_ellipsoids()
    template, mirror = first_template(clips)
    assert (mirror[mirror] == np.arange(478)).all()
    assert mirror[33] == 263
    assert mirror[10] == 10
    shapes = shapes_of(clips, template)
    tables = fit(shapes, template, mirror)
    assert explained(tables, shapes)["lips"] > 0.95
    moments = gram(shapes, mirror)
    np.testing.assert_allclose(moments, moments.T, rtol=1e-3, atol=1e-9)
    assert point_weights().shape == (478,)
    np.testing.assert_array_equal(mirrored(mirrored(template, mirror), mirror), template)
