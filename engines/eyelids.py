"""Blinks, painted into the photo before it is warped.

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
from engines.head_field import smoothstep
from engines.types import ByteArray, FloatArray
from engines.warp_field import SUPERSAMPLING, identity_map

# Upper and lower lid from the corner at the picture's left to the one at its right.
EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
)
LEVELS = 21  # painted states from open to closed
MEETING = 0.8  # the lids meet this far down
TRACKED_BLINK = 0.8  # of the opening: what a closed eye loses in face-mesh tracks
SLACK = 0.04  # closure below this is the tracker's noise


@dataclass(frozen=True, slots=True)
class Eyelids:
    """Prepared once per photo, supersampled pixels.

    `corner` int (2, 2): left, top of each eye's patch. `right`, `left` u8 (LEVELS, h, w, 3): the patch
    at the picture's left and right in every state. `rows` f32 (2, 21): keypoint offsets (their y) to closure.
    """

    corner: NDArray[np.int32]
    first: ByteArray
    second: ByteArray
    rows: FloatArray


def closure_rows(face: FaceModel) -> FloatArray:
    """(2, 21): y offsets of the keypoints -> how far each eye is closed, 0 open to 1 closed."""
    rows = []
    for upper, lower in EYES:
        inner = slice(3, 6)
        lost = face.mixing[list(upper[inner])].mean(0) - face.mixing[list(lower[inner])].mean(0)
        opening = (face.template[list(lower[inner]), 1] - face.template[list(upper[inner]), 1]).mean()
        rows.append(lost / (TRACKED_BLINK * opening))
    return np.asarray(rows, np.float32)


def eyelid_tables(mesh: FloatArray, face: FaceModel, photo: ByteArray) -> Eyelids:
    """Paint every state of both eyes; `mesh` (478, 3) crop pixels, `photo` the supersampled crop."""
    unit = SUPERSAMPLING * float(np.linalg.norm(mesh[33] - mesh[263]))
    corners, patches = [], []
    for upper, lower in EYES:
        corner, states = _paint(mesh[list(upper), :2], mesh[list(lower), :2], unit, photo)
        corners.append(corner)
        patches.append(states)
    return Eyelids(np.array(corners, np.int32), *patches, closure_rows(face))


def blinked(eyelids: Eyelids, expression: FloatArray, photo: ByteArray, scratch: ByteArray) -> ByteArray:
    """The photo with its lids where `expression` (21, 3), head frame, has them.

    Returns `photo` itself while both eyes are open, else `scratch` (same shape), overwritten.
    """
    closure = eyelids.rows @ expression[:, 1]
    closure = np.clip((closure - SLACK) / (1 - SLACK), 0, 1)
    if not closure.any():
        return photo
    np.copyto(scratch, photo)
    for amount, (left, top), states in zip(closure, eyelids.corner, (eyelids.first, eyelids.second), strict=True):
        level = float(amount) * (LEVELS - 1)
        below = min(int(level), LEVELS - 2)
        height, width = states.shape[1:3]
        share = level - below
        patch = cv2.addWeighted(states[below], 1 - share, states[below + 1], share, 0)
        scratch[top : top + height, left : left + width] = patch
    return scratch


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
    gap = np.maximum(lid_low - lid_up, 0)
    reach = smoothstep(np.minimum(x, width - x), -0.05 * unit, 0.03 * unit)  # nothing happens beyond the corners

    skin = _skin(view, x, y, lid_up, lid_low, width, unit)
    states = [_state(c, view, pixels, axes, y, lid_up, lid_low, gap, reach, skin, unit) for c in np.linspace(0, 1, LEVELS)]
    fade = np.minimum(np.minimum(pixels[..., 0], size[0] - 1 - pixels[..., 0]), np.minimum(pixels[..., 1], size[1] - 1 - pixels[..., 1]))
    window = smoothstep(fade, 0, 0.04 * unit)[..., None]
    states = [np.clip(view + (state - view) * window + 0.5, 0, 255).astype(np.uint8) for state in states]
    return (int(low[0]), int(low[1])), np.stack(states)


def _skin(view: FloatArray, x: FloatArray, y: FloatArray, up: FloatArray, low: FloatArray, width: float, unit: float) -> FloatArray:
    """The eye painted over with the colour of the skin around it."""
    near = 0.035 * unit
    eye = (y > up - near) & (y < low + near) & (x > -0.06 * unit) & (x < width + 0.06 * unit)
    weight = (~eye).astype(np.float32)
    sigma = 0.05 * unit
    total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None] + 1e-3
    fill = cv2.GaussianBlur(view * weight[..., None], (0, 0), sigma) / total
    return np.asarray(fill, np.float32)


def _state(
    closure: float,
    view: FloatArray,
    pixels: FloatArray,
    axes: FloatArray,
    y: FloatArray,
    up: FloatArray,
    low: FloatArray,
    gap: FloatArray,
    reach: FloatArray,
    skin: FloatArray,
    unit: float,
) -> FloatArray:
    """One state, float RGB."""

    def sample(shift: FloatArray) -> FloatArray:
        moved = (pixels - shift[..., None] * axes[1]).astype(np.float32)
        return np.asarray(cv2.remap(view, moved, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)

    drop = closure * (MEETING * gap + 0.006 * unit * reach)
    rise = closure * (1 - MEETING) * gap
    edge_up, edge_low = up + drop, low - rise
    # Skin below follows the lower lid, skin above sags a little; both fade with distance.
    below = smoothstep(y, edge_low + 0.12 * unit, edge_low)
    above = smoothstep(y, up - 0.12 * unit, up)
    shift = np.where(y > edge_low, -rise * below, np.where(y < up, 0.1 * drop * above, 0))
    state = sample(shift)
    # The lid: from the old lash line to the new one.
    lash = 0.022 * unit
    fresh = smoothstep(np.asarray(closure), 0.0, 0.25)
    v = np.clip((y - up) / np.maximum(drop, 1), 0, 1)
    light = 1.0 - 0.06 * (1 - v) * fresh + 0.03 * np.sin(np.pi * v)
    cover = smoothstep(y, up - 1.3 * lash, up - 0.5 * lash) * (1 - smoothstep(y, edge_up - 1.0, edge_up + 1.0))
    cover = (cover * fresh * reach)[..., None]
    state += (skin * light[..., None] - state) * cover
    # The lashes ride on its edge.
    distance = y - edge_up
    band = smoothstep(distance, -1.2 * lash, -0.3 * lash) * (1 - smoothstep(distance, 0.2 * lash, 0.8 * lash)) * reach
    moved = sample(drop)
    return np.asarray(state + (moved - state) * (band * smoothstep(np.asarray(closure), 0, 0.1))[..., None], np.float32)
