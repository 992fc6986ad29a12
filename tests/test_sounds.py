"""Sounds that are not speech, and windows of training in which only they are heard."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.audio import log_mel
from engines.face_mesh import face_model
from engines.types import SPEECH_RATE
from tests.test_training import talking_items
from training.batches import Batches, amplitude
from training.corpus import mouth_numbers
from training.shapes import mirror_index
from training.sounds import KINDS, MAKERS, amplitude_bank


def test_the_bank_is_a_function_of_the_seed_and_as_loud_throughout() -> None:
    first, again, other = (amplitude_bank(seed, each=2) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (2 * len(KINDS), 241, 80)
    np.testing.assert_allclose(np.sqrt((first**2).mean((1, 2))), 1, rtol=1e-4)


def test_kinds_sound_as_they_are_called() -> None:
    """Breaths have no pitch, music has lines in its spectrum, knocks are short."""
    rng = np.random.default_rng(0)
    breath, music, knocks = (np.stack([MAKERS[kind](rng) for _ in range(8)]) for kind in KINDS)

    def flatness(sounds: np.ndarray) -> float:
        """Geometric over arithmetic mean of neighbouring bands' power while it sounds."""
        found = []
        for sound in sounds:
            power = amplitude(log_mel(0.05 * sound))[30:70].astype(np.float64) ** 2 + 1e-12
            power = power[:, power.sum(0) > np.median(power.sum(0))]
            found.append(np.median(np.exp(np.log(power).mean(0)) / power.mean(0)))
        return float(np.median(found))

    def busy(sounds: np.ndarray) -> float:
        """Share of 20 ms stretches within 20 dB of the loudest."""
        level = np.abs(sounds[:, : 150 * 320]).reshape(len(sounds), 150, 320).mean(2)
        return float((level > 0.1 * level.max(1, keepdims=True)).mean())

    assert flatness(breath) > 1.5 * flatness(music)
    assert busy(knocks) < 0.7 * min(busy(breath), busy(music))
    assert breath.shape == (8, 3 * SPEECH_RATE)


def test_the_mouth_is_shut_in_the_silences_of_training() -> None:
    face = face_model()
    mesh = face.template.copy()
    mesh[np.flatnonzero(mesh[:, 1] > mesh[13, 1] + 0.03)] += np.array([0, 0.12, 0], np.float32)
    batch = Batches(talking_items(), face, mirror_index(mesh), 0, {"clips": 1.0}, silences=1.0).draw(3000)
    shut = np.abs(batch.motion - face.rest())[..., mouth_numbers(face)].max(-1) < 1e-5
    assert shut.mean() > 0.2
    assert batch.silenced.all()
