"""The Pipecat service in a real pipeline."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="pipecat-ai is not installed in this environment (make adapters)")

from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.tests.utils import SleepFrame, run_test

from engines.types import FRAME_SIZE, PLAYBACK_RATE, PLAYBACK_SAMPLES
from examples.pipecat_avatar import AvatarService
from server.performance import Performance
from tests.adapters.conftest import tone

RATE = 24_000


def speech(seconds: float) -> list[Frame]:
    """As a voice sends it: faster than it is spoken, in pieces of 100 ms."""
    pieces = round(seconds * 10)
    return [
        TTSStartedFrame(context_id="one"),
        *(TTSAudioRawFrame(tone(0.1, RATE), RATE, 1, context_id="one") for _ in range(pieces)),
        TTSStoppedFrame(context_id="one"),
    ]


def level(frame: TTSAudioRawFrame) -> int:
    return int(np.abs(np.frombuffer(frame.audio, np.int16)).max())


async def test_sound_comes_back_with_its_pictures_and_the_stop_after_it(performance: Performance) -> None:
    sent = [SleepFrame(0.4), *speech(1.0)]
    down, _ = await run_test(AvatarService(performance), frames_to_send=sent, start_timeout=30)
    sounds = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    pictures = [frame for frame in down if isinstance(frame, OutputImageRawFrame)]
    assert [len(frame.audio) for frame in sounds] == 25 * [2 * PLAYBACK_SAMPLES]
    assert {(frame.sample_rate, frame.num_channels, frame.context_id) for frame in sounds} == {
        (PLAYBACK_RATE, 1, "one")
    }
    assert min(map(level, sounds)) > 5000, "the whole second, and no hole in it"
    assert {(frame.size, frame.format, len(frame.image)) for frame in pictures} == {
        ((FRAME_SIZE, FRAME_SIZE), "RGB", 3 * FRAME_SIZE**2)
    }
    kinds = [type(frame) for frame in down]
    assert kinds.index(TTSStartedFrame) < kinds.index(TTSAudioRawFrame)
    assert kinds.index(TTSStoppedFrame) > max(at for at, kind in enumerate(kinds) if kind is TTSAudioRawFrame)
    synced = [at for at, frame in enumerate(down) if isinstance(frame, OutputImageRawFrame) and frame.sync_with_audio]
    assert synced
    assert all(kinds[at + 1] is TTSAudioRawFrame for at in synced), "a picture goes just before its sound"
    assert len({frame.image for frame in pictures}) > 10, "it moves"


async def test_an_interruption_silences_it(performance: Performance) -> None:
    sent = [*speech(5.0), SleepFrame(1.0), InterruptionFrame(), SleepFrame(0.6), *speech(0.2), SleepFrame(0.8)]
    down, _ = await run_test(AvatarService(performance), frames_to_send=sent, start_timeout=30)
    kinds = [type(frame) for frame in down]
    cut = kinds.index(InterruptionFrame)
    again = max(at for at, kind in enumerate(kinds) if kind is TTSStartedFrame)
    assert 5 <= kinds[:cut].count(TTSAudioRawFrame) < 60, "some of it was spoken, and much was not"
    assert kinds[cut:again].count(TTSAudioRawFrame) <= 1, "what was on its way"
    assert kinds[cut:again].count(OutputImageRawFrame) >= 5, "the face stays"
    assert kinds[again:].count(TTSAudioRawFrame) == 5
    assert kinds.count(TTSStoppedFrame) == 1, "of the second utterance; the first was cut"


async def test_it_leaves_nothing_behind(performance: Performance) -> None:
    await run_test(AvatarService(performance), frames_to_send=[], start_timeout=30)
    assert [task for task in asyncio.all_tasks() if "_show" in task.get_name()] == []
