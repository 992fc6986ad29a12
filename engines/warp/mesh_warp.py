"""The embedded profile's renderer: the person's own pixels, moved by the 21 keypoints.

Per frame: keypoint motion -> forward flow (one matrix product) -> backward flow -> one `cv2.remap` of the
photo, and one of each eye's painted lids; then the mouth as layers over an interior. NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engines import motion
from engines.controls import CROP, ORIGINAL
from engines.face_mesh import FaceModel
from engines.renderer import Plain, Staged
from engines.types import FRAME_SIZE, MOTION_WIDTH, ByteArray, FloatArray, Identity, Portrait
from engines.warp.enrolment import PICTURE, STEP, enrol, eyelids_of, interior_of, mouth_of, rest_gaps
from engines.warp.eyelids import draw_eyelids
from engines.warp.head_field import coefficients
from engines.warp.lips import LipModel
from engines.warp.mouth import draw_mouth
from engines.warp.stage import Stage, stage_of
from engines.warp.warp_field import SUPERSAMPLING, identity_planes, invert, pixel_map, warp

ITERATIONS = 6
# How far a motion may be from the photo's before it is cut: scale as a ratio, angles in degrees, translation
# in half crop widths, exp in eye distances. Far beyond what looks good; nothing beyond can be drawn at all.
SCALE_RANGE, ANGLE_RANGE, SHIFT_RANGE, EXPRESSION_RANGE = 1.5, 45.0, 0.5, 0.5


class MeshWarp:
    """Renderer of one profile. Holds no caller's state: several threads may render at once."""

    def __init__(self, face: FaceModel, profile: str = "embedded") -> None:
        self._face = face
        self._profile = profile
        self._lips = LipModel.of(face)
        self._nodes = identity_planes(PICTURE.columns, PICTURE.rows)
        self._pixels = SUPERSAMPLING * identity_planes(FRAME_SIZE, FRAME_SIZE)

    def warm(self, batches: Iterable[int]) -> None:
        """Nothing here is prepared by size."""

    def enrol(self, portrait: Portrait) -> Identity:
        """Prepare a portrait, once per photo."""
        return enrol(self._face, self._profile, portrait)

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        """Motion (N, 70) of N identities -> u8 (N, 512, 512, 3) RGB, exp in the head's frame.

        `out`, when given, is filled and returned. Rows do not influence each other. Raises ValueError on
        shapes that do not fit together.
        """
        motions = np.asarray(motions, np.float32)
        count = len(identities)
        if motions.shape != (count, MOTION_WIDTH):
            raise ValueError(
                f"{count} identities need motions of shape ({count}, {MOTION_WIDTH}), not {motions.shape}."
            )
        shape = (count, FRAME_SIZE, FRAME_SIZE, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"`out` must be uint8 of shape {shape}, not {out.dtype} {out.shape}.")
        for row, identity in enumerate(identities):
            self._render_one(identity, _drawable(motions[row], identity.source), out[row])
        return out

    def staged(self, identity: Identity, view: str, background: str) -> Staged:
        """Prepare this view of a face; see `engines.warp.stage`."""
        if (view, background) == (CROP, ORIGINAL):
            return Plain(self, identity)
        return _Staged(self, identity, stage_of(identity.tables, identity.crop, view, background))

    def render_on(self, stage: Stage, identity: Identity, frame: FloatArray) -> ByteArray:
        """Motion (70,) of a face -> u8 (height, width, 3) RGB, as the stage shows it."""
        out = np.empty((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        frame = _drawable(np.asarray(frame, np.float32), identity.source)
        return stage.dressed(out, self._render_one(identity, frame, out, stage))

    def _render_one(
        self, identity: Identity, frame: FloatArray, out: ByteArray, stage: Stage | None = None
    ) -> ByteArray:
        """Fill `out`; returns the person's share of each pixel, u8 (512, 512), warped as the photo is."""
        tables = identity.tables
        expression = self._lips.uncrossed(motion.expression(frame), rest_gaps(tables))
        frame[motion.EXPRESSION] = expression.reshape(-1)
        flow = coefficients(identity.source, frame)

        photo = tables["photo"] if stage is None else stage.photo
        forward = (flow.T / STEP @ tables["rows"]).reshape(2, PICTURE.rows, PICTURE.columns)
        backward = invert(forward, self._nodes, np.zeros(2, np.float32), ITERATIONS)
        where = pixel_map(backward, self._pixels, STEP)
        warped = warp(photo, where)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)
        draw_eyelids(eyelids_of(tables), expression, where, out)
        draw_mouth(mouth_of(tables), interior_of(tables), flow, frame, out)
        return warped[..., 3]


@dataclass(frozen=True, slots=True)
class _Staged:
    renderer: MeshWarp
    identity: Identity
    stage: Stage

    @property
    def size(self) -> tuple[int, int]:
        return self.stage.size

    def __call__(self, frame: FloatArray) -> ByteArray:
        return self.renderer.render_on(self.stage, self.identity, frame)


def _drawable(frame: FloatArray, source: FloatArray) -> FloatArray:
    """Motion (70,) cut to what can be drawn; numbers that are none become the photo's."""
    reach = np.full(MOTION_WIDTH, EXPRESSION_RANGE, np.float32)
    reach[motion.ANGLES], reach[motion.TRANSLATION] = ANGLE_RANGE, SHIFT_RANGE
    low, high = source - reach, source + reach
    low[motion.SCALE], high[motion.SCALE] = source[motion.SCALE] / SCALE_RANGE, source[motion.SCALE] * SCALE_RANGE
    return np.asarray(np.clip(np.where(np.isnan(frame), source, frame), low, high), np.float32)
