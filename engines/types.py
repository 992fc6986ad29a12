"""The records that travel down the river, and the errors a person may read.

Records are small, frozen and picklable; arrays inside them are never written to after
construction. One tick is 40 ms: 640 samples at 16 kHz, 1920 at 48 kHz, one video frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int16]

FPS = 25
TICK_SECONDS = 1 / FPS
SPEECH_RATE = 16_000
PLAYBACK_RATE = 48_000
SPEECH_SAMPLES = SPEECH_RATE // FPS  # 640 samples a tick, into the networks
PLAYBACK_SAMPLES = PLAYBACK_RATE // FPS  # 1920 samples a tick, back to the listener

KEYPOINTS = 21
MOTION_WIDTH = 70  # scale, yaw, pitch, roll, t(3), exp(21 x 3)
FRAME_SIZE = 512  # pixels, both sides


class KDTalkerError(Exception):
    """Base of every error whose text is meant for a person."""


class PortraitError(KDTalkerError):
    """The photo cannot be used; the text says why and what to do about it.

    `reason` is a stable word for programs: ``unreadable``, ``no_face``, ``several_faces``,
    ``turned``, ``small``, ``blurred``, ``covered``, ``cut`` (off by the photo's edge).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SpeechError(KDTalkerError):
    """The sound file cannot be read or holds no sound."""


class WeightsError(KDTalkerError):
    """A weights or engine file is missing, foreign or damaged."""


class EngineError(KDTalkerError):
    """A runtime refused a call; the text names the engine, the tensor and both shapes."""


@dataclass(frozen=True, slots=True)
class SpeechTick:
    """Sound of one tick. `pcm` f32 (640,) in [-1, 1] at 16 kHz; `playback` i16 (1920,) at 48 kHz."""

    tick: int
    pcm: FloatArray
    playback: IntArray


@dataclass(frozen=True, slots=True)
class MelTick:
    """Log-mel window around one video frame. `window` f32 (80, columns), values in [-4, 4]."""

    tick: int
    window: FloatArray


@dataclass(frozen=True, slots=True)
class MotionTick:
    """Motion of one video frame, placed on a photo. `motion` f32 (70,), layout in `engines.motion`."""

    tick: int
    motion: FloatArray


@dataclass(frozen=True, slots=True)
class Scene:
    """`photo` u8 (H, W, 3) RGB, even sides. `person` u8 (H, W): 255 where a pixel is the person's.

    The crop is the square of `side` pixels at (`left`, `top`), which may reach beyond the photo; `matte` u8 (512, 512)
    is the person in it.
    """

    photo: ByteArray
    person: ByteArray
    left: int
    top: int
    side: int
    matte: ByteArray


@dataclass(frozen=True, slots=True)
class Portrait:
    """A photo that passed every check, cut to the square the renderer works in.

    `crop` u8 (512, 512, 3) RGB. `mesh` f32 (478, 3): face-mesh landmarks in crop pixels, x right,
    y down, z in the same unit and negative towards the camera. `to_photo` f32 (2, 3): affine map
    from crop pixels to pixels of the upright photo. `report`: what the checks measured. `scene`: the rest of the photo.
    """

    crop: ByteArray
    mesh: FloatArray
    to_photo: FloatArray
    digest: str
    scene: Scene
    report: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """One enrolled face: everything about a person that no frame changes.

    `canonical` f32 (21, 3): keypoints x_c, frontal and at rest. `source` f32 (70,): the motion
    vector that reproduces the photo. `crop` u8 (512, 512, 3) RGB. `tables`: what the renderer of
    this profile prepared, by name.
    """

    profile: str
    digest: str
    canonical: FloatArray
    source: FloatArray
    crop: ByteArray
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
