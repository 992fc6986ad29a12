"""Streaming generation for many clips at once, with the sampler that runs in production."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from engines.audio import BANDS, SILENCE, mel_windows
from engines.face_mesh import FaceModel
from engines.networks.audio_features import AudioFeatures
from engines.networks.ddim import Ddim
from engines.profile import WindowPlan
from engines.runtime.base import TensorSpec
from engines.sampler import Sampler
from engines.types import MOTION_WIDTH, FloatArray
from engines.understanding import audible
from training.batches import WINDOW
from training.corpus import Item

Encode = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class TorchWindow:
    """A DDIM loop behind the engine contract, so that the sampler can run a network still in training."""

    loop: Ddim
    name: str = "window"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def run(self, **arrays: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        with torch.inference_mode():
            motion = self.loop(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        return {"motion": motion.numpy()}

    def close(self) -> None:
        """Nothing to give back."""


def torch_encoder(encoder: AudioFeatures) -> Encode:
    def encode(windows: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(encoder(torch.from_numpy(windows)).numpy())

    return encode


def features_of(items: list[Item], encode: Encode) -> list[FloatArray]:
    """Sound features f32 (T, A) of every clip."""
    return [encode(mel_windows(item.mel.T, WINDOW, len(item.motion))) for item in items]


def stream(
    sampler: Sampler,
    face: FaceModel,
    features: list[FloatArray],
    canonical: list[FloatArray],
    silence: FloatArray,
    seed: int,
    spoken: list[FloatArray] | None = None,
    lips: list[FloatArray] | None = None,
) -> list[FloatArray]:
    """Normalised motion (T, 70) of every clip, generated hop by hop as in a call, all clips side by side.

    `spoken`, `lips` f32 (T,) of every clip: see `engines.understanding.Understood`, default: all, unknown.
    """
    plan: WindowPlan = sampler.plan
    longest = max(len(feature) for feature in features)
    hops = -(-longest // plan.new)
    sound = np.broadcast_to(silence, (len(features), plan.length + hops * plan.new, len(silence))).copy()
    shares, touching = np.zeros((2, *sound.shape[:2]), np.float32)
    for row, feature in enumerate(features):
        there = slice(plan.committed, plan.committed + len(feature))
        sound[row, there] = feature
        shares[row, there] = 1 if spoken is None else spoken[row]
        touching[row, there] = 0 if lips is None else lips[row]
    rest, quiet = face.rest(), np.stack([silence] * len(features))
    states = [sampler.begin(token, rest, silence, seed + row) for row, token in enumerate(canonical)]
    motion = np.empty((len(features), hops * plan.new, MOTION_WIDTH), np.float32)
    for hop in range(hops):
        first = hop * plan.new
        seen = slice(first, first + plan.length)
        heard = audible(sound[:, seen], shares[:, seen], quiet)
        motion[:, first : first + plan.new], states = sampler.advance(states, *heard, touching[:, seen])
    return [rows[: len(feature)] for rows, feature in zip(motion, features, strict=True)]


def silent_feature(encode: Encode) -> FloatArray:
    """Feature (A,) of digital silence."""
    return encode(np.full((1, BANDS, WINDOW.columns), SILENCE, np.float32))[0]
