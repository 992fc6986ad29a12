"""What long speech looks like when it is made piece by piece: no seams at any hop, no drift within an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from engines import motion
from engines.face_mesh import face_model
from engines.media import resample
from engines.pipeline import Talker
from engines.profile import EMBEDDED, LONGEST_HOP
from engines.talkers import open_talker
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE, SPEECH_SAMPLES, FloatArray, Identity

SENTENCES = (
    "Maybe my mom will bring a big apple pie, and we will eat it together in the garden this evening.",
    "Good morning everybody, the train to the coast will leave from platform number seven in ten minutes.",
    "I never said that she stole the money.",
    "Please remember to close the windows before you leave, because it is going to rain tonight.",
    "Well, why not?",
)
PAUSES = (0.2, 0.5, 1.0, 8.0)  # seconds after a sentence
HOUR, TEN_MINUTES = 3600 * FPS, 600 * FPS
PHASES = range(0, 16, 2)  # frames of silence before a sentence, so that borders fall everywhere in it


@pytest.fixture(scope="module")
def sentences(speak: Callable[[str], np.ndarray]) -> list[FloatArray]:
    """Speech at 16 kHz, whole frames."""
    found = [resample(speak(text).astype(np.float32) / 32768, PLAYBACK_RATE, SPEECH_RATE) for text in SENTENCES]
    return [sound[: len(sound) // SPEECH_SAMPLES * SPEECH_SAMPLES] for sound in found]


@pytest.mark.parametrize("hop", [2, 8, 16])
def test_no_seam_is_seen_where_hops_meet(sentences: list[FloatArray], hop: int) -> None:
    """First and second difference of the lips at hop borders against those elsewhere."""
    pytest.importorskip("torch", reason="what is measured on lips belongs to training, which needs PyTorch")
    pytest.importorskip("soundfile", reason="reading tracks needs soundfile")
    from benchmarks.motion import folder_of_weights
    from training.bench import open_bench
    from training.metrics import border_ratio

    bench = open_bench(folder_of_weights())
    bench = replace(bench, sampler=replace(bench.sampler, plan=EMBEDDED.with_hop(hop).window))
    canonical = bench.face.normalisation.canonical_token(bench.face.canonical_keypoints(bench.face.template))
    sounds = [np.pad(sound, (phase * SPEECH_SAMPLES, 0)) for sound in sentences for phase in PHASES]
    curves = [bench.lips(made) for made in bench.speak(sounds, [canonical] * len(sounds), seed=1)]
    jump, bend = (border_ratio(curves, hop, order) for order in (1, 2))
    assert 0.8 < jump < 1.25, jump
    assert 0.85 < bend < 1.15, bend


def talk_of_an_hour(sentences: list[FloatArray]) -> Iterator[FloatArray]:
    """Sound, piece by piece: a sentence of any loudness and a pause."""
    rng, frames = np.random.default_rng(5), 0
    while frames < HOUR:
        speech = sentences[rng.integers(len(sentences))] * rng.uniform(0.3, 1.2)
        piece = np.pad(speech, (0, round(rng.choice(PAUSES) * FPS) * SPEECH_SAMPLES)).astype(np.float32)
        yield piece[: (HOUR - frames) * SPEECH_SAMPLES]
        frames += len(piece) // SPEECH_SAMPLES


def call(talker: Talker, sounds: Iterator[FloatArray]) -> FloatArray:
    """Motion (T, 70) of an hour-long call with a face that looks straight ahead."""
    face, straight = face_model(), np.zeros(3, np.float32)
    source = motion.pack(1.0, straight, straight, np.zeros((21, 3), np.float32))
    canonical = face.canonical_keypoints(face.template)
    identity = Identity(talker.profile.name, "rest", canonical, source, np.zeros((512, 512, 3), np.uint8))
    talk, rows = talker.begin(identity, 3), []
    for sound in sounds:
        rows += [tick.motion for tick in talker.listen(talk, sound)]
    rows += [tick.motion for tick in talker.finish(talk, HOUR)]
    return np.stack(rows)


@pytest.mark.timeout(900)
def test_an_hour_of_talk_does_not_drift(sentences: list[FloatArray]) -> None:
    """The whole way of motion: sound, denoiser, life and limits, at the hop that computes least."""
    talker = open_talker(hop=LONGEST_HOP)
    made = call(talker, talk_of_an_hour(sentences))
    assert made.shape == (HOUR, 70)
    first, last = made[:TEN_MINUTES], made[-TEN_MINUTES:]
    for angles in (made - first.mean(0), last - first.mean(0), made):
        assert (np.abs(angles.mean(0)[motion.ANGLES]) < 2).all()
    spread = last.std(0) / first.std(0)  # of head, lips, eyes and brows
    assert ((spread > 0.75) & (spread < 1.33)).all(), spread
    shift = np.abs(last.mean(0) - first.mean(0)) / first.std(0)
    assert shift.max() < 0.3, shift
