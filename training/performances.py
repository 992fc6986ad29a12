"""Films as the published denoiser sees them: LivePortrait's motion, Wav2Lip's features, and their statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track as tracked

from engines.audio import log_mel, mel_windows
from engines.motion import Normalisation
from engines.networks.model import PublishedModel
from engines.profile import KDTALKER
from engines.published.cropping import NETWORK_SIDE, cut_face, face_box, mesh_features
from engines.types import FPS, MOTION_WIDTH, ByteArray, FloatArray, KDTalkerError
from training.gathering import Film
from training.offset import kept_frames
from training.team import Team
from training.tracks import Clip
from training.videos import TrackCache, pictures

FRAMES = 64  # of a window, as published
BATCH = 16  # pictures that the motion extractor reads at once
STILL = 1e-6  # a number with less deviation carries nothing; its deviation becomes 1, as that of t_z is


@dataclass(frozen=True, slots=True)
class Performance:
    """One clip as the published denoiser sees it, in physical units at 25 frames a second.

    `motion` f32 (T, 70); `canonical` f32 (63,) of its first frame; `feature` f32 (T, 512).
    """

    name: str
    split: str
    motion: FloatArray
    canonical: FloatArray
    feature: FloatArray


def _crops(path: Path, mesh: FloatArray) -> Iterator[tuple[float, ByteArray]]:
    """Time and face u8 (256, 256, 3) of every frame, cut by one box, so that the head's own motion stays in it."""
    box = None
    for time, picture in pictures(path):
        if box is None:
            box = face_box(mesh_features(np.median(mesh, axis=0)), picture.shape[1], picture.shape[0])
        face = cut_face(picture, box)
        yield time, np.asarray(cv2.resize(face, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


@torch.inference_mode()
def _read(model: PublishedModel, faces: list[ByteArray]) -> FloatArray:
    """Motion and canonical keypoints (N, 70 + 63) of pictures."""
    pixels = torch.from_numpy(np.stack(faces)).to(model.device).permute(0, 3, 1, 2).float() / 255
    heads = model.motion_extractor(pixels)
    return np.asarray(torch.cat([heads.motion(), heads.kp], 1).cpu().numpy(), np.float32)


@torch.inference_mode()
def _encode(model: PublishedModel, windows: FloatArray) -> FloatArray:
    """Mel windows (T, 80, 16) -> features (T, 512)."""
    parts = torch.from_numpy(windows).split(256)
    return np.asarray(torch.cat([model.audio_encoder(part.to(model.device)).cpu() for part in parts]).numpy())


def extract(path: Path, mesh: FloatArray, start: float, model: PublishedModel) -> FloatArray:
    """Motion and canonical keypoints (T, 133) on the ticks of the film's track, which begins at `start` seconds."""
    times, rows, waiting = [], [], []
    for time, face in _crops(path, mesh):
        times.append(time)
        waiting.append(face)
        if len(waiting) == BATCH:
            rows.append(_read(model, waiting))
            waiting = []
    if waiting:
        rows.append(_read(model, waiting))
    native, seconds = np.concatenate(rows), np.array(times) - times[0]
    ticks = start + np.arange(len(mesh)) / FPS
    return np.stack([np.interp(ticks, seconds, native[:, k]) for k in range(native.shape[1])], 1).astype(np.float32)


def fingerprint(model: PublishedModel) -> str:
    """Name of the motion extractor's weights."""
    digest = hashlib.sha256()
    for value in model.motion_extractor.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _motion(film: Film, cache: TrackCache, model: PublishedModel, name: str) -> FloatArray:
    base = cache.base(film.path)
    path = base.with_name(f"{base.name}-motion-{name}.npy")
    assert film.track is not None
    if not path.is_file():
        np.save(path, extract(film.path, film.track.mesh, film.track.start, model))
    return np.asarray(np.load(path), np.float32)


def performances(
    found: list[Film], clips: list[Clip], cache: TrackCache, model: PublishedModel, team: Team
) -> list[Performance]:
    """Motion and sound features of every clip that is long enough for a window."""
    name, used = fingerprint(model), [film for film in found if film.clip is not None]
    mine = [used[index] for index in team.share(len(used))]
    for film in tracked(mine, "reading motion", disable=not team.leads):
        _motion(film, cache, model, name)
    team.wait()
    whole: dict[tuple[str, str], FloatArray] = {}
    for film in used:
        assert film.offset is not None
        rows = _motion(film, cache, model, name)
        whole[film.person, film.path.stem] = rows[kept_frames(len(rows), film.offset)[0]]
    made, begun = [], dict.fromkeys(whole, 0)
    for clip in clips:  # in order, so that the pieces of a clip that was cut get theirs
        key = clip.person, clip.name.partition(", ")[0]
        rows = whole[key][begun[key] : begun[key] + len(clip.mesh)]
        begun[key] += len(rows)
        if len(rows) > FRAMES:
            windows = mel_windows(log_mel(clip.sound), KDTALKER.mel, len(rows))
            feature = _encode(model, windows)
            made.append(Performance(clip.name, clip.split, rows[:, :MOTION_WIDTH], rows[0, MOTION_WIDTH:], feature))
    if {one.split for one in made} != {"train", "val"}:
        raise KDTalkerError(
            f"The published denoiser learns windows of {FRAMES} frames: clips of 3 s and more are needed, for learning "
            "and for choosing."
        )
    return made


def statistics(made: list[Performance]) -> Normalisation:
    """Mean and deviation of the training clips."""
    train = [one for one in made if one.split == "train"]
    motion, canonical = np.concatenate([one.motion for one in train]), np.stack([one.canonical for one in train])

    def deviation(values: FloatArray, least: float) -> FloatArray:
        spread = values.std(0)
        return np.where(spread < least, 1, spread).astype(np.float32)

    # Few people span few canonical keypoints: with one, all of the token would be zero over zero.
    return Normalisation(motion.mean(0), deviation(motion, STILL), canonical.mean(0), deviation(canonical, 1e-3))
