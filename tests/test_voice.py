"""Telling speech from other sounds, and lips that rest while nobody speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.audio import log_mel, mel_windows
from engines.face_mesh import face_model
from engines.media import load_speech
from engines.profile import EMBEDDED
from engines.recurrent import LARGEST_PRODUCT, product
from engines.sampler import Quiet
from engines.talkers import open_talker
from engines.types import FPS, SPEECH_RATE, FloatArray, Identity, WeightsError
from engines.understanding import Understanding, audible
from engines.voice import HOLD, NOTHING, levels, voice_model
from training.noises import LEVELS, noise

RNG = np.random.default_rng(0)


def at_16k(sound: np.ndarray) -> FloatArray:
    """i16 at 48 kHz -> f32 at 16 kHz; the mean of three samples is low-pass enough here."""
    return sound[: len(sound) // 3 * 3].reshape(-1, 3).mean(1).astype(np.float32) / 32768


def windows(sound: FloatArray) -> FloatArray:
    return mel_windows(log_mel(sound), EMBEDDED.mel, len(sound) // 640)


def hiss(seconds: float, level: float = 0.003) -> FloatArray:
    return (level * RNG.standard_normal(int(seconds * SPEECH_RATE))).astype(np.float32)


def breath(seconds: float) -> FloatArray:
    swell = np.sin(np.pi * np.arange(int(seconds * SPEECH_RATE)) / (0.7 * SPEECH_RATE)) ** 2
    return (0.02 * swell * RNG.standard_normal(len(swell))).astype(np.float32)


def test_speech_is_heard_and_other_sounds_are_not(speak: Callable[[str], np.ndarray]) -> None:
    voice = voice_model()
    spoken, _ = voice.advance(
        windows(at_16k(speak("When the sunlight strikes raindrops in the air, they make a rainbow."))), voice.begin()
    )
    assert spoken[10:-10].mean() > 0.9
    for other in (np.zeros(48000, np.float32), hiss(3), breath(3)):
        shares, _ = voice.advance(windows(other), voice.begin())
        assert shares[HOLD:].mean() < 0.3


@pytest.mark.parametrize("language", ["en_male_address", "de_speech", "es_speech", "zh_news"])
def test_recorded_speech_is_heard_however_loud(data: Path, language: str) -> None:
    voice, sound = voice_model(), load_speech(data / "speech" / f"{language}.flac").pcm
    loud = np.sqrt((sound[: len(sound) // 640 * 640].reshape(-1, 640) ** 2).mean(1))
    speaks = loud > 0.1 * np.quantile(loud, 0.95)
    for decibel in (0, -15, -30):
        shares, _ = voice.advance(windows((sound * 10 ** (decibel / 20)).astype(np.float32)), voice.begin())
        assert shares[speaks].mean() > 0.7, "the softest ends of words may be lost"


def test_sounds_of_the_evaluation_are_not_taken_for_speech() -> None:
    """From the first tick of a call: never what is steady; tunes and breath less than half of the time."""
    voice = voice_model()
    heard = {
        kind: np.mean([voice.advance(windows(noise(kind, seed)), voice.begin())[0] for seed in range(6)])
        for kind in LEVELS
    }
    assert all(heard[kind] < 0.1 for kind in ("silence", "room noise", "telephone line"))
    assert max(heard["music"], heard["breath"]) < 0.5


def test_ticks_one_by_one_give_what_all_at_once_give() -> None:
    voice = voice_model()
    heard = windows(hiss(1, 0.1))
    whole, after = voice.advance(heard, voice.begin())
    state, single = voice.begin(), []
    for window in heard:
        share, state = voice.advance(window[None], state)
        single.append(share[0])
    np.testing.assert_array_equal(single, whole)
    np.testing.assert_array_equal(state.memory, after.memory)
    assert (state.left, state.loudest) == (after.left, after.loudest)


def test_a_large_product_is_that_of_its_pieces() -> None:
    row, weights = RNG.standard_normal(1600).astype(np.float32), RNG.standard_normal((1600, 600)).astype(np.float32)
    assert weights.size > 2 * LARGEST_PRODUCT
    np.testing.assert_allclose(product(row, weights), row @ weights, rtol=1e-4, atol=1e-3)


def test_speech_goes_on_between_words() -> None:
    """An answer counts for HOLD ticks after it, and not for one more."""
    voice = voice_model()
    spoke = replace(voice.begin(), left=HOLD + 1)
    silence = windows(np.zeros(2 * SPEECH_RATE, np.float32))
    assert voice.advance(silence, voice.begin())[0].sum() == 0
    assert voice.advance(silence, spoke)[0].tolist() == [1] * HOLD + [0] * (50 - HOLD)


def test_people_in_the_next_room_do_not_begin(speak: Callable[[str], np.ndarray]) -> None:
    voice = voice_model()
    sentence = at_16k(speak("When the sunlight strikes raindrops in the air, they make a rainbow."))
    near = windows(sentence)
    _, state = voice.advance(near, voice.begin())
    assert state.loudest == levels(near).max()
    pause = windows(np.zeros(SPEECH_RATE // 2, np.float32))
    for decibel, begins in ((-6, True), (-25, False)):
        there = windows((sentence * 10 ** (decibel / 20)).astype(np.float32))[: 2 * FPS]
        _, silent = voice.advance(pause, state)
        shares, after = voice.advance(there, silent)
        assert shares.any() == begins, f"{decibel} dB"
        alone, _ = voice.advance(there, voice.begin())
        assert alone.mean() > 0.8, "whoever calls may speak softly"
    assert NOTHING < after.loudest < state.loudest, "who insists is heard in the end"


def test_where_nobody_speaks_lips_hear_silence() -> None:
    understanding, sound = Understanding(voice_model()), windows(hiss(2))
    spoken = understanding.advance(sound, understanding.begin())[0].spoken[None]
    assert (spoken == 0).any()
    features, silence = RNG.standard_normal((1, len(sound), 5)), RNG.standard_normal((1, 5))
    heard, speech = audible(features, spoken, silence)
    for each, feature, share in zip(heard[0], features[0], speech[0], strict=True):
        np.testing.assert_array_equal(each, feature if share else silence[0])


def test_the_tick_before_speech_begins_belongs_to_it() -> None:
    spoken = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]], np.float32)
    _, speech = audible(np.zeros((2, 6, 1)), spoken, np.zeros((2, 1)))
    assert speech.tolist() == [[0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


def test_no_context_keeps_the_mouth_open_while_nobody_speaks() -> None:
    """From a wide-open mouth, an odd past and no speech, the lips come to rest within half a second."""
    talker, face = open_talker(), face_model()
    sampler, plan = talker.sampler, talker.profile.window
    assert isinstance(sampler.quiet, Quiet)
    silence = talker.encoder.run(mel=np.full((1, *talker.mel_shape), -4, np.float32))["feature"][0]
    state = sampler.from_photo(np.zeros(70, np.float32), face.rest(), seed=0)
    state.history[:] = 4 * RNG.standard_normal(state.history.shape)
    mouth = face.mouth.repeat(3)
    quiet = np.zeros((1, plan.length), np.float32)
    sound = np.repeat(silence[None], plan.length, axis=0)[None]
    for _ in range(7):
        new, (state,) = sampler.advance([state], sound, quiet)
    assert np.abs((new - face.rest())[..., 7:][..., mouth]).max() < 0.8


def test_the_mouth_rests_on_a_noisy_line(speak: Callable[[str], np.ndarray]) -> None:
    talker, face = open_talker(), face_model()
    source = face.normalisation.denormalise(face.rest())
    canonical = face.canonical_keypoints(face.template)
    identity = Identity(talker.profile.name, "rest", canonical, source, np.zeros((512, 512, 3), np.uint8))
    speech = at_16k(speak("Good morning to everybody."))
    sound = np.concatenate([speech, hiss(2)])
    motion = np.stack([tick.motion for tick in talker.listen(talker.begin(identity), sound)])
    lips = face.offsets(motion[:, 7:].reshape(-1, 21, 3))
    opening = lips[:, 14, 1] - lips[:, 13, 1]
    opening -= np.median(opening[-25:])
    end = len(speech) // 640
    assert np.abs(opening[-25:]).max() < 0.15 * opening[:end].max()


def test_missing_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "voice.npz").write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match="voice tables"):
        voice_model(tmp_path)
