"""A photo and a sound file to a video file: the live pipeline, fed as fast as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engines.media import Speech, video_file
from engines.pipeline import Talker
from engines.types import SPEECH_SAMPLES, ByteArray, Identity, MotionTick

BATCH = 8  # frames rendered and written together


def motions(talker: Talker, identity: Identity, speech: Speech, seed: int = 0) -> Iterator[MotionTick]:
    """Motion of every frame of a finite sound, in order, one tick of sound at a time."""
    talk = talker.begin(identity, seed)
    for start in range(0, len(speech.pcm), SPEECH_SAMPLES):
        yield from talker.listen(talk, speech.pcm[start : start + SPEECH_SAMPLES])
    yield from talker.finish(talk, speech.frames)


def frames(talker: Talker, identity: Identity, speech: Speech, seed: int = 0) -> Iterator[ByteArray]:
    """Pictures of a finite sound as u8 (N, 512, 512, 3) batches of at most `BATCH`."""
    pending: list[MotionTick] = []
    for tick in motions(talker, identity, speech, seed):
        pending.append(tick)
        if len(pending) == BATCH:
            yield _render(talker, identity, pending)
            pending = []
    if pending:
        yield _render(talker, identity, pending)


def render_file(
    talker: Talker,
    identity: Identity,
    speech: Speech,
    out: Path,
    *,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the talking portrait to `out` (MP4, H.264 + AAC); returns the number of frames.

    `on_progress` is called with the number of frames written so far.
    """
    done = 0
    with video_file(out, speech.playback) as sink:
        for batch in frames(talker, identity, speech, seed):
            sink.write(batch)
            done += len(batch)
            on_progress(done)
    return done


def _render(talker: Talker, identity: Identity, ticks: list[MotionTick]) -> ByteArray:
    return talker.render([identity] * len(ticks), np.stack([tick.motion for tick in ticks]))
