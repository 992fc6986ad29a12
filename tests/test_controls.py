"""Controls of the face: what they refuse, what they do to motion and pictures, and how softly they change it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import pytest

import kdtalker
from engines import motion
from engines.controls import (
    AMPLITUDES,
    DEFAULT,
    EMOTIONS,
    RANGES,
    ControlError,
    Controls,
    Glide,
    steady,
)
from engines.emotions import emotion_offsets
from engines.face_mesh import face_model
from engines.gaze import EYE_RADIUS
from engines.media import Speech
from engines.offline import motions
from engines.pipeline import Talker
from engines.placing import PublishedPlacing, RelativePlacing
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import KEYPOINTS, MOTION_WIDTH, PLAYBACK_SAMPLES, SPEECH_SAMPLES, FloatArray, Identity
from engines.warp.lips import LipModel
from training.emotions import UNITS, measures

SECONDS = 8
CHANGE = 100  # tick
EVERY = {"pose_scale": 2.0, "expression_scale": 1.5, "mouth_scale": 1.5, "gaze": "fixed"}


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    return talker.renderer.enrol(prepare((files("engines") / "avatars" / "astronaut.jpg").read_bytes()))


@pytest.fixture(scope="module")
def babble() -> FloatArray:
    """Something that moves the mouth as speech does: harmonics of a voice under syllables of changing vowels."""
    time = np.arange(SECONDS * 25 * SPEECH_SAMPLES) / 16000
    pitch = 2 * np.pi * (120 * time + 3 * np.sin(2 * np.pi * 0.7 * time))
    colour = 1.5 + np.sin(2 * np.pi * 1.3 * time)
    voice = sum(np.sin(harmonic * pitch) / harmonic**colour for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1) * (np.sin(2 * np.pi * 0.4 * time) > -0.6)
    return np.asarray(0.3 * voice * syllables, np.float32)


def spoken(
    talker: Talker,
    identity: Identity,
    sound: FloatArray,
    changes: dict[int, Controls] | None = None,
    controls: Controls = DEFAULT,
    seed: int = 0,
    hop: int = 1,
) -> FloatArray:
    """Motion (N, 70) of a call with `changes` by tick of sound."""
    talk = talker.begin(identity, seed, controls)
    rows = []
    for tick in range(0, len(sound) // SPEECH_SAMPLES, hop):
        pcm = sound[tick * SPEECH_SAMPLES : (tick + hop) * SPEECH_SAMPLES]
        rows += [row.motion for row in talker.listen(talk, pcm, (changes or {}).get(tick))]
    return np.stack(rows)


def keypoint_speed(identity: Identity, rows: FloatArray) -> FloatArray:
    """Mean way of the keypoints from frame to frame (N - 1,)."""
    points = motion.keypoints(identity.canonical, motion.turn_expression(rows))
    return np.asarray(np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(-1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pose_scale": 2.1}, "pose_scale must be a number from 0 to 2, not 2.1"),
        ({"pose_scale": -0.1}, "from 0 to 2"),
        ({"pose_scale": "much"}, "not 'much'"),
        ({"pose_scale": True}, "a number"),
        ({"pose_scale": float("nan")}, "not nan"),
        ({"expression_scale": 1.6}, "from 0 to 1.5"),
        ({"mouth_scale": 0.4}, "from 0.5 to 1.5"),
        ({"emotion_strength": None}, "from 0 to 1, not None"),
        ({"gaze": "away"}, "gaze must be one of free, fixed, not 'away'"),
        ({"emotion": "hungry"}, "emotion must be one of neutral, happy"),
        ({"emotion": ["happy"]}, "emotion must be"),
        ({"mark": "yes"}, "mark must be true or false, not 'yes'"),
        ({"volume": 1}, "no control 'volume'; the controls are pose_scale"),
    ],
)
def test_what_a_control_cannot_be_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ControlError, match=words):
        DEFAULT.changed(**change)


def test_the_ends_of_every_range_are_allowed() -> None:
    for name, ends in RANGES.items():
        for end in ends:
            assert getattr(DEFAULT.changed(**{name: end}), name) == end


def test_the_published_profile_says_what_it_lacks() -> None:
    AMPLITUDES.require(DEFAULT.changed(pose_scale=0.5, expression_scale=1.2, mouth_scale=0.8))
    with pytest.raises(ControlError, match="no emotion 'sad', only neutral"):
        AMPLITUDES.require(DEFAULT.changed(emotion="sad"))
    with pytest.raises(ControlError, match="no gaze 'fixed', only free"):
        AMPLITUDES.require(DEFAULT.changed(gaze="fixed"))


def test_a_glide_arrives_without_overshoot_whatever_the_hops() -> None:
    there = Controls(pose_scale=2.0, gaze="fixed", emotion="happy", emotion_strength=1.0)
    whole, settled = Glide.resting(DEFAULT).towards(there).advance(100)
    glide, parts = Glide.resting(DEFAULT).towards(there), []
    for _ in range(20):
        effect, glide = glide.advance(5)
        parts.append(effect.pose)
    np.testing.assert_array_equal(np.concatenate(parts), whole.pose)
    assert (np.diff(whole.pose) >= 0).all()
    assert whole.pose.max() <= 2
    assert 0.93 < whole.gaze[9] < 0.97  # 95 % after 400 ms
    assert 1.93 < whole.pose[19] < 1.97  # and after 800 ms
    assert 0.93 < whole.emotions[19, EMOTIONS.index("happy") - 1] < 0.97
    after, _ = settled.advance(1)
    for name in ("pose", "expression", "mouth", "gaze", "emotions"):
        np.testing.assert_array_equal(getattr(after, name), getattr(steady(there, 1), name))


def test_default_controls_change_nothing(talker: Talker, identity: Identity, babble: FloatArray) -> None:
    plain = spoken(talker, identity, babble)
    restated = spoken(talker, identity, babble, {10: Controls(), 50: Controls(emotion_strength=0.2)})
    np.testing.assert_array_equal(restated, plain)


def test_a_call_with_changes_replays(talker: Talker, identity: Identity, babble: FloatArray) -> None:
    changes = {40: Controls(emotion="sad"), 60: Controls(pose_scale=0.2, emotion="happy"), 90: DEFAULT}
    first = spoken(talker, identity, babble, changes)
    np.testing.assert_array_equal(spoken(talker, identity, babble, changes), first)
    np.testing.assert_array_equal(spoken(talker, identity, babble, changes, hop=2), first)


def test_pose_scale_is_the_head_alone(talker: Talker, identity: Identity, babble: FloatArray) -> None:
    plain = spoken(talker, identity, babble)
    still = spoken(talker, identity, babble, controls=Controls(pose_scale=0.0))
    ample = spoken(talker, identity, babble, controls=Controls(pose_scale=1.5))
    np.testing.assert_allclose(still[:, :7], np.repeat(identity.source[None, :7], len(still), 0), atol=1e-5)
    assert (ample[:, motion.ANGLES].std(0) > 1.2 * plain[:, motion.ANGLES].std(0)).all()
    mouth = face_model().mouth  # eyes may turn against the head, and lids go with them
    np.testing.assert_array_equal(motion.expression(still)[:, mouth], motion.expression(plain)[:, mouth])


def test_expression_scale_moves_the_mouth_and_leaves_blinks(
    talker: Talker, identity: Identity, babble: FloatArray
) -> None:
    plain = motion.expression(spoken(talker, identity, babble))
    small = motion.expression(spoken(talker, identity, babble, controls=Controls(expression_scale=0.5)))
    wide = motion.expression(spoken(talker, identity, babble, controls=Controls(mouth_scale=1.5)))
    mouth = face_model().mouth
    np.testing.assert_allclose(small[:, mouth], 0.5 * plain[:, mouth], atol=1e-6)
    np.testing.assert_allclose(wide[:, mouth], 1.5 * plain[:, mouth], atol=1e-6)
    np.testing.assert_array_equal(wide[:, ~mouth], plain[:, ~mouth])
    none = motion.expression(spoken(talker, identity, babble, controls=Controls(expression_scale=0.0)))
    assert not none[:, mouth].any()
    assert np.abs(none).max() > 0.05, "eyes still blink"


def test_a_change_in_mid_call_is_no_jump(talker: Talker, identity: Identity, babble: FloatArray) -> None:
    """Keypoints are never faster than without the change or after it, by more than half the median in speech."""
    plain = keypoint_speed(identity, spoken(talker, identity, babble))
    usual = float(np.median(plain))
    around = slice(CHANGE - 5, CHANGE + 40)
    asked = [{name: value} for name, value in EVERY.items()] + [{"expression_scale": 0.0}, {"pose_scale": 0.0}]
    asked += [{"emotion": emotion, "emotion_strength": 1.0} for emotion in EMOTIONS[1:]]
    for change in asked:
        then = DEFAULT.changed(**change)
        changed = keypoint_speed(identity, spoken(talker, identity, babble, {CHANGE: then}))
        after = keypoint_speed(identity, spoken(talker, identity, babble, controls=then))
        excess = changed[around] - np.maximum(plain, after)[around]
        assert excess.max() < 0.5 * usual, change
        if change.get("pose_scale") != 2.0:  # the head itself is then twice as fast
            assert np.median(changed[around]) < 1.5 * usual, change


def test_emotions_are_what_their_names_say_and_leave_lips_together() -> None:
    known = measures(face_model())
    for emotion, offset in zip(EMOTIONS[1:], emotion_offsets(face_model()), strict=True):
        for name, row in known.items():
            assert row @ offset == pytest.approx(UNITS[emotion].get(name, 0.0), abs=0.002), (emotion, name)


def test_lips_meet_in_every_emotion_where_they_met_without(
    talker: Talker, identity: Identity, babble: FloatArray
) -> None:
    rows = LipModel.of(face_model()).rows
    plain = motion.expression(spoken(talker, identity, babble))[..., 1] @ rows.T
    closed = plain.max(1) < 0.005
    assert closed.sum() > 10
    for emotion in EMOTIONS[1:]:
        felt = spoken(talker, identity, babble, controls=Controls(emotion=emotion, emotion_strength=1.0))
        gaps = motion.expression(felt)[..., 1] @ rows.T
        assert gaps[closed].max() < 0.01, emotion
        assert np.corrcoef(gaps.mean(1), plain.mean(1))[0, 1] > 0.99, emotion


@pytest.mark.parametrize("yaw", [8.0, -8.0])
def test_fixed_eyes_turn_against_the_head(talker: Talker, identity: Identity, yaw: float) -> None:
    """Irises on the picture, against the corners of the eyes: about as far as an eye turns in its socket."""
    from engines.portrait.landmarks import FaceLandmarker

    placing = talker.placing
    assert isinstance(placing, RelativePlacing)
    turned = np.repeat(identity.source[None], 2, axis=0)
    turned[:, motion.YAW] += yaw
    rows = placing.gaze.held(identity.source, turned, np.array([0, 1], np.float32))
    np.testing.assert_array_equal(rows[0], turned[0])
    with FaceLandmarker() as landmarker:
        meshes = [
            landmarker.mesh(frame)
            for frame in talker.renderer.render([identity] * 3, np.stack([*rows, identity.source]))
        ]
    irises = []
    for mesh in meshes:
        assert mesh is not None
        unit = np.linalg.norm(mesh[33, :2] - mesh[263, :2])
        irises.append((mesh[[468, 473], 0].mean() - mesh[[33, 133, 362, 263], 0].mean()) / unit)
    to = np.sign(meshes[0][1, 0] - meshes[2][1, 0])  # where the nose went
    assert 0.3 < (irises[0] - irises[1]) * to / (EYE_RADIUS * np.sin(np.radians(8))) < 1.5


def test_a_happy_face_shows_its_smile(talker: Talker, identity: Identity) -> None:
    """On the picture: corners of the mouth further apart, measured by the face mesh's own eyes."""
    from engines.portrait.landmarks import FaceLandmarker

    silence = np.zeros(60 * SPEECH_SAMPLES, np.float32)
    widths = {}
    with FaceLandmarker() as landmarker:
        for emotion in ("neutral", "happy"):
            then = Controls(pose_scale=0.0, emotion=emotion, emotion_strength=1.0)
            row = spoken(talker, identity, silence, controls=then)[-1:]
            mesh = landmarker.mesh(talker.render([identity], row)[0])
            assert mesh is not None
            widths[emotion] = np.linalg.norm(mesh[61] - mesh[291]) / np.linalg.norm(mesh[33] - mesh[263])
    assert widths["happy"] > widths["neutral"] + 0.04


