"""What lies around a face: the photo that the crop was cut from, and where in both the person ends.

The outline is MediaPipe's selfie segmentation, which sees 256 x 256 pixels, sharpened by the photo's own edges with a
guided filter (He, Sun, Tang: Guided Image Filtering, 2013).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.portrait.landmarks import FaceLandmarker
from engines.types import FRAME_SIZE, ByteArray, FloatArray, Scene

LONGEST = 768  # pixels of the photo's longer side, as it is shown; the crop in it has at most its own 512
SMALLEST = 16
VIEW = 256  # pixels, side of what the segmentation sees
AROUND = 1.3  # crop sides that it is shown to find the person in the crop
RADIUS, SMOOTH = 0.02, 1e-4  # of the guided filter: of the side, and variance of colours in [0, 1] that is no edge
COARSE = 256  # pixels
REACH = 0.03  # of the longer side: hair that the network did not see is no farther from what it did
SURE_OUT, SURE_IN = 0.15, 0.85  # of the filtered outline: below is background, above is person


def scene_of(landmarker: FaceLandmarker, pixels: ByteArray, crop: ByteArray, left: int, top: int, side: int) -> Scene:
    """`crop` u8 (512, 512, 3) was cut out of the photo `pixels` at this square."""
    zoom = min(LONGEST / max(pixels.shape[:2]), FRAME_SIZE / side)
    height, width = (max(SMALLEST, round(length * zoom) // 2 * 2) for length in pixels.shape[:2])
    photo = _scaled(pixels, width, height)
    place = round(left * zoom), round(top * zoom), max(SMALLEST, round(side * zoom))
    middle = place[0] + place[2] / 2, place[1] + place[2] / 2
    person = _outline(photo, _seen(landmarker, photo), middle)
    matte = _outline(crop, _seen_around(landmarker, pixels, left, top, side), (FRAME_SIZE / 2, FRAME_SIZE / 2))
    return Scene(photo, person, *place, matte)


def _scaled(image: ByteArray, width: int, height: int) -> ByteArray:
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _seen(landmarker: FaceLandmarker, image: ByteArray) -> FloatArray:
    """Likelihood of the person f32 (H, W); the picture is squeezed to the square that the network knows."""
    found = landmarker.person(_scaled(image, VIEW, VIEW))
    return np.asarray(cv2.resize(found, image.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _seen_around(landmarker: FaceLandmarker, pixels: ByteArray, left: int, top: int, side: int) -> FloatArray:
    """The same for the crop f32 (512, 512), with some of the photo around it, where the network sees more of a body."""
    margin = round((AROUND - 1) / 2 * side)
    rows, columns = pixels.shape[:2]
    x0, y0, x1, y1 = left - margin, top - margin, left + side + margin, top + side + margin
    inside = pixels[max(y0, 0) : min(y1, rows), max(x0, 0) : min(x1, columns)]
    window = cv2.copyMakeBorder(
        inside, max(-y0, 0), max(y1 - rows, 0), max(-x0, 0), max(x1 - columns, 0), cv2.BORDER_REPLICATE
    )
    found = landmarker.person(_scaled(np.asarray(window, np.uint8), VIEW, VIEW))
    first = VIEW * margin / (side + 2 * margin)
    step = VIEW * side / (side + 2 * margin) / FRAME_SIZE
    affine = np.array([[step, 0, first + step / 2 - 0.5], [0, step, first + step / 2 - 0.5]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = (FRAME_SIZE, FRAME_SIZE)
    return np.asarray(cv2.warpAffine(found, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _outline(image: ByteArray, seen: FloatArray, middle: tuple[float, float]) -> ByteArray:
    """What was `seen` f32 (H, W) of the person whose face is at `middle` (x, y), drawn to the edges of `image`."""
    height, width = seen.shape
    _, regions = cv2.connectedComponents((seen > 0.5).astype(np.uint8))
    x, y = (min(max(round(at), 0), length - 1) for at, length in zip(middle, (width, height), strict=True))
    own = np.asarray(regions == regions[y, x], np.uint8)
    reach = max(3, round(REACH * max(height, width)))
    near = cv2.dilate(own, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    near = cv2.blur(near.astype(np.float32), (reach, reach))
    refined = guided(image * np.float32(1 / 255), np.clip(seen, 0, 1) * near)
    sure = np.clip((refined - SURE_OUT) / (SURE_IN - SURE_OUT), 0, 1) * near
    return np.asarray(255 * sure, np.float32).round().astype(np.uint8)


def guided(guide: FloatArray, values: FloatArray) -> FloatArray:
    """`values` f32 (H, W) filtered so that they change where the colours of `guide` f32 (H, W, 3) do.

    The coefficients are found at `COARSE` pixels (He, Sun: Fast Guided Filter, 2015).
    """
    shape = guide.shape[1::-1]
    shrink = min(1.0, COARSE / max(shape))
    small = np.asarray(cv2.resize(guide, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.float32)
    coarse = np.asarray(cv2.resize(values, small.shape[1::-1], interpolation=cv2.INTER_AREA), np.float32)
    side = 2 * max(1, round(RADIUS * max(small.shape[:2]))) + 1

    def mean(image: NDArray[np.floating]) -> FloatArray:
        return np.asarray(cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

    colour, value = mean(small), mean(coarse)
    covariance = mean(small * coarse[..., None]) - colour * value[..., None]
    products = (small[..., :, None] * small[..., None, :]).reshape(*coarse.shape, 9)
    spread = np.concatenate([mean(products[..., row : row + 3]) for row in (0, 3, 6)], -1).reshape(*coarse.shape, 3, 3)
    spread = spread - colour[..., :, None] * colour[..., None, :] + SMOOTH * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, covariance[..., None])[..., 0].astype(np.float32)
    offset = mean(value - (slope * colour).sum(-1))
    fine, level = (cv2.resize(part, shape, interpolation=cv2.INTER_LINEAR) for part in (mean(slope), offset))
    return np.asarray((fine * guide).sum(-1) + level, np.float32)
