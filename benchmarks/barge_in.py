"""How soon an avatar that is interrupted is silent and has closed its mouth, seen from outside.

The avatar says a long text (mode `speak`); somebody speaks over it. The clock runs from the departure of the first
packet in which that voice is heard to the arrival of the first sound from which on the avatar stays silent, and of the
first picture from which on its mouth stays closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import mouth
from benchmarks.caller import PACKET_SECONDS, Caller, CallError, Door, Recording, Voice, decoded
from benchmarks.figures import spread
from benchmarks.mouth import Curve
from benchmarks.wire import pictures
from engines.media import resample
from engines.types import PLAYBACK_RATE, FloatArray
from server.encode import PACKET_SAMPLES
from server.espeak import Espeak

TEXT = "The avatar goes on and on about matters that nobody asked it about, until somebody has had enough of it. " * 3
WORDS, THROAT = "Wait a moment, please, I have a question.", "en-us+f2"
LEAD, TALK, REST = 2.0, 3.0, 3.0  # seconds of quiet first, that the avatar speaks, and after the interruption
LOUDNESS = 0.3  # of the interrupting voice, at most
HEARD = 0.05  # of a voice's loudest packet: from there on it is heard
SILENT = 0.003  # level (RMS) of a packet below which nobody speaks
CLOSED = 0.2  # of how far the mouth opens while it speaks
OPENS = 0.01  # distances between the eyes by which it has to, to have closed afterwards
PATIENCE = 20.0  # seconds that sound and picture may take to come


@dataclass(frozen=True, slots=True)
class Attempt:
    """Packets of the voice, by number: when the text is sent, when the voice is first heard, when all is over."""

    asked: int
    onset: int
    over: int


async def measure(door: Door, trials: int) -> dict[str, Any]:
    """Interrupt an avatar so many times in one call; raises CallError."""
    voice, attempts = await script(trials)
    async with Caller(replace(door, url=f"{door.url}?mode=speak"), voice) as caller:
        for kind in ("audio", "video"):
            if not await caller.first(kind, PATIENCE):
                raise CallError(f"{door.url}: no {kind} came")
        for attempt in attempts:
            await caller.said(attempt.asked)
            await caller.post("speech", {"text": TEXT})
            await caller.said(attempt.over)
        recording = caller.recording()
    shown = mouth.curve(mouth.decoded(pictures(recording.video), recording.codec))
    return report(recording, shown, attempts)


async def script(trials: int) -> tuple[Voice, list[Attempt]]:
    """What the caller says, in which each attempt is quiet for as long as the avatar is to speak."""
    espeak = Espeak()
    try:
        said = [sound async for sound in espeak.speak(WORDS, THROAT)]
    finally:
        await espeak.close()
    words = np.concatenate([resample(sound.pcm, sound.rate, PLAYBACK_RATE) for sound in said])
    words *= LOUDNESS / np.abs(words).max()
    levels = packet_levels(words)
    first = int(np.argmax(levels > HEARD * levels.max()))
    parts, attempts = [quiet(LEAD)], []
    for _ in range(trials):
        asked = sum(map(len, parts)) // PACKET_SAMPLES
        onset = asked + round(TALK / PACKET_SECONDS) + first
        whole = words[: len(words) // PACKET_SAMPLES * PACKET_SAMPLES]
        parts += [quiet(TALK), whole, quiet(REST)]
        attempts.append(Attempt(asked, onset, sum(map(len, parts)) // PACKET_SAMPLES - 1))
    parts.append(quiet(1.0))
    return Voice.of(np.round(np.concatenate(parts) * 32767).astype(np.int16)), attempts


def report(recording: Recording, shown: Curve, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Milliseconds to silence and to the closed mouth; attempts at which the avatar did not speak are left out."""
    at = np.array([packet.at for packet in recording.audio.packets])
    levels = packet_levels(decoded([packet.data for packet in recording.audio.packets]))
    arrived = {round(picture.media * 90_000): picture.at for picture in pictures(recording.video)}
    seen = np.array([arrived[round(media * 90_000)] for media in shown.at])
    silent, closed = [], []
    for attempt in attempts:
        asked, onset, over = (recording.sent[number] for number in (attempt.asked, attempt.onset, attempt.over))
        talking, after = (at > onset - 1) & (at < onset), (at >= onset) & (at < over)
        if not talking.any() or levels[talking].max() < SILENT:
            continue
        silent.append(1000 * (settled(at[after], levels[after] < SILENT, over) - onset))
        before = shown.opening[(seen > asked - 1) & (seen < asked)]
        during = shown.opening[(seen > onset - TALK + 1) & (seen < onset)]
        if not (len(before) and len(during)):
            continue
        rest, wide = float(np.median(before)), float(np.percentile(during, 95))
        if wide - rest > OPENS:
            following = (seen >= onset) & (seen < over)
            shut = shown.opening[following] < rest + CLOSED * (wide - rest)
            closed.append(1000 * (settled(seen[following], shut, over) - onset))
    return {"trials": len(attempts), "barge_in_ms": spread(closed), "barge_in_sound_ms": spread(silent)}


def settled(moments: FloatArray, good: NDArray[np.bool_], end: float) -> float:
    """The first of the moments from which on all are good; `end` where there is none."""
    bad = np.flatnonzero(~good)
    first = int(bad[-1]) + 1 if len(bad) else 0
    return float(moments[first]) if first < len(moments) else end


def packet_levels(sound: FloatArray) -> FloatArray:
    """Level (RMS) of every 20 ms of sound f32 (samples,) at 48 kHz."""
    whole = sound[: len(sound) // PACKET_SAMPLES * PACKET_SAMPLES].reshape(-1, PACKET_SAMPLES)
    return np.asarray(np.sqrt((whole.astype(np.float64) ** 2).mean(1)), np.float32)


def quiet(seconds: float) -> FloatArray:
    return np.zeros(round(seconds / PACKET_SECONDS) * PACKET_SAMPLES, np.float32)