def test_published_amplitudes_act_on_the_difference_from_the_photo() -> None:
    chance = np.random.default_rng(0)
    source, clip = (
        chance.standard_normal(MOTION_WIDTH, np.float32),
        chance.standard_normal((5, MOTION_WIDTH), np.float32),
    )
    placing = PublishedPlacing(face_model().normalisation)
    levels = np.zeros(5, np.float32)

    def placed(controls: Controls) -> FloatArray:
        return placing.place(source, clip, levels, steady(controls, 5), None)[0]

    plain = placed(DEFAULT)
    still = placed(Controls(pose_scale=0.0, expression_scale=0.0))
    half = placed(Controls(pose_scale=0.5, expression_scale=0.5))
    photo = source.copy()
    photo[motion.TRANSLATION.stop - 1] = 0
    np.testing.assert_allclose(still, np.repeat(photo[None], 5, 0), atol=1e-5)
    np.testing.assert_allclose(half, (plain + photo) / 2, atol=1e-5)
    lips = motion.expression(placed(Controls(mouth_scale=1.5))) != motion.expression(plain)
    assert set(np.flatnonzero(lips.any((0, 2)))) == {6, 12, 14, 17, 19, 20} < set(range(KEYPOINTS))


def test_a_rendered_file_has_the_controls_it_was_asked_for(
    talker: Talker, identity: Identity, babble: FloatArray
) -> None:
    sound = babble[: 50 * SPEECH_SAMPLES]
    speech = Speech(sound, np.zeros(50 * PLAYBACK_SAMPLES, np.int16))
    asked = Controls(pose_scale=0.5, emotion="sad")
    rows = np.stack([row.motion for row in motions(talker, identity, speech, controls=asked)])
    live = spoken(talker, identity, sound, controls=asked)
    np.testing.assert_array_equal(rows[: len(live)], live)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pose-scale", "3"], "pose_scale must be a number from 0 to 2, not 3"),
        (["--emotion-strength", "nan"], "emotion_strength must be a number from 0 to 1, not nan"),
    ],
)
def test_render_refuses_in_words(capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    assert kdtalker.main(["render", "photo.jpg", "speech.wav", "-o", "out.mp4", *flags]) == 1
    assert words in " ".join(capsys.readouterr().err.split())
