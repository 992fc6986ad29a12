"""The published profile behind the contracts both profiles share: engines, renderer, faces out of photos."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engines import motion
from engines.controls import CROP, ORIGINAL, ControlError
from engines.pipeline import Talker
from engines.placing import PublishedPlacing, as_predicted
from engines.portrait import checks
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.photo import read_photo
from engines.portrait.prepare import digest_of, face_height, faces
from engines.profile import KDTALKER
from engines.published import cropping
from engines.published.networks import STEPS, PublishedNetworks
from engines.renderer import Plain, Staged
from engines.runtime.base import IDENTITIES
from engines.sampler import Sampler
from engines.types import FRAME_SIZE, MOTION_WIDTH, ByteArray, FloatArray, Identity, Portrait

SOURCE = "source"  # keypoints of the photo; the other tables are named by the engine that makes them


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
    """The renderer's contract over engines that enrol photos and render from tables of them.

    The tables of the engine that renders are this renderer's alone. `stitch` corrects keypoints so that the picture's
    border stays put. One call at a time: the tables must not change under a running network, and a GPU takes one call
    at a time anyway.
    """

    def __init__(self, networks: PublishedNetworks, *, stitch: bool = False) -> None:
        self._networks, self._stitch = networks, stitch
        engine = networks.renderer
        empty = {
            spec.name: np.zeros(spec.sized({IDENTITIES: networks.identities}), spec.dtype)
            for spec in engine.inputs
            if spec.shape[0] == IDENTITIES
        }
        engine.hold(**empty)
        self._tables = tuple(empty)
        self._rows: OrderedDict[str, int] = OrderedDict()  # of the tables, by photo, the longest unused first
        self._lock = threading.Lock()

    def warm(self, batches: Iterable[int]) -> None:
        """Prepare calls of so many frames, and enrolling."""
        for engine in (self._networks.motion_extractor, self._networks.enrolment):
            engine.warm([1])
        sizes = sorted({min(batch, self._networks.rows) for batch in batches})
        self._networks.renderer.warm(sizes)
        if self._stitch:
            self._networks.stitching.warm(sizes)

    def enrol(self, portrait: Portrait) -> Identity:
        """KDTalker's crop out of the portrait's, which holds it with room to spare."""
        box = cropping.face_box(cropping.mesh_features(portrait.mesh), FRAME_SIZE, FRAME_SIZE)
        return self.enrol_face(cropping.cut_face(portrait.crop, box), portrait.digest)

    def enrol_face(self, face: ByteArray, digest: str, *, exact: bool = False) -> Identity:
        """A cut face u8 (h, w, 3) of any size -> Identity.

        `exact` shrinks it as the original does, which lets fine patterns alias; otherwise areas are averaged.
        """
        method = cv2.INTER_LINEAR if exact or min(face.shape[:2]) < cropping.NETWORK_SIDE else cv2.INTER_AREA
        picture = _resized(face, cropping.NETWORK_SIDE, method)[None]
        read = self._networks.motion_extractor.run(picture=picture)
        canonical, source = read["canonical"][0], read["motion"][0]
        keypoints = motion.keypoints(canonical, as_predicted(source, source[None]))
        enrolled = self._networks.enrolment.run(picture=picture, keypoints=keypoints)
        tables = {SOURCE: keypoints[0]} | {name: table[0] for name, table in enrolled.items()}
        crop = _resized(face, FRAME_SIZE, cv2.INTER_LINEAR)
        return Identity(KDTALKER.name, digest, canonical, source, crop, tables)

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        frames = np.empty((len(motions), FRAME_SIZE, FRAME_SIZE, 3), np.uint8) if out is None else out
        for start in range(0, len(motions), self._networks.rows):
            part = slice(start, start + self._networks.rows)
            driving = self._driving(identities[part], motions[part])
            with self._lock:
                rows = np.array([self._row(identity) for identity in identities[part]])
                self._networks.renderer.run({"frames": frames[part]}, keypoints=driving, rows=rows)
        return frames

    def staged(self, identity: Identity, view: str, background: str) -> Staged:
        """The crop as it is: what is behind the person is part of the appearance that the network draws."""
        if (view, background) != (CROP, ORIGINAL):
            raise ControlError("This profile shows the crop with its own background only.")
        return Plain(self, identity)

    def _driving(self, identities: Sequence[Identity], motions: FloatArray) -> FloatArray:
        """Keypoints (N, 21, 3) of N motions."""
        driving = np.concatenate(
            [motion.keypoints(identity.canonical, row[None]) for identity, row in zip(identities, motions, strict=True)]
        )
        if not self._stitch:
            return driving
        source = np.stack([identity.tables[SOURCE] for identity in identities])
        return self._networks.stitching.run(source=source, keypoints=driving)["stitched"]

    def _row(self, identity: Identity) -> int:
        """Where a photo lies in the tables; put there, over the one longest unused, if it is not.

        A call has no more photos than the tables have rows, so none of its own is overwritten.
        """
        row = self._rows.get(identity.digest)
        if row is None:
            row = len(self._rows)
            if row == self._networks.identities:
                _, row = self._rows.popitem(last=False)
            self._networks.renderer.put(row, **{name: identity.tables[name] for name in self._tables})
            self._rows[identity.digest] = row
        self._rows.move_to_end(identity.digest)
        return row


def _resized(picture: ByteArray, side: int, method: int) -> ByteArray:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), np.uint8)


def published_talker(
    networks: PublishedNetworks,
    *,
    relative: bool = False,
    stitch: bool = False,
    hop: int | None = None,
    guidance: float = 1.0,
    temperature: float = 1.0,
) -> tuple[Talker, PublishedRenderer]:
    """The shared pipeline over the published networks, sampled in short windows, and its renderer.

    `guidance` and `temperature` other than 1 are no part of the original; the first needs guided networks.
    """
    profile = KDTALKER if hop is None else KDTALKER.with_hop(hop)
    ones = np.ones(MOTION_WIDTH, np.float32)
    sampler = Sampler(networks.window(STEPS), profile.window, guidance * ones, temperature * ones)
    renderer = PublishedRenderer(networks, stitch=stitch)
    placing = PublishedPlacing(networks.normalisation, relative)
    return Talker(profile, placing, networks.audio_encoder, sampler, renderer), renderer
