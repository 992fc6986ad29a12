"""Blinks, painted over the photo and warped with it.

How far an eye is closed is one number, so every state of it can be painted once per photo: the lashes
slide down over the eyeball, and the skin that unrolls above them takes its colour from the skin around the eye.
A frame only blends two neighbouring states.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.face_mesh import FaceModel
from engines.types import ByteArray, FloatArray
from engines.warp.head_field import smoothstep
from engines.warp.warp_field import SUPERSAMPLING, identity_map, sample

# Upper and lower lid from the corner at the picture's left to the one at its right.
EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
)
LEVELS = 21  # painted states from open to closed
MEETING = 0.8  # the lids meet this far down
OVERSHOOT = 0.018  # eye distances by which closed lids pass each other, so that no eyeball shows
LASHES = 0.024  # eye distances, their width
TRACKED_BLINK = 0.8  # of the opening: what a closed eye loses in face-mesh tracks
SLACK = 0.04  # closure below this is the tracker's noise
STRIDE = 8  # pixels between those that are asked whether they are near an eye
APART = 2 * STRIDE * SUPERSAMPLING  # pixels of the photo that such neighbours are apart at the most


@dataclass(frozen=True, slots=True)
class Eyelids:
    """Prepared once per photo, supersampled pixels.

    `corner` int (2, 2): left, top of each eye's patch. `first`, `second` u8 (LEVELS, h, w, 3): the patch
    at the picture's left and at its right in every state. `rows` f32 (2, 21): keypoint offsets (their y) to closure.
    """

    corner: NDArray[np.int32]
    first: ByteArray
    second: ByteArray
    rows: FloatArray


@dataclass(frozen=True, slots=True)
class _Eye:
    """One eye while it is painted: images over its patch, heights in supersampled pixels along `down`.

    `up`, `low`: the lids' edges, `gap` between them, `reach` 1 at the eye and 0 beyond its corners,
    `skin` the eye painted over, `unit` the eye distance.
    """

    view: FloatArray
    pixels: FloatArray
    down: FloatArray
    y: FloatArray
    up: FloatArray
    low: FloatArray
    gap: FloatArray
    reach: FloatArray
    skin: FloatArray
    unit: float

    def skin_at(self, shift: NDArray[np.floating]) -> FloatArray:
        """`skin` moved down by `shift` pixels."""
        return sample(self.skin, self.pixels - shift[..., None] * self.down)


def closure_rows(face: FaceModel) -> FloatArray:
    """(2, 21): y offsets of the keypoints -> how far each eye is closed, 0 open to 1 closed."""
    rows = []
    for upper, lower in EYES:
        above, below = list(upper[3:6]), list(lower[3:6])
        lost = face.mixing[above].mean(0) - face.mixing[below].mean(0)
        opening = (face.template[below, 1] - face.template[above, 1]).mean()
        rows.append(lost / (TRACKED_BLINK * opening))
    return np.asarray(rows, np.float32)


def eyelid_tables(mesh: FloatArray, face: FaceModel, photo: ByteArray) -> Eyelids:
    """Paint every state of both eyes; `mesh` (478, 3) crop pixels, `photo` the supersampled crop."""
    unit = SUPERSAMPLING * float(np.linalg.norm(mesh[33] - mesh[263]))
    (first_corner, first), (second_corner, second) = (
        _paint(mesh[list(upper), :2], mesh[list(lower), :2], unit, photo) for upper, lower in EYES
    )
    return Eyelids(np.array([first_corner, second_corner], np.int32), first, second, closure_rows(face))


def draw_eyelids(eyelids: Eyelids, expression: FloatArray, where: FloatArray, picture: ByteArray) -> None:
    """Draw the lids where `expression` (21, 3), head frame, has them into `picture` u8 (h, w, 3), in place.

    `where` (2, h, w): the picture's map into the supersampled photo, as `pixel_map` makes it.
    """
    closure = eyelids.rows @ expression[:, 1]
    closure = np.clip((closure - SLACK) / (1 - SLACK), 0, 1)
    coarse = where[:, ::STRIDE, ::STRIDE]
    for amount, corner, states in zip(closure, eyelids.corner, (eyelids.first, eyelids.second), strict=True):
        if amount == 0:
            continue
        level = float(amount) * (LEVELS - 1)
        below = min(int(level), LEVELS - 2)
        share = level - below
        patch = cv2.addWeighted(states[below], 1 - share, states[below + 1], share, 0)
        # Only pixels whose place in the photo is in the patch change: those of its surroundings are looked at.
        left, top = corner.tolist()
        height, width = patch.shape[:2]
        near = (coarse[0] > left - APART) & (coarse[0] < left + width + APART)
        near &= (coarse[1] > top - APART) & (coarse[1] < top + height + APART)
        x, y, across, down = (STRIDE * number for number in cv2.boundingRect(near.astype(np.uint8)))
        if not across:
            continue  # the eye has left the picture
        around = slice(y, y + down), slice(x, x + across)
        own = where[:, *around] - corner[:, None, None].astype(np.float32)
        cv2.remap(patch, own[0], own[1], cv2.INTER_LINEAR, dst=picture[around], borderMode=cv2.BORDER_TRANSPARENT)


def _paint(upper: FloatArray, lower: FloatArray, unit: float, photo: ByteArray) -> tuple[tuple[int, int], ByteArray]:
    """States (LEVELS, h, w, 3) of one eye and its patch's corner; contours (n, 2) in crop pixels."""
    upper, lower = upper * SUPERSAMPLING, lower * SUPERSAMPLING
    both = np.concatenate([upper, lower])
    margin = np.array([0.07, 0.13]) * unit
    low = np.floor(both.min(0) - margin).astype(int)
    size = np.ceil(both.max(0) + margin).astype(int) - low
    low = np.clip(low, 0, np.array(photo.shape[1::-1]) - size)
    view = photo[low[1] : low[1] + size[1], low[0] : low[0] + size[0]].astype(np.float32)

    along = (upper[-1] - upper[0]) / np.linalg.norm(upper[-1] - upper[0])
    axes = np.stack([along, np.array([-along[1], along[0]])]).astype(np.float32)
    pixels = identity_map(size[0], size[1])
    x, y = np.moveaxis((pixels + low - upper[0]) @ axes.T, -1, 0)
    lids = []
    for contour in (upper, lower):
        local = (contour - upper[0]) @ axes.T
        dense = np.linspace(0, local[-1, 0], 120)
        height = np.interp(dense, local[:, 0], local[:, 1])
        kernel = cv2.getGaussianKernel(15, 4.0)[:, 0]
        height = np.convolve(np.pad(height, 7, mode="reflect", reflect_type="odd"), kernel, "valid")
        lids.append(np.interp(x, dense, height).astype(np.float32))
    lid_up, lid_low = lids
    width = float(np.linalg.norm(upper[-1] - upper[0]))
    eye = _Eye(
        view=view,
        pixels=pixels,
        down=axes[1],
        y=y.astype(np.float32),
        up=lid_up,
        low=lid_low,
        gap=np.maximum(lid_low - lid_up, 0),
        reach=smoothstep(np.minimum(x, width - x), -0.06 * unit, 0.03 * unit),
        skin=_skin(view, x, y, lid_up, lid_low, width, unit),
        unit=unit,
    )
    states = [_state(float(closure), eye) for closure in np.linspace(0, 1, LEVELS)]
    fade = np.minimum(
        np.minimum(pixels[..., 0], size[0] - 1 - pixels[..., 0]),
        np.minimum(pixels[..., 1], size[1] - 1 - pixels[..., 1]),
    )
    window = smoothstep(fade, 0, 0.04 * unit)[..., None]
    states = [np.clip(view + (state - view) * window + 0.5, 0, 255).astype(np.uint8) for state in states]
    return (int(low[0]), int(low[1])), np.stack(states)


