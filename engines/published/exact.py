"""KDTalker's own offline routine (arXiv 2503.12963): whole clips in 64-frame windows, smoothed at the end.

It pads the last window with the clip's beginning and smooths over the whole clip, so it cannot stream. It is here to
be equal to the original; live and default rendering use `engines.sampler`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.audio import log_mel, mel_windows
from engines.networks.ddim import DdimConfig
from engines.networks.model import PublishedModel
from engines.profile import KDTALKER
from engines.published.kalman import smoothed
from engines.types import MOTION_WIDTH, SPEECH_SAMPLES, FloatArray, Identity

WINDOW = 64  # frames, the length the denoiser was trained on
STEPS = DdimConfig(steps=50)

Noise = Callable[[int], FloatArray]


def seeded_noise(seed: int) -> Noise:
    """Unit normal noise f32 (64, 70) by window number, the same for the same seed."""

    def noise(window: int) -> FloatArray:
        return np.random.default_rng([seed, window]).standard_normal((WINDOW, MOTION_WIDTH), np.float32)

    return noise


def clip_features(model: PublishedModel, pcm: FloatArray) -> FloatArray:
    """Sound f32 (samples,) at 16 kHz -> features (T, 512), T = samples // 640; what exceeds T frames is cut."""
    frames = len(pcm) // SPEECH_SAMPLES
    windows = mel_windows(log_mel(pcm[: frames * SPEECH_SAMPLES]), KDTALKER.mel, frames)
    return np.concatenate([model.encode(windows[start : start + WINDOW]) for start in range(0, frames, WINDOW)])


def sample_clip(
    model: PublishedModel, identity: Identity, features: FloatArray, noise: Noise, loop: DdimConfig = STEPS
) -> FloatArray:
    """Features (T, 512) -> normalised, unsmoothed motion (T', 70), T' the next multiple of 64.

    Rows beyond T were conditioned on the clip's beginning, as in the original; clips under 32 frames, which the
    original cuts wrongly, repeat theirs as often as needed.
    """
    frames = len(features)
    padded = features[np.arange(-(-frames // WINDOW) * WINDOW) % frames]
    canonical = model.normalisation.canonical_token(identity.canonical)
    reference = model.normalisation.normalise(identity.source)
    windows = []
    for number, sound in enumerate(padded.reshape(-1, WINDOW, padded.shape[1])):
        tokens = np.stack([canonical, reference])
        window = model.sample(loop, tokens=tokens[None], sound=sound[None], noise=noise(number)[None])[0]
        reference = window[-1]
        windows.append(window)
    return np.concatenate(windows)


def smooth_clip(clip: FloatArray) -> FloatArray:
    """Motion (T, 70) in physical units with everything but the scale smoothed over the whole clip."""
    return np.concatenate([clip[:, :1], smoothed(clip[:, 1:])], axis=1)


def clip_motion(model: PublishedModel, identity: Identity, pcm: FloatArray, seed: int = 0) -> FloatArray:
    """Sound of one clip -> predicted motion (T, 70) in physical units, smoothed, not yet placed on the photo."""
    features = clip_features(model, pcm)
    windows = sample_clip(model, identity, features, seeded_noise(seed))
    return smooth_clip(model.normalisation.denormalise(windows[: len(features)]))
