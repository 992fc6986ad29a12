"""A motion model ready to be measured: exported files or a checkpoint behind the sampler of production."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engines.audio import log_mel, mel_windows
from engines.contact import contact_model
from engines.face_mesh import FaceModel, face_model
from engines.networks.ddim import Ddim, DdimConfig
from engines.profile import EMBEDDED, Parts
from engines.runtime.opening import open_engine
from engines.sampler import Sampler
from engines.talkers import sampler_of
from engines.types import SPEECH_SAMPLES, FloatArray
from engines.understanding import Understanding
from engines.voice import voice_model
from training.corpus import Item, measuring_matrix
from training.generate import Encode, TorchWindow, silent_feature, stream, torch_encoder
from training.train import load_model


def as_in_calls() -> Understanding:
    """With the shipped networks."""
    return Understanding(voice_model(), contact_model())


@dataclass(frozen=True, slots=True)
class Bench:
    """Networks and what is needed to measure them."""

    sampler: Sampler
    encode: Encode
    face: FaceModel
    measures: FloatArray
    understanding: Understanding = field(default_factory=as_in_calls)

    def generate(self, items: Sequence[Item], seed: int, shuffled: bool = False) -> list[FloatArray]:
        """Normalised motion (T, 70) of every clip; `shuffled`: each with the next clip's sound."""
        windows = [mel_windows(item.mel.T, EMBEDDED.mel, len(item.motion)) for item in items]
        if shuffled:
            windows = [_other(windows, index) for index in range(len(windows))]
        return self._stream(windows, [item.canonical for item in items], seed)

    def speak(self, sounds: Sequence[FloatArray], canonical: Sequence[FloatArray], seed: int) -> list[FloatArray]:
        """Normalised motion (T, 70) for every sound f32 (samples,), side by side."""
        windows = [mel_windows(log_mel(sound), EMBEDDED.mel, len(sound) // SPEECH_SAMPLES) for sound in sounds]
        return self._stream(windows, list(canonical), seed)

    def lips(self, motion: FloatArray) -> FloatArray:
        """Opening, width, jaw above rest in eye distances, (T, 70) -> (T, 3)."""
        return np.asarray((motion - self.face.rest()) @ self.measures, np.float32)

    def _stream(self, windows: list[FloatArray], canonical: list[FloatArray], seed: int) -> list[FloatArray]:
        """Motion for mel windows (T, 80, K) of every clip."""
        silence = silent_feature(self.encode)
        features, spoken, lips = understood(windows, self.encode, self.understanding)
        return stream(self.sampler, self.face, features, canonical, silence, seed, spoken, lips)


def understood(
    windows: Sequence[FloatArray], encode: Encode, understanding: Understanding
) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
    """Mel windows (T, 80, K) of clips -> of each: features (T, A), and `Understood`'s spoken (T,) and lips (T,)."""
    heard = [understanding.advance(clip, understanding.begin())[0] for clip in windows]
    return [encode(clip) for clip in windows], [one.spoken for one in heard], [one.lips for one in heard]


def _other(windows: list[FloatArray], index: int) -> FloatArray:
    """Mel windows of the next clip, cut or repeated to this clip's length."""
    return np.resize(windows[(index + 1) % len(windows)], windows[index].shape)


def open_bench(folder: Path, face: FaceModel | None = None) -> Bench:
    """Bench around ``audio_encoder.onnx`` and ``window.onnx``, with the settings of the embedded profile.

    `face`: the tables the networks were trained with, default: the shipped ones.
    """
    encoder, face = open_engine(folder / "audio_encoder.onnx"), face or face_model()
    sampler = sampler_of(open_engine(folder / "window.onnx"), face, EMBEDDED)
    return Bench(sampler, lambda windows: encoder.run(mel=windows)["feature"], face, measuring_matrix(face))


def checkpoint_bench(
    checkpoint: Path,
    guidance: Parts = EMBEDDED.guidance,
    temperature: Parts = EMBEDDED.temperature,
    rescale: Parts = EMBEDDED.rescale,
    steps: int | None = None,
) -> Bench:
    """Bench around the networks of a training checkpoint, which needs no export.

    `steps` of denoising, default: those it was trained to be sampled with. One step without noise and without guidance
    answers with the network's expectation.
    """
    model, saved = load_model(checkpoint)
    face = face_model()
    config = DdimConfig(**saved["recipe"]["sampling"])
    loop = Ddim(model.denoiser, replace(config, steps=steps or config.steps), saved["context_shares"])
    settings = replace(EMBEDDED, guidance=guidance, temperature=temperature, rescale=rescale)
    sampler = sampler_of(TorchWindow(loop), face, settings)
    return Bench(sampler, torch_encoder(model.encoder), face, measuring_matrix(face))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as exported files name the checkpoint they came from."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
