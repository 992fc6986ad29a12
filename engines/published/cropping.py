"""Crops of the published profile, and the way back into the photo.

Two crops: KDTalker's own (axis-aligned, FFHQ style, as its inference does) and LivePortrait's (rotated upright, as
its paste-back needs). Points are pixels, x right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from engines.types import FRAME_SIZE, ByteArray, FloatArray

NETWORK_SIDE = 256  # pixels of the networks' input
PASTE_RAMP = 60  # pixels of the frame over which a pasted picture fades in from its border

# Face-mesh points (MediaPipe's topology) standing for the landmarks that the crops are defined on.
MESH_EYES = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380))  # left and right in the picture
MESH_MOUTH_CORNERS = (61, 291)
MESH_LIP_CENTRES = (13, 14)
# Jaw from ear to ear, brows, eyes, nose and lips, without the forehead, which neither landmark set reaches.
MESH_OUTLINE = (
    *(127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(*MESH_EYES[0], *MESH_EYES[1], 168, 6, 197, 195, 5, 4, 1, 2, 98, 327),
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 13, 14),
)


@dataclass(frozen=True, slots=True)
class Features:
    """What a crop is built on, each f32 (2,): eye centres, mouth corners' mean, lips' centre; `outline` (n, 2)."""

    left_eye: FloatArray
    right_eye: FloatArray
    mouth: FloatArray
    lip: FloatArray
    outline: FloatArray


def mesh_features(mesh: FloatArray) -> Features:
    """The 478-point face mesh (478, 2 or 3), in pixels of the photo."""
    points = np.asarray(mesh, np.float32)[:, :2]
    left, right = (points[list(eye)].mean(axis=0) for eye in MESH_EYES)
    mouth, lip = points[list(MESH_MOUTH_CORNERS)].mean(axis=0), points[list(MESH_LIP_CENTRES)].mean(axis=0)
    return Features(left, right, mouth, lip, points[list(MESH_OUTLINE)])


def dlib_features(points: FloatArray) -> Features:
    """The 68 points of iBUG 300-W (68, 2)."""
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[[48, 54]].mean(axis=0)
    return Features(left, right, mouth, points[[62, 66]].mean(axis=0), points)


def liveportrait_features(points: FloatArray) -> Features:
    """The 106 points of insightface's detector or the 203 of LivePortrait's landmark model (n, 2)."""
    if len(points) == 106:
        left, right, lips = [33, 35, 40, 39], [87, 89, 94, 93], [52, 61]
    elif len(points) == 203:
        left, right, lips = [0, 6, 12, 18], [24, 30, 36, 42], [48, 66]
    else:
        raise ValueError(f"expected 106 or 203 landmarks, got {len(points)}")
    lip = points[lips].mean(axis=0)
    return Features(points[left].mean(axis=0), points[right].mean(axis=0), lip, lip, points)


# --------------------------------------------------------------------------- KDTalker's crop


@dataclass(frozen=True, slots=True)
class FaceBox:
    """KDTalker's crop: resize the photo to `resized` (width, height), cut `crop`, then `inner` out of that.

    Boxes are left, top, right, bottom; `inner` is truncated to whole pixels when it is cut.
    """

    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    inner: tuple[float, float, float, float]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """What is cut in the end, in pixels of the resized photo."""
        left, top, right, bottom = (int(side) for side in self.inner)
        x, y, x_end, y_end = self.crop
        return x + left, y + top, min(x + right, x_end), min(y + bottom, y_end)


def face_box(features: Features, width: int, height: int) -> FaceBox:
    """Where KDTalker cuts a photo of this size: as its inference does, width and height mixed up included."""
    eyes = np.asarray(features.right_eye, np.float64) - features.left_eye
    eye_centre = (np.asarray(features.left_eye, np.float64) + features.right_eye) / 2
    to_mouth = np.asarray(features.mouth, np.float64) - eye_centre
    x = eyes - np.array([-to_mouth[1], to_mouth[0]])
    x *= max(2.0 * np.hypot(*eyes), 1.8 * np.hypot(*to_mouth)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eye_centre + 0.1 * to_mouth
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    side = 2 * float(np.hypot(*x))

    shrink = int(np.floor(side / FRAME_SIZE / 2))
    if shrink > 1:
        width, height = round(width / shrink), round(height / shrink)
        quad, side = quad / shrink, side / shrink
    border = max(round(0.1 * side), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int) - border, np.ceil(quad.max(axis=0)).astype(int) + border
    crop = (max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), width), min(int(high[1]), height))
    q = quad - crop[:2] + 0.5
    inner = (
        max(float(min(q[0, 0], q[1, 0])), 0.0),
        max(float(min(q[0, 1], q[3, 1])), 0.0),
        min(float(max(q[2, 0], q[3, 0])), float(width)),
        min(float(max(q[1, 1], q[2, 1])), float(width)),
    )
    return FaceBox((width, height), crop, inner)


def cut_face(photo: ByteArray, box: FaceBox) -> ByteArray:
    """The box out of a photo u8 (H, W, 3) -> u8 (h, w, 3); not square near the photo's border."""
    if box.resized != (photo.shape[1], photo.shape[0]):
        photo = np.asarray(cv2.resize(photo, box.resized, interpolation=cv2.INTER_LINEAR), np.uint8)
    left, top, right, bottom = box.box
    return photo[top:bottom, left:right]