def _skin(
    view: FloatArray, x: FloatArray, y: FloatArray, up: FloatArray, low: FloatArray, width: float, unit: float
) -> FloatArray:
    """The eye painted over with the skin around it, grain included."""
    away = 0.03 * unit
    eye = (y > up - away) & (y < low + 1.3 * away) & (x > -0.05 * unit) & (x < width + 0.05 * unit)
    # Glasses, brows and shadows are no skin: what is far darker than the rest does not count.
    brightness = view.sum(-1)
    typical = float(np.quantile(brightness[~eye], 0.6))
    weight = np.where(eye, 0.0, smoothstep(brightness, 0.5 * typical, 0.8 * typical) + 1e-3).astype(np.float32)
    # More from above than from below: the lid is of the upper side.
    weight *= np.where(y > (up + low) / 2, 0.5, 1.0).astype(np.float32)
    fill = np.zeros_like(view)
    total = np.zeros_like(weight)
    for sigma in (0.035, 0.07, 0.14):
        total += cv2.GaussianBlur(weight, (0, 0), sigma * unit)
        fill += cv2.GaussianBlur(view * weight[..., None], (0, 0), sigma * unit)
    fill /= total[..., None] + 1e-4
    # The grain of the skin below the eye, lest the lid look like plastic.
    grain = np.clip(view - cv2.GaussianBlur(view, (0, 0), 0.012 * unit), -8, 8)
    down = min(int(0.2 * unit), len(view) - 1)
    return np.asarray(fill + np.pad(grain, ((0, down), (0, 0), (0, 0)), mode="reflect")[down:], np.float32)


