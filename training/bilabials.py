"""Whether the lips meet on p, b and m: where phonemes are known, and where the tracked lips are known to have met."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engines.types import FPS, FloatArray
from training import phonemes
from training.bench import Bench
from training.corpus import Item
from training.lips import SEEDS

BILABIAL = frozenset("pbm")
LABIAL = BILABIAL | frozenset("fvw")  # sounds for which lips come near each other as well
BEFORE, AFTER = 0.06, 0.04  # seconds around a phoneme: the closure of a stop precedes its burst
SHORT = 5  # frames of a moment at which lips meet in speech, at most
LONGEST = 0.12  # seconds of a phoneme that are looked at
# Words of the GRID corpus by their first sound; letters are spoken by their names.
GRID_BILABIAL = frozenset(("bin", "blue", "by", "place", "please", "b", "p"))
GRID_OPEN = frozenset(
    ("lay", "set", "green", "at", "in", "now", "again", "soon", "two", "six", "seven", "eight", "nine", "zero")
) | frozenset("acdeghijklnoqstxyz")
SENTENCES = (
    "My brother Peter bought a big blue paper map.",
    "Maybe Bob put the empty box back by the pump.",
    "The baby was happy to jump above the purple table.",
    "Please remember to bring bread, milk and apples home.",
    "A number of people hope to climb the summit in May.",
    "She said that the dog had gone again, hadn't it?",
    "He can see ten cats sitting on the stone stairs.",
)
VOICES = ("en-us", "en", "en+f3", "en-us+m3")


@dataclass(frozen=True, slots=True)
class Closures:
    """Smallest opening in eye distances around bilabials, and around sounds that keep the lips apart."""

    bilabial: FloatArray
    other: FloatArray

    def at(self, threshold: float) -> dict[str, Any]:
        """Shares below `threshold`, and how often a bilabial is the more closed of the two (the area under the ROC)."""
        wins = (self.bilabial[:, None] < self.other).mean() + 0.5 * (self.bilabial[:, None] == self.other).mean()
        return {
            "bilabials": len(self.bilabial),
            "closed": round(float((self.bilabial < threshold).mean()), 3),
            "others": len(self.other),
            "others_closed": round(float((self.other < threshold).mean()), 3),
            "separation": round(float(wins), 3),
        }


def separating_threshold(truth: Closures) -> float:
    """Opening midway between the medians of tracked bilabials and of other tracked sounds, eye distances."""
    return float(np.median(truth.bilabial) + np.median(truth.other)) / 2


def _smallest(opening: FloatArray, begin: float, end: float) -> float | None:
    first, last = max(0, round((begin - BEFORE) * FPS)), round((min(end, begin + LONGEST) + AFTER) * FPS)
    return float(opening[first : last + 1].min()) if first < len(opening) else None


def _gather(found: list[tuple[bool, float | None]]) -> Closures:
    pairs = [(bilabial, value) for bilabial, value in found if value is not None]
    return Closures(*(np.array([v for is_it, v in pairs if is_it is wanted]) for wanted in (True, False)))


def grid_closures(openings: Sequence[FloatArray], items: Sequence[Item], root: Path) -> Closures:
    """Around the beginnings of words in clips of ``grid_s1``; `openings` (T,) of every clip."""
    words = json.loads((root / "talking" / "grid_s1" / "words.json").read_text())
    found = []
    for opening, item in zip(openings, items, strict=True):
        spoken = words[item.clip.name]
        for (_, _, before), (begin, _, word) in pairwise(spoken):
            if word in GRID_BILABIAL:
                found.append((True, _smallest(opening, begin, begin)))
            elif word in GRID_OPEN and before != "sil":
                found.append((False, _smallest(opening, begin + BEFORE, begin + LONGEST)))
    return _gather(found)


def spoken_closures(bench: Bench, seed: int = SEEDS[0]) -> Closures:
    """Around the phonemes of espeak-ng's speech: `SENTENCES` in `VOICES`."""
    speech = [phonemes.speak(text, voice) for voice in VOICES for text in SENTENCES]
    canonical = [np.zeros(len(bench.sampler.guidance), np.float32)] * len(speech)
    made = bench.speak([each.sound for each in speech], canonical, seed)
    found = []
    for each, motion in zip(speech, made, strict=True):
        opening = bench.lips(motion)[:, 0]
        for bilabial, phoneme in _kinds(each.phonemes):
            found.append((bilabial, _smallest(opening, phoneme.begin, phoneme.end)))
    return _gather(found)


def _kinds(said: Sequence[phonemes.Phoneme]) -> Iterator[tuple[bool, phonemes.Phoneme]]:
    """Bilabials, and sounds with neither a labial nor a pause beside them."""
    for index, phoneme in enumerate(said):
        if phoneme.name in BILABIAL:
            yield True, phoneme
        elif not any(near.name[0] in LABIAL or near.name[0] in "_(" for near in said[max(0, index - 1) : index + 3]):
            yield False, phoneme


def met_closures(ours: Sequence[FloatArray], truth: Sequence[FloatArray], threshold: float) -> dict[str, Any]:
    """Moments in speech at which the tracked lips met, and whether ours do, within a frame.

    A moment is a dip of at most `SHORT` frames below `threshold` between frames that are open. Reported beside the
    share of all other windows of the same length in which ours meet.
    """
    hits, elsewhere = [], []
    for mine, true in zip(ours, truth, strict=True):
        closed = true < threshold
        edges = np.flatnonzero(np.diff(closed.astype(int)))
        for first, last in pairwise(edges):
            if closed[first + 1] and last - first <= SHORT:
                hits.append(mine[max(0, first) : last + 2].min() < threshold)
        near = np.convolve(closed, np.ones(5), "same") > 0
        for frame in np.flatnonzero(~near[1:-1]) + 1:
            elsewhere.append(mine[frame - 1 : frame + 2].min() < threshold)
    return {
        "moments": len(hits),
        "closed": round(float(np.mean(hits)), 3),
        "elsewhere": round(float(np.mean(elsewhere)), 3),
    }


def bilabials(runs: Sequence[Bench], studio: list[Item], natural: list[Item], root: Path) -> dict[str, Any]:
    """Every measure of closing on bilabials; the threshold comes from the tracked studio clips."""
    bench = runs[0]
    true = [bench.lips(item.motion)[:, 0] for item in studio]
    tracked = grid_closures(true, studio, root)
    threshold = separating_threshold(tracked)
    figures: dict[str, Any] = {"threshold": round(threshold, 4), "studio, tracked": tracked.at(threshold)}
    made = [[each.lips(m)[:, 0] for m in each.generate(studio, SEEDS[0])] for each in runs]
    figures["studio, ours"] = _merge([grid_closures(openings, studio, root) for openings in made]).at(threshold)
    if phonemes.available():
        figures["espeak-ng, ours"] = _merge([spoken_closures(each) for each in runs]).at(threshold)
    true = [bench.lips(item.motion)[:, 0] for item in natural] * len(runs)
    ours = [each.lips(motion)[:, 0] for each in runs for motion in each.generate(natural, SEEDS[0])]
    figures["natural, where tracked lips met"] = met_closures(ours, true, threshold)
    return figures


def _merge(parts: Sequence[Closures]) -> Closures:
    return Closures(np.concatenate([part.bilabial for part in parts]), np.concatenate([part.other for part in parts]))
