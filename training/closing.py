"""Whether the mouth closes when speech stops, and stays closed whatever else is heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.types import FPS, SPEECH_SAMPLES, FloatArray
from training.bench import Bench
from training.corpus import Item
from training.lips import SEEDS
from training.noises import LEVELS, at_level, babble, noise

AFTER = round(0.2 * FPS)  # frames until the mouth has to be closed
CLOSED = 0.10  # of the mean opening in speech
SPOKEN = 4 * FPS  # frames of each clip that are spoken before, at most
BABBLE = -40  # dB: people in the next room


def closing(runs: Sequence[Bench], items: list[Item], voices: list[FloatArray]) -> dict[str, Any]:
    """Opening above rest after speech stops, as a share of its mean in speech, for every sound that follows.

    `at_200_ms`: mean over clips. `later`: means over clips of the 95th percentile and of the largest opening of the two
    seconds after; `closed`: share of those frames within `CLOSED`. `voices`: what the babble is made of.
    """
    figures = {}
    for kind in (*LEVELS, "babble"):
        tails = [_tail(kind, number, voices) for number in range(len(items))]
        spoken = [item.clip.sound[-SPOKEN * SPEECH_SAMPLES :] for item in items]
        sounds = [np.concatenate([sound, tail]) for sound, tail in zip(spoken, tails, strict=True)]
        rows = []
        for bench in runs:
            made = bench.speak(sounds, [item.canonical for item in items], SEEDS[0])
            for sound, motion in zip(spoken, made, strict=True):
                opening = bench.lips(motion)[:, 0]
                end = len(sound) // SPEECH_SAMPLES
                after = opening[end + AFTER :] / opening[:end].mean()
                rows.append([after[0], np.quantile(after, 0.95), after.max(), (after < CLOSED).mean()])
        mean = np.mean(rows, axis=0)
        names = ("at_200_ms", "later_95", "later_largest", "closed")
        figures[kind] = {name: round(float(value), 3) for name, value in zip(names, mean, strict=True)}
    return figures


def _tail(kind: str, number: int, voices: list[FloatArray]) -> FloatArray:
    silence = noise("silence", number)
    if kind != "babble":
        return noise(kind, number)
    return at_level(babble(voices[number % 3 :: 3], len(silence)), BABBLE)
