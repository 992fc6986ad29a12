"""Beat alignment, and what the life model's measures say about it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("soundfile", reason="reading tracks needs soundfile")

from engines import motion
from engines.audio import log_mel
from engines.face_mesh import face_model
from engines.life import life_model
from engines.media import resample
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE, SPEECH_SAMPLES, FloatArray
from training.beats import alignment, kinematic_beats, onsets
from training.life import SEEN, nod_of, smooth
from training.life_metrics import AROUND, alive, dialogue, film, levels_of, photo, pieces
from training.sway import Track, fit_sway, later, simulate, stresses

SENTENCES = (
    "Maybe my mom will bring a big apple pie, and we will eat it together in the garden this evening.",
    "Good morning everybody, the train to the coast will leave from platform number seven in ten minutes.",
    "I never said that she stole the money, I only wondered where all of it went so quickly.",
    "Please remember to close the windows before you leave, because it is going to rain tonight.",
)
PEOPLE_P99 = 92  # thousandths of half a crop a frame: keypoint speed of the tracked natural clips


@pytest.fixture(scope="module")
def sounds(speak: Callable[[str], np.ndarray]) -> list[FloatArray]:
    """Sentences at 16 kHz, whole frames."""
    found = []
    for sentence in SENTENCES:
        sound = resample(speak(sentence).astype(np.float32) / 32768, PLAYBACK_RATE, SPEECH_RATE)
        found.append(sound[: len(sound) // SPEECH_SAMPLES * SPEECH_SAMPLES])
    return found


def test_onsets_are_where_sounds_begin() -> None:
    sound = np.zeros(4 * SPEECH_RATE, np.float32)
    starts = np.array([0.5, 1.1, 1.9, 3.0])
    for start in starts:
        first = int(start * SPEECH_RATE)
        sound[first : first + 1600] = 0.3 * np.sin(np.arange(1600) / 8) * np.linspace(1, 0, 1600)
    found = onsets(log_mel(sound).T) / FPS
    assert np.abs(found[:, None] - starts).min(0).max() < 0.05


def test_a_head_that_pauses_on_the_beats_scores_above_one_that_does_not() -> None:
    beats = np.arange(10, 190, 11.0)
    time = np.arange(200)
    swing = np.cos(2 * np.pi * (time - 10) / 22)  # turns round on every beat
    angles = 5 * np.stack([swing, 0 * swing, 0 * swing], axis=1)
    own, turned = alignment(beats, angles)
    assert own > 0.95
    assert own > turned + 0.2
    late, _ = alignment(beats + 5.5, angles)
    assert late < turned
    assert len(kinematic_beats(angles)) == pytest.approx(len(beats), abs=2)


def test_heads_align_with_their_own_speech_more_than_with_shifted_speech(sounds: list[FloatArray]) -> None:
    """The effect is small, as it is in people: twelve seeds of half a minute show its sign."""
    speech = np.concatenate(sounds)
    beats, levels = onsets(log_mel(speech).T), levels_of(speech)
    scores = [alignment(beats, alive(levels, None, seed).angles) for seed in range(12)]
    own, turned = np.mean(scores, axis=0)
    assert own > turned


def test_stresses_of_a_sound_are_those_the_model_sees(sounds: list[FloatArray]) -> None:
    levels, model = levels_of(sounds[0]), life_model()
    state, seen = model.begin(0), []
    for level in levels:
        _, state = model.advance(state, np.array([level], np.float32))
        seen.append(state.stressed == 0)
    np.testing.assert_array_equal(np.array(seen), stresses(levels) > 0)
    assert 1 < sum(seen) / len(levels) * FPS < 4  # a second


def test_every_seed_moves_as_much_and_otherwise(sounds: list[FloatArray]) -> None:
    levels = np.tile(np.concatenate([levels_of(sound) for sound in sounds]), 6)
    films = [alive(levels, None, seed).angles for seed in range(4)]
    spread = np.array([angles.std(0) for angles in films])
    assert (spread.max(0) < 1.6 * spread.min(0)).all()
    together = np.corrcoef([angles[:, motion.YAW - 1] for angles in films])
    assert np.abs(together - np.eye(4)).max() < 0.5
    cut = [filmed.angles for filmed in pieces([alive(levels, None, 9)])]
    assert all(len(piece) == 8 * FPS for piece in cut)
    assert (np.abs(later(cut)) < 0.6).all()


def test_nothing_jumps_where_speaking_idling_and_listening_meet(sounds: list[FloatArray]) -> None:
    """Through the whole pipeline: speech, idling, listening, speech."""
    talker = open_talker()
    identity = talker.renderer.enrol(prepare((files("engines") / "avatars" / "astronaut.jpg").read_bytes()))
    quiet = np.zeros(4 * SPEECH_RATE, np.float32)
    other = np.resize(sounds[1], len(quiet))
    mine = np.concatenate([sounds[0], quiet, quiet, sounds[2]])
    theirs = np.concatenate([0 * sounds[0], quiet, other, 0 * sounds[2]])
    talk, rows = talker.begin(identity, 2), []
    for start in range(0, len(mine), SPEECH_SAMPLES):
        talker.hear(talk, theirs[start : start + SPEECH_SAMPLES])
        rows += talker.listen(talk, mine[start : start + SPEECH_SAMPLES])
    moved = motion.turn_expression(np.stack([row.motion for row in rows]))
    points = motion.keypoints(identity.canonical, moved)
    speed = 1000 * np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(-1)
    first, pause = len(sounds[0]) // SPEECH_SAMPLES, len(quiet) // SPEECH_SAMPLES
    borders = [first, first + pause, first + 2 * pause]
    near = np.concatenate([speed[border - AROUND : border + AROUND] for border in borders])
    speaking = np.concatenate([speed[2 * AROUND : first - AROUND], speed[borders[-1] + AROUND :]])
    assert np.median(near) < 1.5 * np.median(speaking)
    assert np.quantile(near, 0.99) < PEOPLE_P99


def test_people_who_take_turns_are_never_loud_together(sounds: list[FloatArray]) -> None:
    mine, others = dialogue([levels_of(sound) for sound in sounds])
    assert mine.max() > 0.3
    assert others.max() > 0.3
    assert not (mine * others).any()


def test_a_film_stays_within_the_limits_of_the_picture() -> None:
    model = life_model()
    moves, _ = model.advance(model.begin(1), np.full(200, 0.6, np.float32))
    wild = film(model, np.repeat(photo()[None], 200, axis=0), type(moves)(20 * moves.pose, *(
        getattr(moves, name) for name in ("brows", "gaze", "lids")
    )))  # fmt: skip
    assert np.abs(wild.angles).max(0) == pytest.approx([10, 8, 8], abs=0.1)
    assert face_model().mouth.any()


def test_a_fit_to_what_the_model_made_gives_that_model_back() -> None:
    """Deviation, speed and memory of heads and brows, from twelve clips of ten seconds."""
    shipped, levels = life_model().sway, np.tile(np.r_[np.full(30, 0.6), np.zeros(20)], 5).astype(np.float32)
    made = [simulate(shipped, levels, seed) @ shipped.readout for seed in range(12)]
    unit = np.concatenate(made).std(0)
    tracks = [Track((clip - clip.mean(0)) / unit, levels) for clip in made]
    fitted = fit_sway(tracks, unit)
    again = [simulate(fitted, levels, seed) @ fitted.readout for seed in range(100, 124)]
    spread = np.median([clip.std(0) for clip in again], axis=0) / np.median([clip.std(0) for clip in made], axis=0)
    assert ((spread > 0.7) & (spread < 1.3)).all(), spread
    speed = [np.median([np.abs(np.diff(clip, axis=0)).mean(0) for clip in clips], axis=0) for clips in (again, made)]
    assert ((speed[0] / speed[1] > 0.6) & (speed[0] / speed[1] < 1.4)).all()
    angles = slice(motion.YAW, motion.ROLL + 1)
    memory = [later([clip[:, angles] for clip in clips]) for clips in (again, made)]
    assert np.abs(memory[0] - memory[1]).max() < 0.2


def test_clips_without_nods_keep_the_shipped_ones() -> None:
    rng = np.random.default_rng(0)
    still = np.zeros((200, 7))
    np.testing.assert_array_equal(nod_of([still]), life_model().listening.nod)
    nodding = still.copy()
    course = life_model().listening.nod[:, motion.PITCH]
    starts = range(10, 180, 34)
    assert len(starts) >= SEEN
    for start in starts:
        nodding[start : start + len(course), motion.PITCH] += 1.5 * course
    found = nod_of([smooth(nodding + 0.01 * rng.standard_normal(nodding.shape), 0.5)])
    assert np.corrcoef(found[:, motion.PITCH], course)[0, 1] > 0.95
