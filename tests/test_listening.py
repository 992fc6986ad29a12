"""The other person's sound, on its way to the avatar's head."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engines.cli import render
from engines.face_mesh import face_model
from engines.media import Speech
from engines.motion import EXPRESSION, PITCH
from engines.offline import conversation, motions
from engines.pipeline import Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import PLAYBACK_RATE, SPEECH_RATE, SPEECH_SAMPLES, FloatArray, Identity, KDTalkerError

SECONDS = 40


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    return talker.renderer.enrol(prepare((files("engines") / "avatars" / "astronaut.jpg").read_bytes()))


def speech_of(sound: FloatArray) -> Speech:
    playback = np.repeat(sound, PLAYBACK_RATE // SPEECH_RATE)
    return Speech(sound, np.round(32767 * playback).astype(np.int16))


@pytest.fixture(scope="module")
def phrases() -> Speech:
    """Phrases of two seconds, four syllables each second, with pauses of one."""
    time = np.arange(SECONDS * SPEECH_RATE) / SPEECH_RATE
    voice = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1) * (time % 3 < 2)
    return speech_of(np.asarray(0.2 * voice * syllables, np.float32))


@pytest.fixture(scope="module")
def nothing() -> Speech:
    return speech_of(np.zeros(SECONDS * SPEECH_RATE, np.float32))


def rows(talker: Talker, identity: Identity, speech: Speech, other: Speech | None) -> FloatArray:
    return np.stack([tick.motion for tick in motions(talker, identity, speech, seed=4, other=other)])


def test_an_avatar_nods_to_whom_it_hears_and_keeps_its_mouth(
    talker: Talker, identity: Identity, phrases: Speech, nothing: Speech
) -> None:
    alone = rows(talker, identity, nothing, None)
    listening = rows(talker, identity, nothing, phrases)
    nods = listening[:, PITCH] - alone[:, PITCH]
    assert np.abs(nods).max() > 0.8
    assert (np.abs(nods) < 1e-4).mean() > 0.4
    mouth = np.repeat(face_model().mouth, 3)
    np.testing.assert_array_equal(listening[:, EXPRESSION][:, mouth], alone[:, EXPRESSION][:, mouth])
    np.testing.assert_array_equal(rows(talker, identity, nothing, nothing), alone)


def test_what_is_heard_may_come_in_any_pieces(talker: Talker, identity: Identity, phrases: Speech) -> None:
    silence = np.zeros(20 * SPEECH_RATE, np.float32)
    made = []
    for step in (SPEECH_SAMPLES, 5 * SPEECH_SAMPLES):
        talk = talker.begin(identity, 4)
        talker.hear(talk, phrases.pcm[: SPEECH_RATE // 2])  # half a second ahead
        ticks = []
        for start in range(0, len(silence), SPEECH_SAMPLES):
            if start % step == 0:
                talker.hear(talk, phrases.pcm[SPEECH_RATE // 2 + start :][:step])
            ticks += talker.listen(talk, silence[start : start + SPEECH_SAMPLES])
        made.append(np.stack([tick.motion for tick in ticks]))
    np.testing.assert_array_equal(made[0], made[1])


def test_sound_that_comes_late_is_not_heard_in_the_wrong_tick(
    talker: Talker, identity: Identity, phrases: Speech
) -> None:
    """The other's sound stalls and then comes in one lump: from there on the avatar hears as if nothing had been."""
    silence = np.zeros(SPEECH_SAMPLES, np.float32)
    prompt, late = talker.begin(identity, 4), talker.begin(identity, 4)
    for tick in range(100):
        pcm = phrases.pcm[tick * SPEECH_SAMPLES : (tick + 1) * SPEECH_SAMPLES]
        talker.hear(prompt, pcm)
        if tick == 60:
            talker.hear(late, phrases.pcm[: 61 * SPEECH_SAMPLES])
        elif tick > 60:
            talker.hear(late, pcm)
        talker.listen(prompt, silence)
        talker.listen(late, silence)
    assert late.heard == prompt.heard
    assert len(late.heard) < 10


def test_conversations_last_as_long_as_the_longer_person(phrases: Speech) -> None:
    short = speech_of(np.full(SPEECH_RATE, 0.25, np.float32))
    mine, theirs = conversation(short, phrases)
    assert len(mine.pcm) == len(theirs.pcm) == len(phrases.pcm)
    assert not mine.pcm[SPEECH_RATE:].any()
    np.testing.assert_array_equal(theirs.pcm, phrases.pcm)
    both = np.clip(short.playback.astype(int) + phrases.playback[:PLAYBACK_RATE], -32768, 32767)
    np.testing.assert_array_equal(mine.playback[:PLAYBACK_RATE], both)
    np.testing.assert_array_equal(mine.playback[PLAYBACK_RATE:], phrases.playback[PLAYBACK_RATE:])


def test_the_published_profile_cannot_listen(tmp_path: Path, speak: Callable[[str], np.ndarray]) -> None:
    sound = tmp_path / "speech.wav"
    soundfile.write(sound, speak("Hello."), PLAYBACK_RATE)
    photo = str(files("engines") / "avatars" / "iris.png")
    command = [photo, str(sound), "-o", str(tmp_path / "out.mp4"), "--listen", str(sound), "--profile", "kdtalker"]
    with pytest.raises(KDTalkerError, match="embedded profile"):
        render(command)
