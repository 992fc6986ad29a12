"""The published profile behind the contracts both profiles share: engines, renderer, faces out of photos."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engines import motion
from engines.networks.audio_encoder import AUDIO_WIDTH
from engines.networks.ddim import DdimConfig
from engines.networks.model import PublishedModel
from engines.networks.warping import WarpSource
from engines.pipeline import Talker
from engines.placing import PublishedPlacing, as_predicted
from engines.portrait import checks
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.photo import read_photo
from engines.portrait.prepare import digest_of, face_height, faces
from engines.profile import KDTALKER
from engines.published import cropping
from engines.runtime.base import BATCH, TensorSpec
from engines.runtime.torch import TorchEngine
from engines.sampler import Sampler
from engines.types import FRAME_SIZE, MOTION_WIDTH, ByteArray, FloatArray, Identity, Portrait

STREAMING = DdimConfig(steps=10)  # of one window; `engines.published.exact` takes the original's 50
KEPT_SOURCES = 4  # 14 MB each
VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Face:
    """A face cut out of a photo. `pixels` u8 (h, w, 3); `to_photo` f32 (3, 3) maps pixels of the 512 x 512 frame to
    those of `photo` u8 (H, W, 3)."""

    pixels: ByteArray
    photo: ByteArray
    to_photo: FloatArray
    digest: str


def find_face(photo: bytes, *, upright: bool = False) -> Face:
    """The one face on a photo, cut as KDTalker does, or (`upright`) as LivePortrait does for pasting it back.

    Raises PortraitError when the file cannot be read or does not show exactly one face.
    """
    pixels = read_photo(photo).pixels
    if upright:
        pixels = cropping.limit_photo(pixels)
    with FaceLandmarker() as landmarker:
        found = faces(landmarker, pixels)
    checks.require_one_face([face_height(mesh) for mesh in found])
    features = cropping.mesh_features(found[0])
    if upright:
        crop = cropping.upright_crop(features)
        return Face(cropping.cut_upright(pixels, crop), pixels, crop.to_photo, digest_of(photo))
    box = cropping.face_box(features, pixels.shape[1], pixels.shape[0])
    to_photo = cropping.box_to_photo(box, pixels.shape[1], pixels.shape[0])
    return Face(cropping.cut_face(pixels, box), pixels, to_photo, digest_of(photo))


class PublishedRenderer:
    """Warping and decoder behind the renderer's contract.

    `stitch` corrects keypoints so that the picture's border stays put. `kept`: photos whose tables stay on the device.
    """

    def __init__(self, model: PublishedModel, *, stitch: bool = False, kept: int = KEPT_SOURCES) -> None:
        self._model = model
        self._stitch = stitch
        self._kept = kept
        self._sources: OrderedDict[str, tuple[FloatArray, WarpSource]] = OrderedDict()
        self._lock = threading.Lock()

    def enrol(self, portrait: Portrait) -> Identity:
        """KDTalker's crop out of the portrait's, which holds it with room to spare."""
        box = cropping.face_box(cropping.mesh_features(portrait.mesh), FRAME_SIZE, FRAME_SIZE)
        return self.enrol_face(cropping.cut_face(portrait.crop, box), portrait.digest)

    def enrol_face(self, face: ByteArray, digest: str, *, exact: bool = False) -> Identity:
        """A cut face u8 (h, w, 3) of any size -> Identity.

        `exact` shrinks it as the original does, which lets fine patterns alias; otherwise areas are averaged.
        """
        method = cv2.INTER_LINEAR if exact or min(face.shape[:2]) < cropping.NETWORK_SIDE else cv2.INTER_AREA
        small = _resized(face, cropping.NETWORK_SIDE, method)
        canonical, source = self._model.read_motion(small)
        volume = self._model.read_appearance(small)
        crop = _resized(face, FRAME_SIZE, cv2.INTER_LINEAR)
        return Identity(KDTALKER.name, digest, canonical, source, crop, {VOLUME: volume})

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        frames = np.empty((len(motions), FRAME_SIZE, FRAME_SIZE, 3), np.uint8) if out is None else out
        rows: dict[str, list[int]] = {}
        for row, identity in enumerate(identities):
            rows.setdefault(identity.digest, []).append(row)
        for numbers in rows.values():
            identity = identities[numbers[0]]
            keypoints, source = self._source(identity)
            driving = motion.keypoints(identity.canonical, motions[numbers])
            if self._stitch:
                driving = self._model.stitch(keypoints, driving)
            frames[numbers] = self._model.frames(source, driving)
        return frames

    def _source(self, identity: Identity) -> tuple[FloatArray, WarpSource]:
        """Keypoints and tables of a photo, on the device."""
        with self._lock:
            kept = self._sources.get(identity.digest)
            if kept is None:
                placed = as_predicted(identity.source, identity.source[None])
                keypoints = motion.keypoints(identity.canonical, placed)[0]
                kept = (keypoints, self._model.prepare(identity.tables[VOLUME], keypoints))
                self._sources[identity.digest] = kept
                if len(self._sources) > self._kept:
                    self._sources.popitem(last=False)
            self._sources.move_to_end(identity.digest)
            return kept


def _resized(picture: ByteArray, side: int, method: int) -> ByteArray:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), np.uint8)


def published_talker(
    model: PublishedModel, *, relative: bool = False, stitch: bool = False
) -> tuple[Talker, PublishedRenderer]:
    """The shared pipeline over the published networks, sampled in short windows, and its renderer."""
    plan, device = KDTALKER.window, str(model.device)
    frames = _tensor("motion", BATCH, plan.length, MOTION_WIDTH)
    encoder = TorchEngine(
        "audio_encoder",
        model.audio_encoder,
        [_tensor("mel", BATCH, 80, KDTALKER.mel.columns)],
        [_tensor("feature", BATCH, AUDIO_WIDTH)],
        device=device,
    )
    window = TorchEngine(
        "window",
        model.sampler(STREAMING),
        [
            _tensor("tokens", BATCH, 2, MOTION_WIDTH),
            _tensor("sound", BATCH, plan.length, AUDIO_WIDTH),
            replace(frames, name="noise"),
            replace(frames, name="committed"),
            _tensor("mask", BATCH, plan.length),
            _tensor("guidance", MOTION_WIDTH),
            _tensor("temperature", MOTION_WIDTH),
        ],
        [frames],
        device=device,
    )
    ones = np.ones(MOTION_WIDTH, np.float32)
    placing = PublishedPlacing(model.normalisation, relative)
    renderer = PublishedRenderer(model, stitch=stitch)
    return Talker(KDTALKER, placing, encoder, Sampler(window, plan, ones, ones), renderer), renderer


def _tensor(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, np.dtype(np.float32), shape)