def _state(closure: float, eye: _Eye) -> FloatArray:
    """One state, float RGB."""
    view, y, up, low, gap, unit = eye.view, eye.y, eye.up, eye.low, eye.gap, eye.unit

    def moved(shift: NDArray[np.floating]) -> FloatArray:
        return sample(view, eye.pixels - shift[..., None] * eye.down)

    drop = closure * (MEETING * gap + closure * OVERSHOOT * unit * eye.reach)
    rise = closure * (1 - MEETING) * gap
    edge_up, edge_low = up + drop, low - rise
    # Skin below follows the lower lid, skin above sags a little; both fade with distance.
    below = 1 - smoothstep(y - edge_low, 0, 0.13 * unit)
    above = 1 - smoothstep(up - y, 0, 0.13 * unit)
    shift = np.where(y > edge_low, -rise * below, np.where(y < up, 0.12 * drop * above, 0))
    state = moved(shift)
    # The eyeball lies in the lid's shadow.
    shadow = (y > edge_up) * (y < edge_low) * np.exp(-(((y - edge_up) / (0.03 * unit)) ** 2))
    state *= (1 - 0.25 * closure * shadow)[..., None]
    # The lid's skin, from the fold to the lashes: bulging, a little darker at the fold and under its edge.
    lash = LASHES * unit
    fresh = float(smoothstep(np.asarray(closure), 0.0, 0.3))
    across = np.clip((y - up) / np.maximum(drop, 1), 0, 1)
    light = 0.98 + 0.04 * np.sin(np.pi * across) - 0.07 * (1 - across) ** 2 - 0.05 * across**3
    fold = smoothstep(y - up, -2.6 * lash, 0.1 * lash)
    cover = fold * (1 - smoothstep(y - edge_up, -1.0, 1.0)) * fresh * eye.reach
    state += (eye.skin * light[..., None] - state) * cover[..., None]
    # Closed, the lower lid's moist edge is covered too.
    margin = (y > edge_up) * (1 - smoothstep(y - edge_low, 0.02 * unit, 0.045 * unit))
    margin = margin * eye.reach * float(smoothstep(np.asarray(closure), 0.6, 1.0))
    state += (0.95 * eye.skin - state) * margin[..., None]
    # The lashes ride on the lid's edge; closed, they lie on the cheek as one soft dark line.
    distance = y - edge_up
    band = smoothstep(distance, -1.1 * lash, -0.2 * lash) * (1 - smoothstep(distance, 0.15 * lash, 0.75 * lash))
    band = band * eye.reach * smoothstep(np.asarray(closure), 0, 0.1)
    darkening = np.clip(moved(drop) / np.maximum(eye.skin_at(drop), 1), 0.25, 1.02)
    state += (eye.skin * darkening - state) * band[..., None]
    line = np.exp(-((distance / (0.3 * lash)) ** 2)) * eye.reach * smoothstep(np.asarray(closure), 0.5, 1.0)
    state *= (1 - 0.3 * line)[..., None]
    return state
