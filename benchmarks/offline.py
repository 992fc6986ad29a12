"""The published method as it was published against the same networks streamed, and the embedded profile beside them.

Exact: whole clips in 64-frame windows, 50 denoising steps, smoothed at the end (arXiv 2503.12963 and its code).
Streamed: windows most of which is settled, a few new frames at a time. All here, in one run, from the same sound.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.babble import babble
from benchmarks.growth import show
from benchmarks.machine import machine
from benchmarks.probe import default_face
from engines.cache import cache_folder
from engines.media import load_speech, resample
from engines.pipeline import Talker
from engines.published import exact
from engines.published.weights_files import open_model
from engines.types import FPS, PLAYBACK_RATE, SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, FloatArray, Identity

Row = dict[str, Any]
CLIP = exact.WINDOW  # frames


def streamed(name: str, talker: Talker, identity: Identity, pcm: FloatArray, pictures: int) -> tuple[Row, FloatArray]:
    """A talker tick by tick: its figures, and the motion (T, 70) before it is placed on the photo's pose."""
    talk = talker.begin(identity, seed=0)
    hops: list[float] = []
    rows: list[FloatArray] = []
    for start in range(0, len(pcm), SPEECH_SAMPLES):
        began = time.perf_counter()
        ready = talker.listen(talk, pcm[start : start + SPEECH_SAMPLES])
        if ready:
            hops.append(time.perf_counter() - began)
            rows += [made.motion for made in ready]
    motion = np.stack(rows)
    drawn = _rendering(talker, identity, motion, pictures)
    hop = float(np.median(hops))
    first = talker.profile.delay + hop + drawn
    return figures(name, hop / talker.profile.window.new, drawn, first), motion


def exact_clip(
    talker: Talker, networks: Any, identity: Identity, pcm: FloatArray, pictures: int
) -> tuple[Row, FloatArray]:
    """The original's routine on whole clips: nothing is shown before the clip's sound is whole and all is sampled."""
    began = time.perf_counter()
    motion = exact.clip_motion(networks, identity, pcm)
    took = time.perf_counter() - began
    drawn = _rendering(talker, identity, motion, pictures)
    first = len(motion) * TICK_SECONDS + took + drawn
    return figures("exact", took / len(motion), drawn, first), motion


def _rendering(talker: Talker, identity: Identity, motion: FloatArray, pictures: int) -> float:
    times = []
    for row in motion[:pictures]:
        began = time.perf_counter()
        talker.render([identity], row[None])
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def figures(name: str, sampling: float, drawing: float, first: float) -> Row:
    """Seconds a frame of motion and of rendering, and from the first sound to the first frame, as a row."""
    return {
        "path": name,
        "motion, ms a frame": round(1000 * sampling, 2),
        "rendering, ms a frame": round(1000 * drawing, 2),
        "frames a second": round(1 / (sampling + drawing), 2),
        "keeps up with 25": bool(sampling + drawing <= 1 / FPS),
        "first frame after, s": round(first, 3),
        # What plays without stopping stays as late as it began, or falls further behind.
        "added latency, s": round(first, 3) if sampling + drawing <= 1 / FPS else "grows",
    }


def alike(one: FloatArray, other: FloatArray) -> float:
    """Median over the numbers of the expression of the correlation between two motions of the same sound."""
    count = min(len(one), len(other))
    first, second = (motion[:count, 7:] - motion[:count, 7:].mean(0) for motion in (one, other))
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    known = norms > 1e-9
    return round(float(np.median((first * second).sum(0)[known] / norms[known])), 3)


def offline(argv: list[str]) -> int:
    """The published routine against the streamed one, from the same sound in the same run."""
    parser = argparse.ArgumentParser(
        prog="kdtalker bench offline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, help="what is said; default: a synthetic voice")
    parser.add_argument("--clips", type=int, default=1, help="of 64 frames (2.56 s); default: 1")
    parser.add_argument("--weights", help="of the published profile: a folder, or random:N to time it without them")
    parser.add_argument("--device", default="auto", help="cpu or cuda; default: whichever there is")
    parser.add_argument("--pictures", type=int, default=5, help="rendered to time the renderer; default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    frames = options.clips * CLIP
    sound = resample(babble(frames / FPS).astype(np.float32) / 32768, PLAYBACK_RATE, SPEECH_RATE)
    pcm = np.resize(sound if options.speech is None else load_speech(options.speech).pcm, frames * SPEECH_SAMPLES)
    model = open_model(options.weights, cache_folder(), options.device)
    from engines.published.networks import torch_networks  # these need PyTorch, which `open_model` has made sure of
    from engines.published.talker import find_face, published_talker

    networks = torch_networks(model)
    talker, renderer = published_talker(networks)
    face = find_face((files("engines") / "avatars" / "astronaut.jpg").read_bytes())
    identity = renderer.enrol_face(face.pixels, face.digest)
    talker.warm()
    whole, made = exact_clip(talker, networks, identity, pcm, options.pictures)
    live, moved = streamed("streamed", talker, identity, pcm, options.pictures)
    embedded, _ = streamed("embedded, streamed", *default_face(), pcm, 10 * options.pictures)
    rows = [whole | {"like exact": 1.0}, live | {"like exact": alike(moved, made)}, embedded | {"like exact": "-"}]
    show(f"{frames} frames on {model.device}", rows, Console(width=150))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"tool": "kdtalker bench offline", "machine": machine(), "device": str(model.device), "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0
