"""A photo and a sound file to a video file: the live pipeline, fed as fast as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from engines.controls import DEFAULT, Controls
from engines.mark import marked
from engines.media import Speech, video_file
from engines.pipeline import Talker
from engines.published.cropping import PasteBack
from engines.renderer import Staged
from engines.types import FRAME_SIZE, SPEECH_SAMPLES, ByteArray, FloatArray, Identity, MotionTick

BATCH = 4  # frames rendered and written together


def motions(
    talker: Talker,
    identity: Identity,
    speech: Speech,
    seed: int = 0,
    controls: Controls = DEFAULT,
    other: Speech | None = None,
) -> Iterator[MotionTick]:
    """Motion of every frame of a finite sound, in order, one tick of sound at a time.

    `other`: what the person says meanwhile to whom the avatar listens.
    """
    talk = talker.begin(identity, seed, controls)
    for start in range(0, len(speech.pcm), SPEECH_SAMPLES):
        if other is not None:
            talker.hear(talk, other.pcm[start : start + SPEECH_SAMPLES])
        yield from talker.listen(talk, speech.pcm[start : start + SPEECH_SAMPLES])
    yield from talker.finish(talk, speech.frames)


def conversation(speech: Speech, other: Speech) -> tuple[Speech, Speech]:
    """Two people's sounds brought to one length by silence; with the first one both are played."""
    pcm, playback = (max(len(a), len(b)) for a, b in ((speech.pcm, other.pcm), (speech.playback, other.playback)))
    mine, theirs = (np.pad(one.pcm, (0, pcm - len(one.pcm))) for one in (speech, other))
    voices = [np.pad(one.playback, (0, playback - len(one.playback))).astype(np.int32) for one in (speech, other)]
    both = np.clip(voices[0] + voices[1], -32768, 32767).astype(np.int16)
    return Speech(mine, both), Speech(theirs, other.playback)


def frames(talker: Talker, identity: Identity, rows: Iterable[FloatArray]) -> Iterator[ByteArray]:
    """Pictures of motion rows (70,) as u8 (N, 512, 512, 3) batches of at most `BATCH`."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield talker.render([identity] * len(batch), np.stack(batch))


def render_file(
    talker: Talker,
    identity: Identity,
    speech: Speech,
    rows: Iterable[FloatArray],
    out: Path,
    *,
    paste: PasteBack | None = None,
    staged: Staged | None = None,
    mark: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the talking portrait to `out` (MP4, H.264 + AAC); returns the number of frames.

    `rows`: motion (70,) of every frame, such as `motions` gives; what exceeds the speech is left out. `paste`: the
    photo that the frames are put back into. `staged`: the face as it is to be shown, default: the crop. `mark`: draw
    the sign that this is an avatar. `on_progress` is called with the number of frames written so far.
    """
    size = (FRAME_SIZE, FRAME_SIZE) if paste is None else (paste.photo.shape[1], paste.photo.shape[0])
    if staged is not None:
        size = staged.size
    rows = islice(rows, speech.frames)
    pictures = frames(talker, identity, rows) if staged is None else (staged(row)[None] for row in rows)
    done = 0
    with video_file(out, speech.playback, size) as sink:
        for batch in pictures:
            shown = batch if paste is None else np.stack([paste(frame) for frame in batch])
            sink.write(np.stack([marked(frame) for frame in shown]) if mark else shown)
            done += len(batch)
            on_progress(done)
    return done
