"""Streamed and whole clips side by side: what the figures are made of."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.babble import babble
from benchmarks.offline import alike, figures, streamed
from benchmarks.probe import default_face
from engines.media import resample
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE


def test_motion_is_compared_where_both_have_it() -> None:
    random = np.random.default_rng(1)
    motion = random.standard_normal((40, 70)).astype(np.float32)
    assert alike(motion, 3 * motion[:32] + 1) == pytest.approx(1)
    assert alike(motion, -motion) == pytest.approx(-1)
    assert abs(alike(motion, random.standard_normal((40, 70)).astype(np.float32))) < 0.5


def test_what_does_not_keep_up_falls_further_behind() -> None:
    fine, slow = figures("fine", 0.01, 0.02, 0.2), figures("slow", 0.03, 0.02, 3.1)
    assert (fine["frames a second"], fine["keeps up with 25"], fine["added latency, s"]) == (33.33, True, 0.2)
    assert (slow["frames a second"], slow["keeps up with 25"], slow["added latency, s"]) == (20.0, False, "grows")


def test_a_streamed_talker_has_its_figures_and_its_motion() -> None:
    talker, identity = default_face()
    pcm = resample(babble(2.0).astype(np.float32) / 32768, PLAYBACK_RATE, SPEECH_RATE)
    row, motion = streamed("embedded", talker, identity, pcm, pictures=2)
    assert motion.shape[1] == 70
    assert 2 * FPS - talker.profile.window.length <= len(motion) <= 2 * FPS
    assert row["first frame after, s"] > talker.profile.delay
