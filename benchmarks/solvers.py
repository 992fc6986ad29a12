"""The published denoiser's solvers against its 50-step run on the same noise and sound."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from engines.cache import cache_folder
from engines.media import load_speech
from engines.published.weights_files import open_model
from engines.types import MOTION_WIDTH, SPEECH_SAMPLES, FloatArray, KDTalkerError

FRAMES = 64
WINDOWS = 2  # one after the other, so that an error may grow
STEPS = (4, 6, 10)
FINE = 60  # steps of second order: the limit, for comparison


def published_rows(weights: str | None, speech: Path | None, device: str) -> list[dict[str, Any]]:
    """Every solver and number of steps: milliseconds a window, distance from the 50-step motion in its deviations, and
    from the limit that more steps go to, where the 50 have not arrived either.

    Raises KDTalkerError without speech, WeightsError without weights.
    """
    if speech is None:
        raise KDTalkerError("Name a sound file to speak with: --speech FILE (2.6 seconds of it are used).")
    model = open_model(weights, cache_folder(), device)
    from engines.networks import published_graphs as graphs  # these need PyTorch, which `open_model` has made sure of
    from engines.networks.audio_encoder import AUDIO_WIDTH
    from engines.networks.ddim import PUBLISHED_STEPS, DdimConfig
    from engines.published import exact
    from engines.published.networks import torch_networks
    from engines.published.talker import PublishedRenderer, find_face
    from engines.runtime.torch import TorchEngine

    networks = torch_networks(model)
    face = find_face((files("engines") / "avatars" / "astronaut.jpg").read_bytes())
    identity = PublishedRenderer(networks).enrol_face(face.pixels, face.digest)
    pcm = np.resize(load_speech(speech).pcm, WINDOWS * FRAMES * SPEECH_SAMPLES)
    features = exact.clip_features(networks.audio_encoder, pcm)
    inputs = graphs.window_inputs(FRAMES, AUDIO_WIDTH)
    motion = (graphs.spec("motion", "batch", FRAMES, MOTION_WIDTH),)

    def run(config: DdimConfig) -> tuple[FloatArray, float]:
        engine = TorchEngine("window", graphs.sampling_loop(model, config), inputs, motion, device=str(model.device))
        began = time.perf_counter()
        made = exact.sample_clip(engine, networks.normalisation, identity, features, exact.seeded_noise(0))
        return made, 1e3 * (time.perf_counter() - began) / WINDOWS

    full, took = run(DdimConfig(steps=PUBLISHED_STEPS))
    limit, _ = run(DdimConfig(steps=FINE, spacing="trailing", order=2))

    def row(name: str, config: DdimConfig, made: FloatArray, took: float) -> dict[str, Any]:
        return {
            "solver": name,
            "spacing": config.spacing,
            "steps": config.steps,
            "window ms": round(took),
            "from 50 steps": _distance(made, full),
            "from the limit": _distance(made, limit),
        }

    rows = [row("DDIM", DdimConfig(steps=PUBLISHED_STEPS), full, took)]
    for steps in STEPS:
        for name, config in (
            ("DDIM", DdimConfig(steps=steps)),
            ("DDIM", DdimConfig(steps=steps, spacing="trailing")),
            ("DPM-Solver++(2M)", DdimConfig(steps=steps, spacing="trailing", order=2)),
        ):
            rows.append(row(name, config, *run(config)))
    return rows


def _distance(made: FloatArray, wanted: FloatArray) -> float:
    """Root mean square difference in deviations of `wanted`."""
    return round(float(np.sqrt(np.mean((made - wanted) ** 2)) / wanted.std()), 4)