def box_to_photo(box: FaceBox, width: int, height: int) -> FloatArray:
    """Pixels of the 512 x 512 frame -> pixels of the photo of this size, f32 (3, 3)."""
    left, top, right, bottom = box.box
    to_photo = np.array([width / box.resized[0], height / box.resized[1]])
    zoom = np.array([right - left, bottom - top]) / FRAME_SIZE * to_photo
    # Whole numbers are pixel centres on both sides.
    shift = np.array([left, top]) * to_photo + zoom / 2 - 0.5
    return np.array([[zoom[0], 0, shift[0]], [0, zoom[1], shift[1]], [0, 0, 1]], np.float32)


# --------------------------------------------------------------------------- LivePortrait's crop


@dataclass(frozen=True, slots=True)
class UprightCrop:
    """A turned square. `centre` (2,), `side`, `angle` in radians; `to_crop`, `to_photo` f32 (3, 3)."""

    centre: FloatArray
    side: float
    angle: float
    to_crop: FloatArray
    to_photo: FloatArray


def upright_crop(
    features: Features, *, scale: float = 2.3, shift: float = -0.125, rotate: bool = True, size: int = FRAME_SIZE
) -> UprightCrop:
    """The square about a face in which the line from eyes to lips is vertical.

    `scale`: side over the larger side of the landmarks' box; `shift`: of the centre, in sides, down the face.
    """
    points = np.asarray(features.outline, np.float32)
    down = features.lip - (features.left_eye + features.right_eye) / 2
    length = float(np.hypot(*down))
    down = np.array([0, 1], np.float32) if length < 1e-3 else (down / length).astype(np.float32)
    right = np.array([down[1], -down[0]], np.float32)
    angle = float(np.arccos(right[0])) * (-1 if right[1] < 0 else 1)
    axes = np.stack([right, down])
    mean = points.mean(axis=0)
    along = (points - mean) @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    side = float((high - low).max()) * scale
    centre = mean + (low + high) / 2 @ axes + down * shift * side

    zoom, (x, y) = size / side, centre
    cos, sin = (np.cos(angle), np.sin(angle)) if rotate else (1.0, 0.0)
    half = size / 2
    to_crop = np.array(
        [
            [zoom * cos, zoom * sin, half - zoom * (cos * x + sin * y)],
            [-zoom * sin, zoom * cos, half - zoom * (-sin * x + cos * y)],
            [0, 0, 1],
        ],
        np.float32,
    )
    return UprightCrop(centre.astype(np.float32), side, angle, to_crop, np.linalg.inv(to_crop).astype(np.float32))


def cut_upright(photo: ByteArray, crop: UprightCrop, size: int = FRAME_SIZE) -> ByteArray:
    """The crop out of a photo u8 (H, W, 3) -> u8 (size, size, 3), black beyond the photo."""
    return np.asarray(cv2.warpAffine(photo, crop.to_crop[:2], (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def limit_photo(photo: ByteArray, longest: int = 1280) -> ByteArray:
    """A photo as LivePortrait takes it, and video can hold it: longer side at most `longest`, even sides."""
    height, width = photo.shape[:2]
    if max(height, width) > longest:
        zoom = longest / max(height, width)
        size = (int(width * zoom), int(height * zoom))
        photo = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = photo.shape[:2]
    return photo[: height - height % 2, : width - width % 2]


# --------------------------------------------------------------------------- paste-back


@cache
def paste_mask() -> FloatArray:
    """How much of the frame shows, f32 (512, 512, 3) in [0, 255]: everything but a border that fades out."""
    index = np.arange(FRAME_SIZE)
    distance = np.minimum(index, FRAME_SIZE - 1 - index)
    ramp = np.minimum(1.0, np.minimum(distance[:, None], distance[None, :]) / PASTE_RAMP)
    return np.repeat((255 * ramp).astype(np.uint8)[..., None], 3, axis=2).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PasteBack:
    """Puts frames u8 (512, 512, 3) back into their photo; what does not change is computed once.

    `photo` f32 (H, W, 3), `mask` f32 (H, W, 3) in [0, 1], `to_photo` f32 (3, 3).
    """

    photo: FloatArray
    mask: FloatArray
    to_photo: FloatArray

    @classmethod
    def into(cls, photo: ByteArray, to_photo: FloatArray) -> PasteBack:
        mask = warp_to_photo(paste_mask(), to_photo, photo.shape)
        return cls(photo.astype(np.float32), (mask / 255).astype(np.float32), to_photo)

    def __call__(self, frame: ByteArray) -> ByteArray:
        moved = warp_to_photo(frame, self.to_photo, self.photo.shape).astype(np.float32)
        blend = self.mask * moved + (1 - self.mask) * self.photo
        return np.clip(blend, 0, 255).astype(np.uint8)


def warp_to_photo(picture: ByteArray | FloatArray, to_photo: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """`picture` on a black canvas of the photo's (height, width, ...)."""
    return np.asarray(cv2.warpAffine(picture, to_photo[:2], (shape[1], shape[0]), flags=cv2.INTER_LINEAR))
