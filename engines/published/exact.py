"""KDTalker's own offline routine (arXiv 2503.12963): whole clips in 64-frame windows, smoothed at the end.

The sampler without context and look-ahead. The last window is padded with the clip's beginning and the whole clip is
smoothed, so it cannot stream; it is here to be equal to the original.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.audio import log_mel, mel_windows
from engines.motion import Normalisation
from engines.profile import KDTALKER, WindowPlan
from engines.published.kalman import smoothed
from engines.published.networks import PublishedNetworks
from engines.runtime.base import Engine
from engines.sampler import Sampler
from engines.types import MOTION_WIDTH, SPEECH_SAMPLES, FloatArray, Identity

WINDOW = 64  # frames, the length the denoiser was trained on
STEPS = 50

Noise = Callable[[int], FloatArray]


def seeded_noise(seed: int) -> Noise:
    """Unit normal noise f32 (64, 70) by window number, the same for the same seed."""

    def noise(window: int) -> FloatArray:
        return np.random.default_rng([seed, window]).standard_normal((WINDOW, MOTION_WIDTH), np.float32)

    return noise


def clip_features(encoder: Engine, pcm: FloatArray) -> FloatArray:
    """Sound f32 (samples,) at 16 kHz -> features (T, 512), T = samples // 640; what exceeds T frames is cut."""
    frames = len(pcm) // SPEECH_SAMPLES
    windows = mel_windows(log_mel(pcm[: frames * SPEECH_SAMPLES]), KDTALKER.mel, frames)
    parts = [windows[start : start + WINDOW] for start in range(0, frames, WINDOW)]
    return np.concatenate([encoder.run(mel=part)["feature"] for part in parts])


def sample_clip(
    window: Engine, normalisation: Normalisation, identity: Identity, features: FloatArray, noise: Noise
) -> FloatArray:
    """Features (T, 512) -> normalised, unsmoothed motion (T', 70), T' the next multiple of 64.

    Rows beyond T were conditioned on the clip's beginning, as in the original; clips under 32 frames, which the
    original cuts wrongly, repeat theirs as often as needed.
    """
    frames = len(features)
    padded = features[np.arange(-(-frames // WINDOW) * WINDOW) % frames]
    canonical = normalisation.canonical_token(identity.canonical)
    reference = normalisation.normalise(identity.source)
    ones = np.ones(MOTION_WIDTH, np.float32)
    plan = WindowPlan(committed=0, new=WINDOW, lookahead=0)
    sampler = Sampler(window, plan, ones, ones, noise=lambda _, first, count: noise(first // count))
    state = sampler.from_photo(canonical, reference, seed=0)
    motions = []
    for sound in padded.reshape(-1, 1, WINDOW, padded.shape[1]):
        motion, (state,) = sampler.advance([state], sound)
        motions.append(motion[0])
    return np.concatenate(motions)


def smooth_clip(clip: FloatArray) -> FloatArray:
    """Motion (T, 70) in physical units with everything but the scale smoothed over the whole clip."""
    return np.concatenate([clip[:, :1], smoothed(clip[:, 1:])], axis=1)


def clip_motion(networks: PublishedNetworks, identity: Identity, pcm: FloatArray, seed: int = 0) -> FloatArray:
    """Sound of one clip -> predicted motion (T, 70) in physical units, smoothed, not yet placed on the photo."""
    features = clip_features(networks.audio_encoder, pcm)
    normalisation = networks.normalisation
    clip = sample_clip(networks.window(STEPS), normalisation, identity, features, seeded_noise(seed))
    return smooth_clip(normalisation.denormalise(clip[: len(features)]))
