"""The face before another background, or back in its photo: what of that no frame changes, and one frame of it.

A frame is warped as ever, its person's outline by the same map, and laid over what lies behind. The colours of the old
background shine through hair; there the person's own colours are continued outwards before anything is warped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.controls import BLURRED, CROP, GREEN, ORIGINAL, PLAIN
from engines.types import FRAME_SIZE, ByteArray, FloatArray, Scene
from engines.warp.head_field import smoothstep

COLOURS = {GREEN: (0, 177, 64), PLAIN: (226, 223, 217)}
BLUR = 0.022  # of the picture's longer side
FEATHER = 22  # pixels of the crop over which it passes into the photo; nothing moves there
OWN = 0.9, 1.0  # share of the person in a pixel from which its colour is theirs
WIDENING = (0.008, 0.02, 0.06, 0.2)  # of the side: blurs that continue colours, the narrowest where it reaches


@dataclass(frozen=True, slots=True)
class Stage:
    """`photo` u8 (1024, 1024, 4), supersampled, is what is warped: colours, and the person in it. `behind` u8
    (512, 512, 3), or None where the background stays.

    `scene` u8 (H, W, 3): the photo around; `box`: left, top, right and bottom of the crop in it; `cut`: the same in the
    crop shrunk to `side` pixels; `share` f32: how much of the crop shows there. `scene` and `share` are None where the
    crop alone is shown.
    """

    photo: ByteArray
    behind: ByteArray | None
    scene: ByteArray | None
    side: int
    box: tuple[int, int, int, int]
    cut: tuple[slice, slice]
    share: FloatArray | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        return (FRAME_SIZE, FRAME_SIZE) if self.scene is None else (self.scene.shape[1], self.scene.shape[0])

    def dressed(self, frame: ByteArray, matte: ByteArray) -> ByteArray:
        """A warped crop u8 (512, 512, 3) and its person u8 (512, 512) -> the picture."""
        if self.behind is not None:
            frame = blend(frame, self.behind, matte * np.float32(1 / 255))
        if self.scene is None or self.share is None:
            return frame
        left, top, right, bottom = self.box
        if self.side != FRAME_SIZE:
            frame = np.asarray(cv2.resize(frame, (self.side, self.side), interpolation=cv2.INTER_AREA), np.uint8)
        picture = self.scene.copy()
        picture[top:bottom, left:right] = blend(frame[self.cut], picture[top:bottom, left:right], self.share)
        return picture


def blend(over: ByteArray, under: ByteArray, share: FloatArray) -> ByteArray:
    """u8 (h, w, 3): `share` f32 (h, w) in [0, 1] of `over`, the rest of `under`."""
    return np.asarray(
        cv2.blendLinear(np.ascontiguousarray(over), np.ascontiguousarray(under), share, 1 - share), np.uint8
    )


def scene_tables(scene: Scene) -> dict[str, NDArray[Any]]:
    """A scene as tables of an identity."""
    place = np.array([scene.left, scene.top, scene.side], np.int32)
    return {"scene.photo": scene.photo, "scene.person": scene.person, "scene.place": place, "scene.matte": scene.matte}


def stage_of(tables: Mapping[str, NDArray[Any]], crop: ByteArray, view: str, background: str) -> Stage:
    """Everything that a view and a background need; some tens of milliseconds."""
    left, top, side = (int(value) for value in tables["scene.place"])
    photo, scene, person = tables["photo"], tables["scene.photo"], tables["scene.person"]
    behind = None
    if background != ORIGINAL:
        thin = tables["scene.matte"]
        matte = np.asarray(cv2.resize(thin, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
        if background == BLURRED:
            around, square = _blurred(scene, person, crop, thin, (left, top, side))
        else:
            around, square = (np.full_like(image, _colour(background)) for image in (scene, crop))
        behind = square
        whole = person * np.float32(1 / 255)
        scene = blend(_continued(scene, whole), around, whole)
        photo = np.dstack([_continued(photo[..., :3], matte * np.float32(1 / 255)), matte])
    height, width = scene.shape[:2]
    box = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    cut = slice(box[1] - top, box[3] - top), slice(box[0] - left, box[2] - left)
    if view == CROP:
        return Stage(photo, behind, None, side, box, cut, None)
    share = _feather(side, left > 0, top > 0, left + side < width, top + side < height)[cut]
    return Stage(photo, behind, scene, side, box, cut, np.ascontiguousarray(share))


def _colour(background: str) -> tuple[int, ...]:
    return COLOURS.get(background) or tuple(int(background[place : place + 2], 16) for place in (1, 3, 5))


def _blurred(
    scene: ByteArray, person: ByteArray, crop: ByteArray, matte: ByteArray, place: tuple[int, int, int]
) -> tuple[ByteArray, ByteArray]:
    """The background without the person, out of focus: of the photo and of the crop, which may reach beyond it."""
    left, top, side = place
    height, width = scene.shape[:2]
    above, before = max(-top, 0), max(-left, 0)
    margins = (above, max(top + side - height, 0), before, max(left + side - width, 0))
    there = slice(above, above + height), slice(before, before + width)
    square = slice(above + top, above + top + side), slice(before + left, before + left + side)
    layers = []
    for whole, part in ((scene, crop), (person, matte)):
        canvas = np.asarray(cv2.copyMakeBorder(whole, *margins, cv2.BORDER_REPLICATE), np.uint8)
        canvas[square] = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
        canvas[there] = whole
        layers.append(canvas)
    free = np.asarray(1 - np.minimum(1, layers[1] * np.float32(4 / 255)), np.float32)
    sigma = BLUR * max(height, width)
    blurred = cv2.GaussianBlur(_continued(layers[0], free), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    behind = cv2.resize(blurred[square], crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(blurred[there], np.uint8), np.asarray(behind, np.uint8)


def _continued(image: ByteArray, share: FloatArray) -> ByteArray:
    """`image` u8 (h, w, 3) where its `share` f32 (h, w) is whole; elsewhere the colours from there continued."""
    shrink = min(1.0, 192 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA).astype(np.float32)
    own = smoothstep(share, *OWN)
    weight = cv2.resize(own, small.shape[1::-1], interpolation=cv2.INTER_AREA) + np.float32(1e-5)
    colours, known = np.zeros_like(small), np.zeros_like(weight)
    for widening in WIDENING:
        sigma = widening * max(small.shape[:2])
        colour = cv2.GaussianBlur(small * weight[..., None], (0, 0), sigma)
        reach = cv2.GaussianBlur(weight, (0, 0), sigma)
        fresh = (1 - known) * np.minimum(1.0, 8 * reach)
        colours += (fresh / reach)[..., None] * colour
        known += fresh
    filled = cv2.resize(
        colours / (known[..., None] + np.float32(1e-6)), image.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )
    return blend(image, np.clip(filled + 0.5, 0, 255).astype(np.uint8), own)


def _feather(side: int, left: bool, top: bool, right: bool, bottom: bool) -> FloatArray:
    """Share of the crop f32 (side, side): it fades at the edges that lie within the photo."""
    reach = FEATHER * side / FRAME_SIZE
    away = np.arange(side, dtype=np.float32) + 0.5
    ramps = [smoothstep(away, 0, reach), smoothstep(away[::-1], 0, reach)]
    one = np.ones(side, np.float32)
    across = (ramps[0] if left else one) * (ramps[1] if right else one)
    down = (ramps[0] if top else one) * (ramps[1] if bottom else one)
    return np.asarray(down[:, None] * across[None], np.float32)
