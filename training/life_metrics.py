"""How alive head, brows and eyes are, against tracked people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines import motion
from engines.audio import log_mel, mel_windows
from engines.life import LifeModel, Moves, life_model, loudness
from engines.profile import EMBEDDED
from engines.types import FPS, MOTION_WIDTH, SPEECH_RATE, SPEECH_SAMPLES, FloatArray
from training.beats import alignment, onsets
from training.bench import Bench
from training.corpus import Item, lid_curve
from training.keypoints import BROWS
from training.life import SHORTEST
from training.sway import later

SEEDS = tuple(range(11, 19))
BLINK = -0.05  # change of the lids' gap, eye distances
AROUND = 10  # frames on both sides of a transition
MINUTE, HOUR = 60 * FPS, 3600 * FPS


@dataclass(frozen=True, slots=True)
class Filmed:
    """A face's motion (T, 70) as the renderer takes it, on a photo that looks straight ahead, in physical units."""

    motion: FloatArray

    @property
    def angles(self) -> FloatArray:
        return self.motion[:, motion.ANGLES]


def levels_of(sound: FloatArray) -> FloatArray:
    """Loudness f32 (T,) of every frame of a sound."""
    windows = mel_windows(log_mel(sound), EMBEDDED.mel, len(sound) // SPEECH_SAMPLES)
    return np.array([loudness(window) for window in windows], np.float32)


def photo() -> FloatArray:
    """Motion (70,) of a photo that looks straight ahead."""
    return np.eye(1, MOTION_WIDTH, dtype=np.float32)[0]


def film(model: LifeModel, relative: FloatArray, moves: Moves) -> Filmed:
    """The denoiser's motion (T, 70) relative to rest, alive and within the profile's limits."""
    return Filmed(motion.onto_photo(photo(), model.apply(relative, moves), EMBEDDED.limits))


def alive(levels: FloatArray, heard: FloatArray | None, seed: int) -> Filmed:
    """A face that lives with its own loudness and that of the other person, f32 (T,) each, and keeps its mouth shut."""
    model = life_model()
    moves, _ = model.advance(model.begin(seed), levels, heard)
    return film(model, np.repeat(photo()[None], len(levels), axis=0), moves)


def heads(bench: Bench, films: Sequence[Filmed]) -> dict[str, Any]:
    """Deviation and speed of yaw, pitch, roll in degrees and degrees a frame, mean correlation with the pose a second
    later; deviation of gaze (sideways, down) and of the brows' height in thousandths of the eyes' distance. Medians
    over clips, as a few people turn their heads far more than the others. Blinks a minute over all.
    """
    lids = [lid_curve(bench.face.normalisation.normalise(f.motion), bench.face) for f in films]
    blinks = sum(int(((lid[1:] < BLINK) & (lid[:-1] >= BLINK)).sum()) for lid in lids)
    irises = life_model().eyes.irises
    brows = bench.face.mixing[BROWS].mean(0)
    heights = [motion.expression(f.motion)[..., 1] @ brows for f in films]
    return {
        "blinks_a_minute": round(blinks / sum(map(len, lids)) * MINUTE, 1),
        "deviation": _median([f.angles.std(0) for f in films], 2),
        "speed": _median([np.abs(np.diff(f.angles, axis=0)).mean(0) for f in films], 3),
        "after_a_second": _rounded(later([f.angles for f in films]), 2),
        "gaze": _median([1000 * f.motion[:, irises].std(0) for f in films], 1),
        "brows": _median([[1000 * height.std()] for height in heights], 1),
    }


def _median(rows: Sequence[Any], digits: int) -> list[float]:
    return _rounded(np.median(rows, axis=0), digits)


def _rounded(values: FloatArray, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def pieces(films: Sequence[Filmed], length: int = 8 * FPS) -> list[Filmed]:
    """Films cut to one length, as correlation over a second depends on it."""
    return [Filmed(f.motion[i : i + length]) for f in films for i in range(0, len(f.motion) - length + 1, length)]


def beat_alignment(items: Sequence[Item], angles: Sequence[FloatArray]) -> dict[str, float]:
    """Score with the clips' own sound and with sound turned round, mean over clips."""
    scores = [alignment(onsets(item.mel), angle) for item, angle in zip(items, angles, strict=True)]
    own, turned = np.mean(scores, axis=0)
    error = np.std([a - b for a, b in scores]) / np.sqrt(len(scores))
    return {"score": round(float(own), 3), "shuffled": round(float(turned), 3), "error": round(float(error), 3)}


def keypoint_speed(bench: Bench, filmed: Filmed) -> FloatArray:
    """Mean speed of the 21 keypoints (T - 1,), in thousandths of half a crop a frame."""
    turned = motion.turn_expression(filmed.motion)
    points = motion.keypoints(bench.face.canonical_keypoints(bench.face.template), turned)
    return np.asarray(1000 * np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(-1), np.float32)


def transitions(bench: Bench, items: Sequence[Item], real: Sequence[Filmed]) -> dict[str, float]:
    """Keypoint speed where speech, idling and listening follow each other, against that in speech and in real clips.

    Every film is speech, six seconds of silence, six of the next clip's speech heard, and speech again.
    """
    pause = np.zeros(6 * SPEECH_RATE, np.float32)
    sounds, others = [], []
    for index, item in enumerate(items):
        speech = item.clip.sound[: 6 * SPEECH_RATE]
        other = np.resize(items[(index + 1) % len(items)].clip.sound, len(pause))
        sounds.append(np.concatenate([speech, pause, pause, speech]))
        others.append(np.concatenate([np.zeros_like(speech), pause, other, np.zeros_like(speech)]))
    model = life_model()
    made = bench.speak(sounds, [item.canonical for item in items], SEEDS[0])
    near, spoken = [], []
    for row, (sound, other) in enumerate(zip(sounds, others, strict=True)):
        moves, _ = model.advance(model.begin(row), levels_of(sound), levels_of(other))
        speed = keypoint_speed(bench, film(model, bench.face.normalisation.denormalise(made[row]), moves))
        speech = (len(sound) - 2 * len(pause)) // 2 // SPEECH_SAMPLES
        for border in (speech, speech + 6 * FPS, speech + 12 * FPS):
            near.append(speed[border - AROUND : border + AROUND])
        spoken += [speed[2 * AROUND : speech - AROUND], speed[speech + 12 * FPS + AROUND :]]
    people = np.concatenate([keypoint_speed(bench, f) for f in real])
    at, usual = np.concatenate(near), np.concatenate(spoken)
    return {
        "median": round(float(np.median(at)), 2),
        "median in speech": round(float(np.median(usual)), 2),
        "p99": round(float(np.quantile(at, 0.99)), 2),
        "p99 of people": round(float(np.quantile(people, 0.99)), 2),
    }


def one_hour(levels: FloatArray, heard: FloatArray, seed: int = 0) -> dict[str, Any]:
    """How far the pose strays from the photo in an hour, and spread of the last ten minutes over that of the first.

    `levels`, `heard` f32 (T,): loudness of both people, repeated as often as an hour takes.
    """
    filmed = alive(np.resize(levels, HOUR), np.resize(heard, HOUR), seed)
    first, last = filmed.angles[: 10 * MINUTE], filmed.angles[-10 * MINUTE :]
    return {
        "mean": _rounded(filmed.angles.mean(0), 2),
        "mean of the last ten minutes": _rounded(last.mean(0), 2),
        "spread": _rounded(last.std(0) / first.std(0), 2),
    }


def answers(heard: FloatArray, seed: int = 0) -> dict[str, float]:
    """Nods and lifted brows a minute while listening to speech of loudness f32 (T,)."""
    model, minutes = life_model(), len(heard) / MINUTE
    state, nods, lifts, last = model.begin(seed), 0, 0, 0
    for tick in range(0, len(heard), 5):
        _, state = model.advance(state, np.zeros(5, np.float32), heard[tick : tick + 5])
        if state.listening.answers > last:
            last = state.listening.answers
            nods += state.listening.turns
            lifts += state.listening.lift > 0
    counts = {"answers": last, "nods": nods, "lifted brows": lifts}
    return {name: round(count / minutes, 1) for name, count in counts.items()}


def dialogue(levels: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Loudness of two people who take turns with clips of this loudness, two seconds apart."""
    mine, others = [], []
    for index, level in enumerate(levels):
        silence = np.zeros(len(level) + 2 * FPS, np.float32)
        spoken = np.r_[level, np.zeros(2 * FPS, np.float32)]
        mine.append(silence if index % 2 else spoken)
        others.append(spoken if index % 2 else silence)
    return np.concatenate(mine), np.concatenate(others)


def life_table(bench: Bench, items: list[Item]) -> dict[str, Any]:
    """Tracked heads and eyes beside generated ones: in speech, idle and listening. `items`: natural clips."""
    natural = [item for item in items if item.clip.dataset == "clips" and len(item.motion) >= SHORTEST]
    real = [Filmed(bench.face.normalisation.denormalise(item.motion)) for item in natural]
    levels = [levels_of(item.clip.sound) for item in natural]
    films = [[alive(level, None, 1000 * seed + row) for row, level in enumerate(levels)] for seed in SEEDS]
    everyone = [one for seed in films for one in seed]
    quiet, heard = np.zeros(20 * MINUTE, np.float32), np.resize(np.concatenate(levels), 20 * MINUTE)
    table: dict[str, Any] = {
        "heads": {
            "people": heads(bench, real),
            "speech": heads(bench, everyone),
            "idle": heads(bench, pieces([alive(quiet, None, 1)])),
            "listening": heads(bench, pieces([alive(quiet, heard, 2)])),
        },
        "beats": {
            "people": beat_alignment(natural, [f.angles for f in real]),
            "speech": beat_alignment(natural * len(SEEDS), [f.angles for f in everyone]),
        },
        "diversity": [_median([f.angles.std(0) for f in seed], 2) for seed in films],
        "transitions": transitions(bench, natural, real),
        "listening": answers(heard),
        "hour": one_hour(*dialogue(levels)),
    }
    return table


def life_lines(table: dict[str, Any]) -> list[str]:
    """What `life_table` measured, for the model card."""
    head = ("heads", "blinks a minute", "deviation", "speed", "after a second", "gaze", "brows")
    lines = [
        "Head, eyes and brows, of tracked people and of the life model behind the renderer's limits, with the sound of "
        "the same clips: deviation and speed of yaw, pitch, roll in degrees and degrees a frame, correlation with the "
        "pose a second later, deviation of gaze (sideways, down) and of the brows' height in thousandths of the eyes' "
        "distance. Medians over clips, correlations as means weighted by length.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for name, row in table["heads"].items():
        keys = ("deviation", "speed", "after_a_second", "gaze", "brows")
        cells = [" / ".join(map(str, row[key])) for key in keys]
        lines.append("| " + " | ".join([name, str(row["blinks_a_minute"]), *cells]) + " |")
    beats, borders, hour = table["beats"], table["transitions"], table["hour"]
    scores = "; ".join(
        f"{name} {row['score']:.3f}, {row['shuffled']:.3f} with the same beats shifted in time (difference "
        f"{row['score'] - row['shuffled']:+.3f}, standard error {row['error']:.3f})"
        for name, row in beats.items()
    )
    diversity = " / ".join(f"{value:.1f}" for value in np.mean(table["diversity"], axis=0))
    spans = " / ".join(f"{value:.1f}" for value in np.std(table["diversity"], axis=0))
    answers = ", ".join(f"{value} {name}" for name, value in table["listening"].items())
    return [
        *lines,
        "",
        f"Pose diversity: deviation of yaw, pitch, roll {diversity} degrees, mean of {len(table['diversity'])} seeds "
        f"(deviation between seeds {spans}). Beat alignment score of head and speech: {scores}.",
        "",
        f"A listener gives, a minute of the other's speech, {answers}. Keypoint speed within {AROUND} frames of "
        f"changes between speaking, idling and listening, thousandths of half the crop a frame: median "
        f"{borders['median']} (in speech {borders['median in speech']}), 99 % quantile {borders['p99']} (tracked "
        f"people {borders['p99 of people']}). Over an hour of dialogue the mean pose is {hour['mean']} degrees off the "
        f"photo's, the spread of the last ten minutes {hour['spread']} times that of the first.",
    ]
