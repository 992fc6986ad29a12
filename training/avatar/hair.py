"""Hair: strands that run between an inner and an outer curve on either side of the parting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.avatar.canvas import Array, Canvas, blur, both, colour, resampled, smooth
from training.avatar.face import JAW

HAIR_DARK, HAIR, HAIR_LIGHT = (38, 22, 17), (92, 54, 36), (186, 125, 82)

# Hair falls from the parting in two curtains: strands run between an inner and an outer curve.
INNER_RIGHT = [
    (-0.13, -0.86),
    (0.1, -0.76),
    (0.41, -0.6),
    (0.62, -0.33),
    (0.71, 0.02),
    (0.735, 0.4),
    (0.7, 0.78),
    (0.67, 1.12),
    (0.67, 1.42),
    (0.7, 1.66),
]
OUTER_RIGHT = [
    (-0.13, -1.2),
    (0.26, -1.2),
    (0.68, -1.0),
    (0.95, -0.56),
    (1.03, -0.02),
    (1.06, 0.5),
    (1.1, 0.95),
    (1.1, 1.33),
    (1.04, 1.56),
    (0.93, 1.69),
]
INNER_LEFT = [
    (-0.13, -0.86),
    (-0.3, -0.76),
    (-0.53, -0.56),
    (-0.67, -0.28),
    (-0.73, 0.06),
    (-0.74, 0.42),
    (-0.7, 0.78),
    (-0.66, 1.12),
    (-0.66, 1.42),
    (-0.69, 1.66),
]
OUTER_LEFT = [
    (-0.13, -1.2),
    (-0.42, -1.15),
    (-0.74, -0.95),
    (-0.97, -0.52),
    (-1.04, 0.02),
    (-1.06, 0.5),
    (-1.1, 0.95),
    (-1.1, 1.33),
    (-1.04, 1.56),
    (-0.93, 1.69),
]


def draw_back_hair(c: Canvas) -> None:
    shape = both([(0.0, -1.1), (0.7, -0.9), (1.0, -0.1), (1.0, 0.9), (1.0, 1.35), (0.9, 1.66), (0.5, 1.72), (0.0, 1.5)])
    inside = c.mask(shape, 0.01)
    c.paint(HAIR_DARK, inside)
    strands = []
    for _ in range(500):
        x = c.random.uniform(-1.05, 1.05)
        strands.append(
            smooth([(x * 0.9, 0.2), (x, 0.8), (x * 1.02 + c.random.normal(0, 0.02), 1.3), (x * 0.95, 1.75)], 10)
        )
    tints = colour(HAIR) * c.random.uniform(0.3, 0.7, (500, 1)).astype(np.float32)
    c.lines(strands, tints, [2] * 500, inside * 0.7)


def draw_curtain(c: Canvas, inner: Array, outer: Array, light_from: float) -> None:
    steps, knots = 70, 15
    a, b = resampled(inner, steps), resampled(outer, steps)
    trim = int(0.965 * steps)
    outline = np.vstack([a[:trim], b[:trim][::-1]])
    shape = c.mask(outline, 0.006)
    c.shade(
        (0.52, 0.38, 0.36),
        blur(c.mask(outline + np.array([0.02, 0.035], np.float32), 0.01), 0.035) * (1 - shape) * face_area(c) * 0.75,
    )
    c.paint(colour(HAIR) * 0.5, shape)
    t = np.linspace(0, 1, steps)
    locks = c.random.normal(0, 1, (knots, 5)).astype(np.float32)
    count = 1500
    places = c.random.permutation(np.linspace(-0.01, 1.01, count))
    strands, tints, widths = [], [], []
    for index, u in enumerate(places):
        sway = 0.018 * np.sin(t * c.random.uniform(4, 7) + c.random.uniform(0, 6.3)) * t
        lock = 0.035 * np.interp(u * (knots - 1), np.arange(knots), locks[:, 0]) * np.sin(np.pi * t) * t
        at = np.clip(u + sway + lock * 0.6, -0.015, 1.02)[:, None]
        line = a + (b - a) * at
        wave = np.array(
            [0.012 * np.sin(6.5 * t + 2.5 * locks[int(np.clip(u, 0, 0.999) * knots), 1]) * t, np.zeros(steps)]
        ).T
        first, last = sorted(c.random.uniform(0, 1, 2) * np.array([0.3, 1.0]) + np.array([-0.15, 0.25]))
        keep = (t >= first) & (t <= max(last, first + 0.3))
        if index < count // 2:
            keep = t <= min(c.random.normal(0.975, 0.015), 1.0)
        pieces = np.flatnonzero(keep)
        level, off = shine(u, locks, knots, light_from), c.random.normal(0, 0.06)
        for begin in range(pieces[0], pieces[-1], 2):
            stretch = slice(begin, min(begin + 3, pieces[-1] + 1))
            strands.append((line + wave)[stretch].astype(np.float32))
            tints.append(hair_tone(level(t[begin]) + off))
            widths.append(2 if index % 3 else 3)
    tips = np.clip((c.y - 1.2) / 0.15, 0, 1) * c.mask(np.vstack([a, b[::-1]]), 0.004)
    c.lines(strands, np.array(tints, np.float32), widths, np.maximum(shape, tips))


def shine(u: float, locks: Array, knots: int, light_from: float) -> Callable[[float], float]:
    """Brightness in [0, 1] along a strand at `u` across the curtain."""
    at = float(np.clip(u, 0, 1)) * (knots - 1)
    tone, shift = (float(np.interp(at, np.arange(knots), locks[:, k])) for k in (2, 3))
    bulge = np.exp(-(((u - light_from) / 0.4) ** 2))

    def level(t: float) -> float:
        band = np.exp(-(((t - 0.235 - 0.025 * shift) / 0.075) ** 2)) + 0.45 * np.exp(
            -(((t - 0.68 - 0.03 * shift) / 0.13) ** 2)
        )
        rim = 0.14 * (u < 0.06) - 0.12 * np.exp(-(((u - 0.03) / 0.1) ** 2)) * (t > 0.35)
        return float(0.2 + 0.17 * bulge + 0.085 * tone + 0.33 * band * (0.35 + 0.65 * bulge) - 0.16 * t + rim * 0.5)

    return level


def hair_tone(level: float) -> Array:
    stops = np.array([HAIR_DARK, HAIR, HAIR_LIGHT], np.float32)
    return np.array([np.interp(level, [0, 0.36, 0.95], stops[:, k]) for k in range(3)], np.float32)


def face_area(c: Canvas) -> Array:
    return c.mask(both(JAW), 0.006)


def draw_hair(c: Canvas) -> None:
    draw_curtain(c, smooth(INNER_RIGHT), smooth(OUTER_RIGHT), 0.45)
    draw_curtain(c, smooth(INNER_LEFT), smooth(OUTER_LEFT), 0.55)
    wisps, tints = [], []
    for side in (1.0, -1.0):
        for _ in range(26):
            y = c.random.uniform(-1.1, 1.2)
            x = side * float(np.interp(y, [-1.2, -1.0, -0.55, 0, 1.3], [0.35, 0.7, 0.97, 1.05, 1.13]))
            out = side * c.random.uniform(0.01, 0.05)
            wisps.append(smooth([(x - out, y - 0.1), (x + out, y + 0.08), (x + out * 0.6, y + 0.3)], 8))
            tints.append(hair_tone(c.random.uniform(0.35, 0.7)))
    c.lines(wisps, np.array(tints, np.float32), [1] * len(wisps), 0.45)
    downy, tints = [], []
    for edge in (resampled(smooth(INNER_RIGHT), 100), resampled(smooth(INNER_LEFT), 100)):
        for start in c.random.integers(0, 52, 42):
            inward = (
                np.array([-np.sign(edge[-1, 0]), 0.35]) * np.linspace(0, c.random.uniform(0.01, 0.045), 14)[:, None]
            )
            downy.append((edge[start : start + 14] + inward).astype(np.float32))
            tints.append(hair_tone(c.random.uniform(0.25, 0.5)))
    c.lines(downy, np.array(tints, np.float32), [1] * len(downy), 0.5, 0.002)
