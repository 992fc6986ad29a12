"""Lips that meet on p, b and m and stay apart elsewhere, heard by the network that is asked for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.audio import log_mel, mel_windows
from engines.contact import GAP, ContactModel, contact_model
from engines.face_mesh import face_model
from engines.profile import EMBEDDED
from engines.talkers import open_talker
from engines.types import SPEECH_RATE, FloatArray, Identity, WeightsError
from engines.understanding import HEARS_ALL, Understanding
from engines.voice import voice_model
from training import phonemes

FACE = face_model()
pytestmark = pytest.mark.skipif(not phonemes.available(), reason="espeak-ng is not installed: no known sounds to hear")


def windows(sound: FloatArray) -> FloatArray:
    return mel_windows(log_mel(sound), EMBEDDED.mel, len(sound) // 640)


def heard(text: str) -> tuple[FloatArray, phonemes.Spoken]:
    """What the network says of every frame of a spoken text, -1 to 1."""
    said = phonemes.speak(text)
    model = contact_model()
    lips, _ = model.advance(windows(np.pad(said.sound, (0, SPEECH_RATE))), model.begin())
    return lips[1:], said


def around(lips: FloatArray, said: phonemes.Spoken, name: str) -> list[float]:
    """The highest answer near every sound called `name`."""
    begins = [each.begin for each in said.phonemes if each.name == name]
    return [float(lips[max(0, int((begin - 0.08) * 25)) : int((begin + 0.08) * 25) + 1].max()) for begin in begins]


@pytest.mark.parametrize(("bilabial", "consonant"), [("mama", "m"), ("papa", "p"), ("bobby", "b")])
def test_lips_are_drawn_together_for_bilabials_and_not_for_other_sounds(bilabial: str, consonant: str) -> None:
    lips, said = heard(f"Da, {bilabial} {bilabial}.")
    others, hissed = heard("Da, sasa sasa.")
    together, apart = around(lips, said, consonant), around(others, hissed, "s")
    assert len(together) > 0
    assert len(apart) > 0
    assert np.mean(together) > 0.5
    assert np.mean(apart) < 0.1


def test_ticks_one_by_one_give_what_all_at_once_give() -> None:
    understanding = Understanding(voice_model(), contact_model())
    mels = windows(phonemes.speak("Mama and papa.").sound)
    whole, after = understanding.advance(mels, understanding.begin())
    state, spoken, lips = understanding.begin(), [], []
    for row in range(len(mels)):
        once, state = understanding.advance(mels[row : row + 1], state)
        spoken.append(once.spoken[0])
        lips.append(once.lips[0])
    np.testing.assert_array_equal(spoken, whole.spoken)
    np.testing.assert_array_equal(lips, whole.lips)
    assert state.contact is not None
    assert after.contact is not None
    np.testing.assert_array_equal(state.contact, after.contact)


def test_a_mouth_closes_and_parts_as_far_as_it_is_told_to() -> None:
    contact = contact_model().contact(FACE)
    half_open = FACE.rest() + 0.03 * contact.closing

    def opening(lips: float, frame: FloatArray = half_open) -> float:
        return float((contact.shaped(frame, np.float32(lips)) - FACE.rest()) @ contact.opening)

    assert [opening(lips) for lips in (1, 0.5, 0, -0.5, -1)] == pytest.approx([0, 0.015, 0.03, 0.045, GAP], abs=1e-3)
    wide, shut = FACE.rest() + 0.2 * contact.closing, FACE.rest() - 0.01 * contact.closing
    assert opening(-1, wide) == pytest.approx(0.2, abs=1e-3)
    assert opening(1, shut) == pytest.approx(-0.01, abs=1e-3)
    moved = contact.shaped(half_open, np.float32(1)) != half_open
    assert not moved[7:][~FACE.mouth.repeat(3)].any()
    assert not moved[:7].any()


def test_the_jaw_goes_with_the_lips_but_not_as_far() -> None:
    chin = FACE.offsets(contact_model().closing)[152, 1]
    assert 0.1 < chin < 0.6


def test_nothing_but_speech_parts_lips() -> None:
    """Where nobody speaks the answer may draw lips together, never apart."""
    hum = (0.05 * np.sin(np.arange(2 * SPEECH_RATE) * 0.05)).astype(np.float32)
    hiss = (0.003 * np.random.default_rng(0).standard_normal(2 * SPEECH_RATE)).astype(np.float32)
    understanding = Understanding(voice_model(), contact_model())
    for sound in (np.zeros(2 * SPEECH_RATE, np.float32), hum, hiss):
        mels = windows(sound)
        known, _ = understanding.advance(mels, understanding.begin())
        assert (known.lips >= -known.spoken).all()


def test_without_networks_all_sound_is_speech_and_lips_are_unknown() -> None:
    sound = np.ones((3, 80, 20), np.float32)
    known, state = HEARS_ALL.advance(sound, HEARS_ALL.begin())
    assert state.voice is None
    assert state.contact is None
    np.testing.assert_array_equal(known.spoken, 1)
    np.testing.assert_array_equal(known.lips, 0)


def test_a_call_shows_closed_lips_on_bilabials() -> None:
    """In the motion of a call lips come nearer on m and p than they do when nothing is known of them."""
    talker = open_talker()
    source = FACE.normalisation.denormalise(FACE.rest())
    identity = Identity(
        talker.profile.name,
        "rest",
        FACE.canonical_keypoints(FACE.template),
        source,
        np.zeros((512, 512, 3), np.uint8),
    )
    said = phonemes.speak("My mama and my papa made plum jam.")
    motion = np.stack([tick.motion for tick in talker.listen(talker.begin(identity), said.sound)])
    lips = FACE.offsets(motion[:, 7:].reshape(-1, 21, 3) - source[7:].reshape(21, 3))
    opening = lips[:, [14, 87, 317], 1].mean(1) - lips[:, [13, 82, 312], 1].mean(1)
    smallest = []
    for each in said.phonemes:
        if each.name in {"m", "p"}:
            near = opening[max(0, int((each.begin - 0.06) * 25)) : int((each.begin + 0.1) * 25) + 1]
            smallest.extend([near.min()] if len(near) else [])
    assert len(smallest) > 5
    assert np.median(smallest) < 0.4 * np.median(opening)


def test_missing_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "contact.npz").write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match="contact tables"):
        contact_model(tmp_path)


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = contact_model()
    model.save(tmp_path / "contact.npz")
    again = contact_model(tmp_path)
    assert isinstance(again, ContactModel)
    np.testing.assert_array_equal(again.closing, model.closing)
    np.testing.assert_array_equal(again.network.reading, model.network.reading)
