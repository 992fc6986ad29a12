"""Scenes from which the voice tables are fitted: what is called speech in them, and the sounds around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")


import torch

from engines.audio import SILENCE
from engines.voice import voice_model
from tests.test_training import talking_items
from training.batches import WINDOW, amplitude
from training.recurrent import Listener, side_by_side
from training.scenes import ENDING, OTHER, PAUSE, SPEECH, TICKS, UNSURE, Scenes, kinds_of
from training.sounds import KINDS
from training.surroundings import MAKERS, surroundings
from training.voice import CHANGE, VoiceRecipe, changing, fit_voice


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
    for kind in {*KINDS, *MAKERS}:
        assert len(first[kind]) == (2 if kind in ("tune", "hiss") else 1)
        for sound, same, unlike in zip(first[kind], again[kind], other[kind], strict=True):
            np.testing.assert_array_equal(sound, same)
            assert not np.array_equal(sound, unlike)
            assert np.sqrt((sound**2).mean()) == pytest.approx(1, rel=1e-3)


def test_scenes_hold_speech_and_other_sounds() -> None:
    windows, kinds = Scenes(talking_items(), 3, sounds=1).draw(6)
    assert windows.shape == (6, TICKS, 80, 20)
    assert {SPEECH, OTHER} <= set(kinds.ravel().tolist())
    assert amplitude(windows).max() > 0


def test_a_scene_begins_with_silence() -> None:
    windows, _ = Scenes(talking_items(), 3, sounds=1).draw(6)
    assert (windows[:, 0, :, : WINDOW.lead] == SILENCE).all()
    assert (windows[:, WINDOW.lead :] > SILENCE).any()


def test_ticks_after_a_change_weigh_more() -> None:
    kinds = torch.tensor([[OTHER] * 3 + [SPEECH] * (CHANGE + 4)])
    assert changing(kinds)[0].tolist() == [0] * 3 + [1] * CHANGE + [0] * 4


def test_networks_side_by_side_answer_with_their_mean() -> None:
    torch.manual_seed(0)
    fits = [Listener(6, 4).tables(), Listener(8, 5).tables()]
    both = side_by_side(fits)
    windows = np.random.default_rng(0).normal(size=(9, 80, 20)).astype(np.float32)
    alone = [fit.advance(windows, fit.begin())[0] for fit in fits]
    mean = np.mean([np.log(answers / (1 - answers)) for answers in alone], axis=0)
    np.testing.assert_allclose(both.advance(windows, both.begin())[0], 1 / (1 + np.exp(-mean)), atol=1e-5)


def test_a_fit_hears_speech_and_writes_tables(tmp_path: Path) -> None:
    recipe = VoiceRecipe(features=16, state=8, steps=4, sequences=4, sounds=1)
    figures = fit_voice(talking_items(), tmp_path / "voice.npz", recipe)
    assert set(figures) == {"speech_heard", "others_passed_over"}
    assert voice_model(tmp_path).network.answer.shape == (16,)
