"""Sound that is taken back: the engines forget it, and the mouth closes with the next window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.audio import SILENCE, MelStream
from engines.media import load_speech
from engines.pipeline import Talker
from engines.portrait.prepare import prepare
from engines.profile import EMBEDDED
from engines.talkers import open_talker
from engines.types import SPEECH_SAMPLES, Identity
from tests.test_server import PORTRAIT


@pytest.fixture(scope="module")
def talker() -> Talker:
    return open_talker()


@pytest.fixture(scope="module")
def identity(talker: Talker) -> Identity:
    return talker.renderer.enrol(prepare(PORTRAIT.read_bytes()))


def test_a_hushed_mel_stream_hears_silence_where_windows_were_not_complete() -> None:
    chance = np.random.default_rng(1)
    stream = MelStream(EMBEDDED.mel)
    sound = chance.normal(0, 0.1, 40 * SPEECH_SAMPLES).astype(np.float32)
    before = stream.push(sound)
    stream.hush()
    after = stream.push(np.zeros(10 * SPEECH_SAMPLES, np.float32))
    assert [tick.tick for tick in before + after] == list(range(len(before) + len(after))), "no frame is lost"
    assert all((tick.window == SILENCE).all() for tick in after)


def test_the_mouth_closes_with_the_next_window(talker: Talker, identity: Identity, data: Path) -> None:
    pcm = load_speech(data / "speech" / "en_male_address.flac").pcm
    contact, normalisation = talker.sampler.contact, talker.placing.normalisation
    assert contact is not None

    def openings(hushed_at: int) -> tuple[list[float], list[float]]:
        """How far the mouth is open in the two frames before what is hushed after so many ticks, and in six after."""
        talk = talker.begin(identity, seed=3)
        made = []
        for tick in range(hushed_at + 12):
            at = tick * SPEECH_SAMPLES
            sound = pcm[at : at + SPEECH_SAMPLES] if tick < hushed_at else np.zeros(SPEECH_SAMPLES, np.float32)
            if tick == hushed_at:
                talker.hush(talk)
                first = talk.sampler.next_tick
            made += [normalisation.normalise(motion.motion) @ contact.opening for motion in talker.listen(talk, sound)]
        rest = made[-1]
        relative = [float(value - rest) for value in made]
        return relative[first - 2 : first], relative[first : first + 6]

    found = [openings(at) for at in range(60, 180, 17)]
    wide = [(before, after) for before, after in found if max(before) > 0.05]
    assert len(wide) >= 3, "mouths that were open"
    for before, after in wide:
        assert after[0] < 0.6 * max(before), "smoothed with the frame before"
        assert max(after[1:]) < 0.2 * max(before), (before, after)
