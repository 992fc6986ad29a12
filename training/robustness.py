"""Other microphones, rooms, voices, languages: the mouth moves when somebody speaks and closes when nobody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from engines.media import load_speech
from engines.types import FPS, SPEECH_RATE, SPEECH_SAMPLES, FloatArray
from training.bench import Bench
from training.closing import AFTER, CLOSED
from training.corpus import Item
from training.lips import SEEDS
from training.metrics import FIGURES, score_rows
from training.noises import SECONDS, at_level, babble, noise

LANGUAGES = {
    "English, woman": "en_female_address",
    "English, man": "en_male_address",
    "German": "de_speech",
    "Spanish": "es_speech",
    "French": "fr_speech",
    "Chinese": "zh_news",
}
CHILD = 1.35  # pitch and formants of a child of about eight against a man's
Change = Callable[[FloatArray], FloatArray]


def filtered(sound: FloatArray, *filters: tuple[str, str]) -> FloatArray:
    """Sound f32 (samples,) at 16 kHz through FFmpeg's filters, (name, arguments) each; same rate, same length."""
    graph = av.filter.Graph()
    chain = [graph.add_abuffer(sample_rate=SPEECH_RATE, format="flt", layout="mono")]
    chain += [graph.add(*each) for each in filters]
    chain += [graph.add("aresample", str(SPEECH_RATE)), graph.add("aformat", "sample_fmts=flt:channel_layouts=mono")]
    chain += [graph.add("abuffersink")]
    graph.link_nodes(*chain).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None], np.float32), format="flt", layout="mono")
    frame.sample_rate = SPEECH_RATE
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            parts.append(np.asarray(graph.pull().to_ndarray(), np.float32)[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    made = np.concatenate(parts)[: len(sound)]
    return np.pad(made, (0, len(sound) - len(made)))


def telephone(sound: FloatArray) -> FloatArray:
    """300 to 3400 Hz at 8 kHz, as a telephone carries it."""
    band = (("highpass", "f=300:poles=2"), ("lowpass", "f=3400:poles=2"), ("aresample", "8000"))
    return filtered(sound, *band)


def child(sound: FloatArray) -> FloatArray:
    """The same words from a shorter throat: pitch and formants up, the pace kept."""
    return filtered(sound, ("asetrate", str(round(CHILD * SPEECH_RATE))), ("atempo", f"{1 / CHILD:.6f}"))


def _with(background: FloatArray, ratio: float) -> Change:
    """Background `ratio` decibels below the speech, before, during and after it."""

    def change(sound: FloatArray) -> FloatArray:
        spoken = 20 * np.log10(float(sound[np.abs(sound) > 0].std()))
        return sound + at_level(np.resize(background, len(sound)), spoken - ratio)

    return change


def changes(voices: list[FloatArray]) -> dict[str, Change]:
    """What is done to the held-out clips' sound; `voices` talk in the background of one of them."""
    crowd = babble(voices, int(10 * SPEECH_RATE))
    return {
        "as recorded": lambda sound: sound,
        "telephone band": telephone,
        "room noise, 20 dB below": _with(noise("room noise", 5, 10.0), 20),
        "room noise, 10 dB below": _with(noise("room noise", 6, 10.0), 10),
        "babble, 15 dB below": _with(crowd, 15),
        "music, 10 dB below": _with(noise("music", 7, 10.0), 10),
        "12 dB quieter": lambda sound: (0.25 * sound).astype(np.float32),
        "30 dB quieter": lambda sound: (0.032 * sound).astype(np.float32),
        "child's voice": child,
    }


def robustness(
    runs: Sequence[Bench], items: list[Item], arabic: list[Item], voices: list[FloatArray], root: Path
) -> dict[str, Any]:
    """Two tables: held-out clips with their sound changed, and speech of other languages, two seconds without each.

    `spoken`: mean opening while somebody speaks, eye distances. `at_200_ms`, `closed`: see `training.closing`.
    """
    pause = np.zeros(int(SECONDS * SPEECH_RATE), np.float32)
    changed = {}
    for name, change in changes(voices).items():
        sounds = [change(np.concatenate([item.clip.sound, pause]).astype(np.float32)) for item in items]
        ends = [len(item.motion) for item in items]
        curves = [_curves(bench, sounds, [item.canonical for item in items]) for bench in runs]
        truth = [runs[0].lips(item.motion) for item in items]
        rows = [score_rows([c[:e] for c, e in zip(made, ends, strict=True)], truth).mean(0) for made in curves]
        score = dict(zip(FIGURES, np.mean(rows, axis=0), strict=True))
        kept = ("opening", "width", "jaw", "opening amplitude")
        changed[name] = {key: round(float(score[key]), 3) for key in kept} | _closing(curves, ends)
    spoken = {name: load_speech(root / "speech" / f"{file}.flac").pcm for name, file in LANGUAGES.items()}
    if arabic:
        spoken["Arabic"] = np.concatenate([item.clip.sound for item in arabic])
    languages = {}
    for name, sound in spoken.items():
        whole = sound[: len(sound) // SPEECH_SAMPLES * SPEECH_SAMPLES]
        curves = [_curves(bench, [np.concatenate([whole, pause])], [np.zeros(70, np.float32)]) for bench in runs]
        languages[name] = _closing(curves, [len(whole) // SPEECH_SAMPLES])
    return {"changed sound": changed, "languages": languages}


def _curves(bench: Bench, sounds: list[FloatArray], canonical: list[FloatArray]) -> list[FloatArray]:
    return [bench.lips(motion) for motion in bench.speak(sounds, canonical, SEEDS[0])]


def _closing(curves: list[list[FloatArray]], ends: list[int]) -> dict[str, float]:
    rows = []
    for made in curves:
        for curve, end in zip(made, ends, strict=True):
            opening = curve[:, 0]
            speech = opening[:end]
            after = opening[end + AFTER :] / max(float(speech.mean()), 1e-3)
            rows.append([speech.mean(), np.abs(np.diff(speech)).mean() * FPS, after[0], (after < CLOSED).mean()])
    names = ("spoken", "speed", "at_200_ms", "closed")
    return {name: round(float(value), 3) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}
