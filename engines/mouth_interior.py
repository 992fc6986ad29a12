"""What an open mouth shows: teeth, tongue, darkness, lit like the face around it.

The photo's own teeth where it shows them, drawn ones where it does not. Upper teeth belong to the
skull, lower teeth and tongue to the jaw. All lengths are eye distances; a millimetre is about 1 / 92.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engines import motion
from engines.face_mesh import FaceModel, Pose, to_unit
from engines.lips import CHIN, INNER_LOWER, INNER_UPPER, LOWER_MIDDLE, UPPER_MIDDLE
from engines.types import FRAME_SIZE, ByteArray, FloatArray

MILLIMETRE = 1 / 92
TEXTURE = 3.0  # texture pixels per crop pixel of a photo whose eye distance is 130 pixels
DEPTH = 0.07  # teeth behind the lips
OWN_TEETH_GAP = 0.06  # from this opening on, the photo's own teeth are used
UPPER_EDGE = 2.2 * MILLIMETRE  # upper incisors end this far below the closed lip line
LOWER_EDGE = -0.2 * MILLIMETRE  # lower incisors begin here
FOLLOW_LIP = 0.65  # share of the upper lip's raise that its teeth take part in, else they look like dentures
JAW_BY_LIP, JAW_BY_CHIN = 0.7, 0.3


@dataclass(frozen=True, slots=True)
class Interior:
    """Prepared once per photo.

    `anchors` f32 (2, 3): canonical positions of the texture origins, upper teeth and jaw. `follow` f32
    (2, 21): keypoint offsets that move them. `slide` f32 (3,): see `_own_teeth`. `upper`, `jaw` u8
    (h, w, 4): textures, `grain` f32 (2, 3): per texture its pixels per eye distance and its origin x, y in
    texture pixels. `cavity` f32 (3,): colour of the darkness.
    """

    anchors: FloatArray
    follow: FloatArray
    slide: FloatArray
    upper: ByteArray
    jaw: ByteArray
    grain: FloatArray
    cavity: FloatArray


def interior_tables(mesh: FloatArray, canonical: FloatArray, face: FaceModel, pose: Pose, photo: ByteArray, source: FloatArray) -> Interior:
    """`mesh` (478, 3) crop pixels, `canonical` (478, 3), `photo` the supersampled crop, `source` (70,)."""
    light = _light(mesh, photo)
    lip_line = (canonical[UPPER_MIDDLE] + canonical[LOWER_MIDDLE]) / 2 + np.array([0, 0, DEPTH], np.float32)
    follow = np.stack(
        [
            FOLLOW_LIP * face.mixing[UPPER_MIDDLE],
            JAW_BY_LIP * face.mixing[LOWER_MIDDLE] + JAW_BY_CHIN * face.mixing[CHIN],
        ]
    )
    upper, upper_grain = _upper_teeth(light)
    jaw, jaw_grain = _jaw(light)
    cavity = (np.array([0.13, 0.05, 0.045]) * 255 * light).astype(np.float32)
    return Interior(
        np.stack([lip_line, lip_line]).astype(np.float32),
        follow.astype(np.float32),
        np.zeros(3, np.float32),
        upper,
        jaw,
        np.stack([upper_grain, jaw_grain]).astype(np.float32),
        cavity,
    )


def draw_interior(interior: Interior, frame: FloatArray, corner: tuple[int, int], gap: FloatArray) -> FloatArray:
    """Colour f32 (h, w, 3) of the box whose top left is `corner`; `gap` (h, w) is where it shows."""
    height, width = gap.shape
    matrix = frame[motion.SCALE] * motion.rotation(frame[motion.ANGLES])
    places = (interior.anchors + interior.follow @ motion.expression(frame)) @ matrix + frame[motion.TRANSLATION]
    origins = places[:, :2] * (FRAME_SIZE / 2) + FRAME_SIZE / 2 - np.array(corner)
    colour = np.empty((height, width, 3), np.float32)
    colour[:] = interior.cavity
    for texture, origin, (grain, x, y) in zip((interior.jaw, interior.upper), origins[::-1], interior.grain[::-1]):
        turn = matrix[:2, :2].T * (FRAME_SIZE / 2) / grain
        offset = origin - turn @ np.array([x, y], np.float32)
        placed = cv2.warpAffine(texture, np.column_stack([turn, offset]), (width, height), flags=cv2.INTER_LINEAR)
        layer = placed.astype(np.float32)
        colour += (layer[..., :3] - colour) * (layer[..., 3:] / 255)
    # Light falls in through the opening: little near its rim, less under the upper lip.
    radius = max(3.0, 0.035 * float(frame[motion.SCALE]) * FRAME_SIZE / 2)
    open_sky = cv2.GaussianBlur(gap, (0, 0), radius)
    open_sky = np.clip(1.5 * open_sky, 0, 1)
    return np.asarray(colour * (0.35 + 0.65 * open_sky)[..., None], np.float32)


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
_UPPER = ((8.4, 10.0, 0.0, 1.0), (6.4, 8.8, -0.7, 0.96), (6.2, 9.6, -0.2, 0.88), (4.6, 8.2, -1.0, 0.72), (3.6, 7.6, -1.6, 0.55), (3.4, 7, -2.2, 0.4))
_LOWER = ((5.3, 8.5, 0.0, 0.9), (5.6, 8.6, 0.1, 0.87), (6.0, 9.0, 0.0, 0.78), (4.6, 8.0, 0.5, 0.62), (3.8, 7.5, 0.9, 0.48), (3.4, 7.0, 1.3, 0.35))


def _teeth(rows: tuple[tuple[float, float, float, float], ...], light: FloatArray, down: bool) -> tuple[ByteArray, FloatArray]:
    """A row of teeth, gum side away from the biting edge; texture and its (grain, x, y)."""
    fine = 10  # pixels per millimetre while drawing
    half = sum(row[0] for row in rows) + 2
    height = 15.0
    edge = height - 3 if down else 3.0
    shape = (int(height * fine), int(2 * half * fine))
    colour = np.empty((*shape, 3), np.float32)
    colour[:] = np.array([0.62, 0.33, 0.32])  # gum
    alpha = np.zeros(shape, np.float32)
    grid_y, grid_x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x_mm, y_mm = grid_x / fine - half, grid_y / fine
    along = (edge - y_mm) if down else (y_mm - edge)  # distance from the biting edge into the crown
    inner = 0.0
    for tooth_width, crown, drop, bright in rows:
        for side in (-1, 1):
            across = (side * x_mm - inner) / tooth_width
            inside = (across >= 0) & (across < 1)
            u = 2 * across - 1
            into = along + (drop if down else -drop)
            round_edge = 0.9 * np.abs(u) ** 4 + 0.15 * u**2  # corners of the biting edge are rounded
            depth = into - round_edge
            gum_line = crown - 1.2 * u**2
            body = smooth(depth, 0.0, 0.35) * (1 - smooth(depth, gum_line - 0.3, gum_line + 0.3))
            shade = bright * (1 - 0.22 * np.abs(u) ** 3) * (0.9 + 0.1 * smooth(depth, 0, 2.5)) * (1 - 0.14 * smooth(depth, 4, 10))
            tone = np.array([0.965, 0.925, 0.845]) - 0.05 * smooth(depth, 3, 9)[..., None] * np.array([0.3, 0.8, 1.4])
            crevice = 1 - 0.35 * np.exp(-(((1 - np.abs(u)) * tooth_width / 0.45) ** 2))
            tooth = tone * (shade * crevice)[..., None]
            colour = np.where(inside[..., None], tooth * body[..., None] + colour * (bright ** 0.7) * (1 - body[..., None]), colour)
            alpha = np.where(inside, np.maximum(smooth(depth, 0.0, 0.35), 0), alpha)
        inner += tooth_width
    colour *= light * 255
    rgba = np.dstack([np.clip(colour, 0, 255), alpha * 255])
    grain_mm = 4.0
    size = (int(shape[1] * grain_mm / fine), int(shape[0] * grain_mm / fine))
    small = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
    grain = grain_mm / MILLIMETRE
    edge_at = UPPER_EDGE if down else LOWER_EDGE
    return np.round(small).astype(np.uint8), np.array([grain, half * grain_mm, edge * grain_mm - edge_at * grain], np.float32)


def smooth(value: FloatArray, start: float | FloatArray, end: float | FloatArray) -> FloatArray:
    """Smoothstep."""
    x = np.clip((value - start) / (end - start), 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def _upper_teeth(light: FloatArray) -> tuple[ByteArray, FloatArray]:
    return _teeth(_UPPER, light, down=True)


def _jaw(light: FloatArray) -> tuple[ByteArray, FloatArray]:
    """Lower teeth before the tongue."""
    teeth, grain = _teeth(_LOWER, light, down=False)
    pad = int(8 * 4)  # millimetres of room above for the tongue
    teeth = np.pad(teeth, ((pad, 0), (0, 0), (0, 0)))
    grain = grain + np.array([0, 0, pad], np.float32)
    height, width = teeth.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x = (x - width / 2) / (4 * 17.0)
    top = pad + 3 * 4 - 2.0 * 4 + 12 * x**2
    body = smooth(y, top, top + 6) * (1 - smooth(np.abs(x), 0.8, 1.0))
    shade = 0.55 + 0.45 * smooth(y, top, top + 26)
    groove = 1 - 0.18 * np.exp(-((x / 0.06) ** 2))
    tongue = np.array([0.66, 0.34, 0.33]) * light * 255 * (shade * groove)[..., None]
    alpha = teeth[..., 3:].astype(np.float32) / 255
    colour = tongue * (1 - alpha) + teeth[..., :3] * alpha
    cover = alpha[..., 0] + body * (1 - alpha[..., 0])
    return np.dstack([np.clip(colour, 0, 255), cover * 255]).round().astype(np.uint8), grain
