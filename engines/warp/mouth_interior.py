"""What an open mouth shows: teeth, tongue, darkness, lit like the face around it.

The photo's own teeth where it shows them, drawn ones where it does not. Upper teeth belong to the
skull, lower teeth and tongue to the jaw. All lengths are eye distances; a millimetre is about 1 / 92.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engines import motion
from engines.face_mesh import FaceModel
from engines.types import FRAME_SIZE, ByteArray, FloatArray
from engines.warp.head_field import smoothstep
from engines.warp.lip_line import LipLine
from engines.warp.lips import CHIN, LOWER_MIDDLE, UPPER_MIDDLE
from engines.warp.warp_field import SUPERSAMPLING, identity_map, sample

MILLIMETRE = 1 / 92
DEPTH = 0.07  # teeth behind the lips
OWN_TEETH_GAP = 0.06  # from this opening on, the photo's own teeth are used
UPPER_EDGE = 2.2 * MILLIMETRE  # drawn upper incisors end this far below the closed lip line
SPOKEN_EDGE = 3.3 * MILLIMETRE  # the photo's own, too, once its smile has gone
LOWER_EDGE = -0.1 * MILLIMETRE  # drawn lower incisors begin here
FOLLOW_LIP = 0.65  # share of the upper lip's raise that drawn teeth take part in, else they look like dentures
JAW_BY_LIP, JAW_BY_CHIN = 0.7, 0.3
GRAIN = 4.0  # texture pixels per millimetre
# Little light reaches the corners and what lies under the lips; what does has been reflected by red walls.
DIMMEST, ABSORBED = 0.3, np.array([0.92, 1.02, 1.04], np.float32)


@dataclass(frozen=True, slots=True)
class Interior:
    """Prepared once per photo. Two textures, `upper` teeth and `jaw`, u8 (h, w, 4), in the head's frame.

    `anchors` f32 (2, 3): canonical positions of their origins. `follow` f32 (2, 21): the keypoint offsets
    that move them. `origin` f32 (2, 2): the origins, texture pixels. `cavity` f32 (3,): colour of the
    darkness. `shown` f32: pixels of its own mouth's inside that the photo shows, 0 with drawn teeth.
    """

    anchors: FloatArray
    follow: FloatArray
    origin: FloatArray
    upper: ByteArray
    jaw: ByteArray
    cavity: FloatArray
    shown: FloatArray


def interior_tables(
    mesh: FloatArray, line: LipLine, canonical: FloatArray, face: FaceModel, photo: ByteArray, source: FloatArray
) -> Interior:
    """`mesh` (478, 3) crop pixels, `canonical` (478, 3), `photo` the supersampled crop, `source` (70,)."""
    lip_line = (canonical[UPPER_MIDDLE] + canonical[LOWER_MIDDLE]) / 2
    anchor = (lip_line + np.array([0, 0, DEPTH])).astype(np.float32)
    teeth = anchor
    follow_lip = face.mixing[UPPER_MIDDLE]
    follow = np.stack(
        [
            FOLLOW_LIP * follow_lip,
            JAW_BY_LIP * face.mixing[LOWER_MIDDLE] + JAW_BY_CHIN * face.mixing[CHIN],
        ]
    ).astype(np.float32)
    unit = float(np.linalg.norm(mesh[33] - mesh[263]))
    opening = line.lower - line.upper
    if opening.max() > OWN_TEETH_GAP * unit:
        follow[0] = 0  # real teeth belong to the skull
        placed = anchor @ motion.head_to_picture(source) + source[motion.TRANSLATION]
        upper, origin = _own_teeth(line, placed, motion.head_to_picture(source), photo)
        light = _light_of_teeth(upper)
        shown = float(opening.mean() * line.x[-1])
        # A smile shows more of them than speech does: with the lip's raise gone, they lie higher.
        raised = float((follow_lip @ motion.expression(source))[1])
        middle = len(line.x) // 2
        excess = max(0.0, _below(line.lower[middle], line, placed, source) - SPOKEN_EDGE)
        if raised < -0.02:
            teeth = anchor - np.array([0, excess, 0], np.float32)
            follow[0] = excess / raised * follow_lip
    else:
        light = _light(mesh, photo)
        upper, origin = _teeth(_UPPER, light, down=True)
        shown = 0.0
    jaw, jaw_origin = _jaw(light)
    return Interior(
        np.stack([teeth, anchor]),
        follow,
        np.stack([origin, jaw_origin]).astype(np.float32),
        upper,
        jaw,
        (np.array([0.17, 0.065, 0.06]) * 255 * light).astype(np.float32),
        np.array([shown], np.float32),
    )


def draw_interior(interior: Interior, frame: FloatArray, corner: tuple[int, int], gap: FloatArray) -> ByteArray:
    """Colour u8 (h, w, 3) of the box whose top left is `corner`; `gap` (h, w) is where it shows, 0 to 1."""
    height, width = gap.shape
    turn = motion.head_to_picture(frame)
    places = (interior.anchors + interior.follow @ motion.expression(frame)) @ turn + frame[motion.TRANSLATION]
    origins = places[:, :2] * (FRAME_SIZE / 2) + FRAME_SIZE / 2 - np.array(corner)
    linear = turn[:2, :2].T * (FRAME_SIZE / 2 * MILLIMETRE / GRAIN)
    layers = []
    for texture, origin, start in zip((interior.upper, interior.jaw), origins, interior.origin, strict=True):
        affine = np.column_stack([linear, origin - linear @ start])
        layers.append(np.asarray(cv2.warpAffine(texture, affine, (width, height), flags=cv2.INTER_LINEAR), np.float32))
    upper, jaw = layers
    eye_distance = float(frame[motion.SCALE]) * FRAME_SIZE / 2
    size = _odd(0.05 * eye_distance)
    sky = cv2.blur(cv2.blur(gap, size, borderType=cv2.BORDER_CONSTANT), size, borderType=cv2.BORDER_CONSTANT)
    light = DIMMEST + (1 - DIMMEST) * np.clip(1.6 * sky, 0, 1)
    tinted = 1 - (1 - light)[..., None] * ABSORBED
    colour = interior.cavity + (jaw[..., :3] - interior.cavity) * (jaw[..., 3:] / 255)
    colour *= tinted
    shown = float(interior.shown[0])
    if shown:
        # The photo's teeth carry the photo's own shade; the less of them shows, the more is added.
        tinted = 1 - (1 - tinted) * max(0.0, 1 - float(gap.sum()) / shown)
    colour += (upper[..., :3] * tinted - colour) * (upper[..., 3:] / 255)
    return np.clip(colour + 0.5, 0, 255).astype(np.uint8)


def _below(height: float, line: LipLine, placed: FloatArray, source: FloatArray) -> float:
    """How far below the closed lip line, `placed` (3,), a height in the middle of the photo's mouth is."""
    point = line.origin + np.array([line.x[len(line.x) // 2], height]) @ line.axes
    down = motion.head_to_picture(source)[1, :2] * (FRAME_SIZE / 2)
    offset = point - (placed[:2] * (FRAME_SIZE / 2) + FRAME_SIZE / 2)
    return float(offset @ down / (down @ down))


def _odd(size: float) -> tuple[int, int]:
    side = max(1, int(size)) | 1
    return side, side


def _own_teeth(line: LipLine, placed: FloatArray, turn: FloatArray, photo: ByteArray) -> tuple[ByteArray, FloatArray]:
    """The mouth's inside as the photo shows it, un-turned; continued upwards behind the lip."""
    width, height = int(70 * GRAIN), int(36 * GRAIN)
    origin = np.array([width / 2, height / 2], np.float32)
    linear = turn[:2, :2].T * (FRAME_SIZE / 2 * MILLIMETRE / GRAIN)
    pixels = (identity_map(width, height) - origin) @ linear.T + placed[:2] * (FRAME_SIZE / 2) + FRAME_SIZE / 2
    x, y, upper, lower = line.heights(pixels)
    middle = (upper + lower) / 2
    inside = np.clip(y, np.minimum(upper + 1.0, middle), np.maximum(lower - 0.7, middle))
    where = line.origin + np.stack([x, inside], -1) @ line.axes
    colour = sample(photo, SUPERSAMPLING * where)
    mask = np.clip(0.5 + (lower + 0.5 - y) / 1.0, 0, 1) * np.clip(0.5 + (y - upper + 9) / 6, 0, 1)
    mask *= (x > 0) & (x < line.x[-1])
    return np.dstack([colour, 255 * mask]).round().astype(np.uint8), origin


def _light_of_teeth(teeth: ByteArray) -> FloatArray:
    """Colour of the light on teeth that the photo shows."""
    pixels = teeth[teeth[..., 3] > 200][:, :3].astype(np.float32)
    if len(pixels) == 0:
        return np.full(3, 0.8, np.float32)
    brightness = pixels.sum(-1)
    bright = pixels[brightness >= np.quantile(brightness, 0.7)].mean(0) / 255
    return np.asarray(np.clip(bright / np.array([0.965, 0.925, 0.845]), 0.2, 1.05), np.float32)


def _light(mesh: FloatArray, photo: ByteArray) -> FloatArray:
    """Colour of the light on this face, (3,) about 0 to 1: the bright part of the cheeks' skin, mostly white."""
    samples = []
    for index in (50, 280, 205, 425, 101, 330, 4):
        x, y = (mesh[index, :2] * 2).astype(int)
        samples.append(photo[max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7].reshape(-1, 3))
    skin = np.percentile(np.concatenate(samples), 80, axis=0) / 255
    brightness = float(skin @ np.array([0.3, 0.59, 0.11]))
    tint = skin / max(brightness, 1e-3)
    neutral = np.array([1.22, 0.96, 0.80])  # skin under white light
    cast = np.clip(tint / neutral, 0.8, 1.2) ** 0.5
    return np.asarray(np.clip(0.36 + 0.72 * brightness, 0, 1.0) * cast, np.float32)


# Projected widths and heights in millimetres from the middle outwards, drop of the biting edge, and brightness.
_UPPER = (
    (8.4, 10.0, 0.0, 1.0),
    (6.4, 8.8, -0.7, 0.96),
    (6.2, 9.6, -0.2, 0.88),
    (4.6, 8.2, -1.0, 0.72),
    (3.6, 7.6, -1.6, 0.55),
    (3.4, 7, -2.2, 0.4),
)
_LOWER = (
    (5.3, 8.5, 0.0, 0.9),
    (5.6, 8.6, 0.1, 0.87),
    (6.0, 9.0, 0.0, 0.78),
    (4.6, 8.0, 0.5, 0.62),
    (3.8, 7.5, 0.9, 0.48),
    (3.4, 7.0, 1.3, 0.35),
)


def _teeth(
    rows: tuple[tuple[float, float, float, float], ...], light: FloatArray, down: bool
) -> tuple[ByteArray, FloatArray]:
    """A row of teeth whose gums lie away from the biting edge: texture and its origin in texture pixels."""
    fine = 10  # pixels per millimetre while drawing
    half = sum(row[0] for row in rows) + 2
    height = 15.0
    edge = height - 3 if down else 3.0
    shape = (int(height * fine), int(2 * half * fine))
    colour = np.empty((*shape, 3), np.float32)
    colour[:] = np.array([0.62, 0.33, 0.32])  # gum
    alpha = np.zeros(shape, np.float32)
    x_mm, y_mm = np.moveaxis(identity_map(shape[1], shape[0]) / fine, -1, 0)
    x_mm = x_mm - half
    along = (edge - y_mm) if down else (y_mm - edge)  # distance from the biting edge into the crown
    inner = 0.0
    for tooth_width, crown, drop, bright in rows:
        for side in (-1, 1):
            across = (side * x_mm - inner) / tooth_width
            inside = (across >= 0) & (across < 1)
            u = 2 * across - 1
            into = along + (drop if down else -drop)
            depth = into - 0.5 * np.abs(u) ** 6 - 0.1 * u**2  # corners of the biting edge are rounded
            gum_line = crown - 1.2 * u**2
            body = smoothstep(depth, 0.0, 0.5) * (1 - smoothstep(depth - gum_line, -0.3, 0.3))
            shade = bright * (1 - 0.14 * np.abs(u) ** 3) * (0.92 + 0.08 * smoothstep(depth, 0, 2.5))
            shade = shade * (1 - 0.12 * smoothstep(depth, 4, 10))
            tone = np.array([0.965, 0.925, 0.845]) - smoothstep(depth, 3, 9)[..., None] * np.array([0.015, 0.04, 0.07])
            crevice = 1 - 0.22 * np.exp(-(((1 - np.abs(u)) * tooth_width / 0.4) ** 2))
            tooth = tone * (shade * crevice)[..., None]
            gum = colour * bright**0.7
            colour = np.where(inside[..., None], tooth * body[..., None] + gum * (1 - body[..., None]), colour)
            alpha = np.where(inside, smoothstep(depth, 0.0, 0.5), alpha)
        inner += tooth_width
    rgba = np.dstack([np.clip(colour * light * 255, 0, 255), alpha * 255])
    size = (int(shape[1] * GRAIN / fine), int(shape[0] * GRAIN / fine))
    small = np.round(cv2.resize(rgba.astype(np.float32), size, interpolation=cv2.INTER_AREA)).astype(np.uint8)
    edge_at = (UPPER_EDGE if down else LOWER_EDGE) / MILLIMETRE
    return small, np.array([half, edge - edge_at], np.float32) * GRAIN


def _jaw(light: FloatArray) -> tuple[ByteArray, FloatArray]:
    """Lower teeth before the tongue."""
    teeth, origin = _teeth(_LOWER, light, down=False)
    room = 10.0  # millimetres above the teeth for the tongue
    teeth = np.pad(teeth, ((int(room * GRAIN), 0), (0, 0), (0, 0)))
    height, width = teeth.shape[:2]
    x, y = np.moveaxis(identity_map(width, height) / GRAIN, -1, 0)
    x = (x - width / GRAIN / 2) / 20.0
    y = y - room - 3.0  # millimetres below the biting edge
    top = -6.5 + 7.0 * x**2
    body = smoothstep(y - top, 0, 5.0) * (1 - smoothstep(np.abs(x), 0.85, 1.05))
    shade = 0.4 + 0.6 * smoothstep(y - top, 0, 7.0)
    groove = 1 - 0.14 * np.exp(-((x / 0.07) ** 2)) * smoothstep(y - top, 0, 3)
    tongue = np.array([0.74, 0.38, 0.37]) * light * 255 * (shade * groove)[..., None]
    alpha = teeth[..., 3:].astype(np.float32) / 255
    colour = tongue * (1 - alpha) + teeth[..., :3] * alpha
    cover = alpha[..., 0] + body * (1 - alpha[..., 0])
    texture = np.dstack([np.clip(colour, 0, 255), cover * 255]).round().astype(np.uint8)
    return texture, origin + np.array([0, room * GRAIN], np.float32)
