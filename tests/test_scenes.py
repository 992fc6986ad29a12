"""Scenes from which the voice tables are fitted: what is called speech in them, and the sounds around it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.test_training import talking_items
from training.batches import amplitude
from training.scenes import ENDING, OTHER, PAUSE, SPEECH, TICKS, UNSURE, Scenes, kinds_of
from training.surroundings import MAKERS, surroundings


def test_gaps_between_words_are_speech_and_longer_ones_are_not() -> None:
    loud = np.ones(400, np.float32)
    loud[100 : 100 + PAUSE - 1] = 0.001
    loud[200 : 200 + 3 * PAUSE] = 0.001
    kinds = kinds_of(loud)
    assert (kinds[:200] == SPEECH).all()
    assert (kinds[200 : 200 + ENDING] == UNSURE).all()
    assert (kinds[200 + ENDING : 198 + 3 * PAUSE] == OTHER).all()
    assert (kinds[200 + 3 * PAUSE :][:50] == SPEECH).all()


def test_sounds_around_are_a_function_of_the_seed_and_as_loud_throughout() -> None:
    first, again, other = (surroundings.__wrapped__(seed, 1) for seed in (1, 1, 2))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first[-1], other[-1])
    assert len(first) == 3 + len(MAKERS) + 2
    np.testing.assert_allclose([np.sqrt((sound**2).mean()) for sound in first], 1, rtol=1e-3)


def test_scenes_hold_speech_and_other_sounds() -> None:
    windows, kinds = Scenes(talking_items(), 3, sounds=1).draw(6)
    assert windows.shape == (6, TICKS, 80, 20)
    assert {SPEECH, OTHER} <= set(kinds.ravel().tolist())
    assert amplitude(windows).max() > 0
