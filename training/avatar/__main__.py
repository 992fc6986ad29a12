"""Draws the illustrated avatar: ``python -m training.avatar OUT.png``.

Everything is geometry and light written down in this package, no photo and no model goes in. The same
program and library versions draw the same picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.avatar.canvas import Canvas, blur, both, colour, lit, mirrored, smooth
from training.avatar.face import JAW, draw_face, skin
from training.avatar.hair import draw_back_hair, draw_hair

WOOL = (38, 104, 112)


def draw_background(c: Canvas) -> None:
    top, bottom = colour((203, 207, 204)), colour((150, 160, 164))
    share = np.clip((c.y + 2.1) / 4.6, 0, 1)[..., None]
    c.pixels[:] = top + share * (bottom - top)
    c.paint((240, 232, 218), c.spot(-1.0, -0.9, 1.7, 1.6), 0.65)
    c.paint((116, 128, 136), c.spot(1.9, 1.6, 1.3, 1.5), 0.5)


def draw_body(c: Canvas) -> None:
    neck = both([(0.0, 0.9), (0.42, 0.95), (0.4, 1.3), (0.43, 1.5), (0.6, 1.7), (1.0, 1.92), (1.6, 2.05), (2.6, 2.6)])
    outline = np.vstack([neck, [[2.6, 3.5], [-2.6, 3.5]]]).astype(np.float32)
    height = 0.4 * np.clip(1 - (np.abs(c.x) / 0.56) ** 2.2, 0, 1) ** 0.6 * np.clip((2.0 - c.y) / 0.7, 0, 1)
    height += 0.02 * c.pair(0.17, 1.65, 0.08, 0.3) + 0.05 * c.pair(0.5, 1.93, 0.35, 0.035)
    c.paint(skin(*lit(blur(height, 0.03), 0.6)), c.mask(outline, 0.006))
    c.shade(
        (0.58, 0.44, 0.41), c.mask(outline) * blur(c.mask(both(JAW) + np.array([0.05, 0.17], np.float32)), 0.07) * 0.85
    )
    c.shade((0.8, 0.7, 0.67), c.mask(outline) * np.clip((c.x - 0.1) * 1.6, 0, 1))

    collar = both([(0.0, 1.88), (0.22, 1.85), (0.4, 1.75), (0.5, 1.58)])
    shoulder = smooth([(0.5, 1.58), (0.62, 1.63), (0.9, 1.75), (1.35, 1.88), (1.85, 2.02), (2.3, 2.3), (2.6, 3.2)])
    wool = np.vstack([collar, shoulder, mirrored(shoulder)[::-1]]).astype(np.float32)
    cloth = c.mask(wool, 0.006)
    c.shade((0.55, 0.42, 0.4), blur(cloth, 0.03) * c.mask(outline) * (1 - cloth) * 0.9)
    body = 0.9 * np.clip(1 - (np.abs(c.x) / 2.5) ** 2.2, 0, 1) ** 0.5 - 0.4 * np.clip(2.25 - c.y, 0, 1) ** 2
    body += 0.05 * c.pair(0.95, 2.35, 0.3, 0.5) + 0.03 * np.sin(1.5 * c.x + 2.5 * c.y) * c.spot(0, 2.5, 1.4, 0.4)
    body += 0.0028 * np.sin(c.x * 130 + 4 * np.sin(c.y * 1.3))
    diffuse, _, hollow = lit(body.astype(np.float32))
    level = np.clip(0.44 + 0.66 * diffuse, 0.15, 1.2)[..., None] * (1 - 0.3 * hollow[..., None])
    c.paint(colour(WOOL) * level, cloth)
    rib = 0.5 + 0.5 * np.sin(np.arctan2(c.x, 1.35 - c.y) * 120)
    c.shade((0.76, 0.78, 0.8), c.stroke(collar + np.array([0, 0.05], np.float32), 0.1, 0.006) * cloth * rib * 0.8)
    c.shade((0.6, 0.62, 0.64), c.stroke(collar + np.array([0, 0.105], np.float32), 0.018, 0.012) * cloth)
    c.paint((120, 178, 182), c.stroke(collar + np.array([0, 0.012], np.float32), 0.014, 0.006) * cloth, 0.45)


def draw() -> NDArray[np.uint8]:
    """The avatar, u8 (768, 768, 3) RGB."""
    c = Canvas()
    draw_background(c)
    draw_back_hair(c)
    draw_body(c)
    draw_face(c)
    draw_hair(c)
    return c.finish()


if __name__ == "__main__":
    picture = cv2.cvtColor(draw(), cv2.COLOR_RGB2BGR)
    Path(sys.argv[1]).write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
