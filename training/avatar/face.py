"""The face: a height field under light for the skin, and eyes, brows, nose and lips painted over it."""

from __future__ import annotations

import cv2
import numpy as np

from training.avatar.canvas import ORIGIN, UNIT, Array, Canvas, blur, both, colour, lit, resampled, smooth

SKIN, BLUSH = (243, 196, 167), (226, 124, 104)
LIP, LIP_LINE = (193, 98, 93), (98, 38, 40)
BROW = (82, 48, 32)
LASH = (50, 31, 26)

# Contours of the right half (x > 0); the left is its mirror image.
JAW = [(0.0, -1.0), (0.38, -0.95), (0.62, -0.73), (0.735, -0.42), (0.768, -0.08), (0.755, 0.25), (0.705, 0.55)]
JAW += [(0.605, 0.82), (0.465, 1.025), (0.31, 1.175), (0.155, 1.255), (0.0, 1.275)]
LID_UPPER = [
    (0.168, 0.03),
    (0.198, -0.014),
    (0.255, -0.07),
    (0.33, -0.099),
    (0.405, -0.09),
    (0.462, -0.05),
    (0.507, -0.004),
]
LID_LOWER = [
    (0.168, 0.03),
    (0.21, 0.042),
    (0.275, 0.058),
    (0.345, 0.066),
    (0.413, 0.057),
    (0.468, 0.031),
    (0.507, -0.004),
]
CREASE = [(0.182, -0.035), (0.23, -0.1), (0.31, -0.148), (0.4, -0.148), (0.475, -0.108), (0.535, -0.045)]
BROW_UPPER = [(0.128, -0.222), (0.22, -0.272), (0.36, -0.308), (0.49, -0.302), (0.595, -0.24), (0.665, -0.155)]
BROW_LOWER = [(0.13, -0.168), (0.23, -0.208), (0.36, -0.236), (0.48, -0.243), (0.585, -0.208), (0.665, -0.155)]
LIP_TOP = [(0.0, 0.697), (0.03, 0.686), (0.066, 0.677), (0.12, 0.692), (0.19, 0.724), (0.25, 0.751), (0.3, 0.762)]
LIP_BETWEEN = [(0.0, 0.779), (0.05, 0.773), (0.11, 0.775), (0.18, 0.775), (0.245, 0.768), (0.3, 0.762)]
LIP_BOTTOM = [(0.0, 0.905), (0.07, 0.9), (0.14, 0.877), (0.205, 0.837), (0.26, 0.795), (0.3, 0.762)]
IRIS_X, IRIS_Y, IRIS_RADIUS = 0.342, -0.023, 0.087


def relief(c: Canvas) -> Array:
    """Height of the face towards the viewer, in U."""
    y_knots = [-1.3, -0.9, -0.5, -0.1, 0.25, 0.55, 0.82, 1.02, 1.17, 1.28, 1.6]
    w_knots = [0.6, 0.76, 0.81, 0.83, 0.81, 0.765, 0.68, 0.6, 0.53, 0.5, 0.48]
    width = blur(np.interp(c.y, y_knots, w_knots).astype(np.float32), 0.08)
    round_off = np.clip(1 - (np.abs(c.x) / (width * 1.06)) ** 2.3, 0.02, 1) ** 0.55
    height = 0.74 * round_off - 0.16 * np.clip((-0.45 - c.y) / 0.6, 0, 1.5) ** 2
    height -= 0.9 * np.clip((c.y - 1.1) / 0.5, 0, 1) ** 2
    places = [-0.2, -0.05, 0.2, 0.35, 0.42, 0.49, 0.54]
    ridge = np.interp(c.y, places, [0, 0.03, 0.095, 0.165, 0.16, 0.065, 0]).astype(np.float32)
    spread = np.interp(c.y, places, [0.13, 0.11, 0.105, 0.11, 0.118, 0.12, 0.12]).astype(np.float32)
    height += blur(ridge * np.exp(-((c.x / spread) ** 2)), 0.032)
    height += 0.065 * c.spot(0, 0.385, 0.1, 0.085) + 0.075 * c.pair(0.13, 0.44, 0.055, 0.05)
    height += 0.045 * c.pair(0.33, -0.24, 0.28, 0.1) - 0.055 * c.pair(0.145, -0.03, 0.08, 0.12)
    height -= 0.035 * c.pair(0.36, -0.08, 0.2, 0.1)
    height += 0.04 * c.pair(0.342, -0.01, 0.14, 0.09)
    height += 0.07 * c.pair(0.45, 0.34, 0.25, 0.2) - 0.02 * c.pair(0.5, 0.75, 0.16, 0.2)
    height += 0.07 * c.spot(0, 0.76, 0.27, 0.2)
    height += 0.02 * c.pair(0.06, 0.715, 0.1, 0.04) + 0.045 * c.spot(0, 0.842, 0.17, 0.05)
    height -= 0.011 * c.spot(0, 0.595, 0.03, 0.06) - 0.005 * c.pair(0.062, 0.6, 0.025, 0.06)
    height -= 0.045 * c.spot(0, 0.985, 0.18, 0.05) - 0.075 * c.spot(0, 1.12, 0.15, 0.1)
    height -= 0.014 * c.pair(0.325, 0.765, 0.06, 0.06)
    return blur(height, 0.014)


def skin(diffuse: Array, gloss: Array, hollow: Array) -> Array:
    """Skin under that light: shadows turn warm, as light wanders through skin."""
    level = np.clip(0.52 + 0.56 * diffuse, 0, 1.1)[..., None]
    warm = np.clip((0.9 - level) * 1.6, 0, 1)
    tone = colour(SKIN) * level * (1 + warm * np.array([0.1, -0.13, -0.22], np.float32))
    tone += gloss[..., None] * np.array([26, 24, 20], np.float32)
    return (tone * (1 - 0.34 * hollow[..., None] * np.array([0.45, 0.9, 1.0], np.float32))).astype(np.float32)


def draw_face(c: Canvas) -> None:
    head = c.mask(both(JAW), 0.006)
    height = relief(c)
    c.paint(skin(*lit(height)), head)
    blush = 0.25 * c.pair(0.46, 0.36, 0.3, 0.2) + 0.2 * c.spot(0, 0.4, 0.14, 0.1) + 0.1 * c.spot(0, 1.14, 0.2, 0.1)
    c.paint(BLUSH, (blush + 0.1 * c.pair(0.36, -0.1, 0.22, 0.09)) * head)
    c.shade((0.82, 0.66, 0.62), (c.pair(0.135, 0.0, 0.055, 0.08) + 0.55 * c.pair(0.33, -0.13, 0.17, 0.05)) * 0.42)
    c.paint((255, 240, 226), 0.14 * c.spot(-0.02, 0.14, 0.045, 0.2) + 0.38 * c.spot(-0.035, 0.365, 0.045, 0.038))
    c.paint((255, 236, 220), 0.25 * c.pair(0.46, 0.22, 0.15, 0.06) + 0.16 * c.spot(-0.15, -0.5, 0.34, 0.2))
    draw_texture(c, head)
    draw_nose(c)
    draw_lips(c)
    for side in (1.0, -1.0):
        draw_eye(c, side)
        draw_brow(c, side)


def draw_texture(c: Canvas, head: Array) -> None:
    """Pores and freckles: without them skin looks like plastic as soon as it moves."""
    fine = c.random.normal(0, 1, c.x.shape).astype(np.float32)
    mottle = blur(fine, 0.006) * 2.1 * 0.006 * UNIT + blur(fine, 0.03) * 2.2 * 0.03 * UNIT
    c.pixels *= 1 + 0.011 * (mottle * head)[..., None] * np.array([0.6, 1.0, 1.1], np.float32)
    freckles = np.zeros(c.x.shape, np.float32)
    for _ in range(90):
        x, y = c.random.normal(0, 0.34), 0.27 + c.random.normal(0, 0.075)
        size = c.random.uniform(0.005, 0.01)
        cv2.circle(
            freckles,
            (round(x * UNIT + ORIGIN[0]), round(y * UNIT + ORIGIN[1])),
            round(size * UNIT),
            c.random.uniform(0.25, 1),
            -1,
        )
    c.shade((0.78, 0.6, 0.5), 0.42 * blur(freckles, 0.004) * head)


def draw_nose(c: Canvas) -> None:
    c.shade((0.7, 0.52, 0.48), 0.5 * c.spot(0.03, 0.545, 0.16, 0.04))
    for side in (1.0, -1.0):
        flip = np.array([side, 1], np.float32)
        nostril = smooth([(0.035, 0.492), (0.068, 0.468), (0.108, 0.475), (0.122, 0.5), (0.085, 0.508)], closed=True)
        c.shade((0.36, 0.2, 0.18), 0.92 * c.mask(nostril * flip, 0.011))
        wing = smooth([(0.15, 0.37), (0.181, 0.415), (0.187, 0.46), (0.16, 0.5), (0.12, 0.506)])
        c.shade((0.66, 0.46, 0.42), 0.75 * c.stroke(wing * flip, np.linspace(0.004, 0.028, len(wing)), 0.014))
        wall = smooth([(0.15, -0.17), (0.11, -0.02), (0.1, 0.14), (0.13, 0.29), (0.165, 0.38)])
        c.shade((0.82, 0.66, 0.61), (0.2 if side > 0 else 0.14) * c.stroke(wall * flip, 0.075, 0.045))
        fold = smooth([(0.21, 0.49), (0.275, 0.575), (0.325, 0.67), (0.35, 0.75)])
        c.shade((0.84, 0.7, 0.67), 0.3 * c.stroke(fold * flip, np.linspace(0.05, 0.01, len(fold)), 0.025))
    c.shade((0.72, 0.54, 0.5), 0.5 * c.spot(0, 0.515, 0.06, 0.014))


def draw_lips(c: Canvas) -> None:
    top, between, bottom = both(LIP_TOP), both(LIP_BETWEEN), both(LIP_BOTTOM)
    upper = c.mask(np.vstack([top, between[::-1]]), 0.007)
    lower = c.mask(np.vstack([between, bottom[::-1]]), 0.008)
    c.shade((0.74, 0.55, 0.5), 0.5 * c.spot(0.01, 0.952, 0.17, 0.035))
    c.paint((255, 236, 222), 0.3 * c.stroke(top[40:-40] - np.array([0, 0.014], np.float32), 0.014, 0.008))
    c.paint(colour(LIP) * 0.86, upper)
    c.paint(LIP, lower)
    creases = 0.5 + 0.5 * np.sin(c.x * 95 + 2 * np.sin(c.x * 31) + (c.y - 0.84) * c.x * 60)
    c.shade((0.86, 0.8, 0.8), (upper + lower) * creases * 0.28)
    c.shade((0.72, 0.6, 0.6), upper * np.clip((c.y - 0.705) / 0.075, 0, 1) * 0.7)
    c.shade((0.68, 0.58, 0.58), lower * np.clip((c.y - 0.862) / 0.05, 0, 1) * 0.6)
    c.shade((0.6, 0.5, 0.5), lower * np.clip((0.8 - c.y) / 0.03, 0, 1) * 0.55)
    c.shade((0.8, 0.7, 0.7), (upper + lower) * np.clip((np.abs(c.x) - 0.13) / 0.15, 0, 1) * 0.6)
    c.paint(
        (255, 214, 204), lower * (0.5 * c.spot(-0.04, 0.836, 0.075, 0.017) + 0.28 * c.spot(0.07, 0.84, 0.05, 0.014))
    )
    c.paint((246, 178, 166), upper * 0.35 * c.pair(0.055, 0.7, 0.05, 0.014))
    width = 0.009 + 0.007 * np.exp(-(((np.abs(between[:, 0]) - 0.28) / 0.035) ** 2))
    c.paint(LIP_LINE, c.stroke(between, width, 0.0045), 0.95)
    c.shade((0.6, 0.42, 0.4), 0.55 * c.pair(0.312, 0.76, 0.022, 0.018))


def draw_eye(c: Canvas, side: float) -> None:
    flip = np.array([side, 1], np.float32)
    upper, lower, crease = (smooth(points) * flip for points in (LID_UPPER, LID_LOWER, CREASE))
    opening = c.mask(np.vstack([upper, lower[::-1]]), 0.0035)
    away = np.hypot(c.x - side * 0.345, (c.y + 0.01) * 1.3)
    white = np.array([243, 236, 231], np.float32) * (1 - 1.15 * np.clip(away - 0.06, 0, 1) ** 1.5)[..., None]
    c.paint(white, opening)
    c.paint((214, 134, 122), opening * c.spot(side * 0.188, 0.022, 0.024, 0.03), 0.9)

    radius = np.hypot(c.x - side * IRIS_X, c.y - IRIS_Y) / IRIS_RADIUS
    angle = np.arctan2(c.y - IRIS_Y, c.x - side * IRIS_X)
    fibres = sum(np.sin(angle * k + phase) for k, phase in ((17, 0.3), (29, 1.9), (43, 4.0))) / 3
    glow = np.clip((c.y - IRIS_Y) / IRIS_RADIUS, -1, 1) * 0.5 + 0.5
    inner, outer = colour((176, 112, 58)), colour((84, 48, 28))
    tone = outer + (inner - outer) * np.clip(1.15 - radius, 0, 1)[..., None] * (0.55 + 0.75 * glow[..., None])
    tone *= (1 + 0.16 * fibres * np.clip(radius - 0.3, 0, 1))[..., None]
    tone *= (1 - 0.62 * np.clip((radius - 0.78) / 0.22, 0, 1) ** 2)[..., None]
    edge = 6 / (IRIS_RADIUS * UNIT)
    c.paint(tone, opening * np.clip((1 - radius) / edge + 0.5, 0, 1))
    c.paint((17, 11, 10), opening * np.clip((0.42 - radius) / edge + 0.5, 0, 1))
    lid_shadow = blur(1 - c.mask(np.vstack([upper, [[side * 0.6, 0.3], [side * 0.1, 0.3]]]).astype(np.float32)), 0.022)
    c.shade((0.38, 0.31, 0.31), opening * np.clip(lid_shadow * 1.5, 0, 1) * 0.85)
    c.paint(
        (255, 255, 255), opening * np.clip(1.6 * c.spot(side * IRIS_X - 0.026, IRIS_Y - 0.03, 0.0165, 0.0175), 0, 1)
    )
    c.paint((255, 236, 214), opening * c.spot(side * IRIS_X + 0.03, IRIS_Y + 0.036, 0.02, 0.014), 0.4)

    c.paint((240, 190, 172), c.stroke(lower[20:-6] + np.array([0, 0.006], np.float32), 0.012, 0.004), 0.55)
    c.shade((0.7, 0.5, 0.46), 0.5 * c.stroke(lower[10:] + np.array([0, 0.016], np.float32), 0.009, 0.006))
    c.shade(
        (0.52, 0.36, 0.33),
        0.85 * c.stroke(crease, np.interp(np.linspace(0, 1, len(crease)), [0, 0.4, 1], [0.006, 0.016, 0.006]), 0.008),
    )
    c.paint((252, 222, 202), 0.35 * c.spot(side * 0.34, -0.108, 0.09, 0.013))
    c.shade((0.84, 0.72, 0.7), 0.35 * c.stroke(smooth([(0.2, 0.085), (0.3, 0.135), (0.42, 0.13)]) * flip, 0.02, 0.018))

    share = np.linspace(0, 1, len(upper))
    c.paint(
        LASH,
        c.stroke(
            upper - np.array([0, 0.003], np.float32),
            np.interp(share, [0, 0.25, 0.8, 1], [0.004, 0.013, 0.023, 0.011]),
            0.0035,
        ),
    )
    lashes = []
    for place in np.concatenate([np.linspace(0.2, 0.6, 26), np.linspace(0.6, 1.0, 44)]):
        root = upper[min(int(place * (len(upper) - 1)), len(upper) - 1)]
        lean = side * (-0.006 + 0.06 * max(place - 0.4, 0)) + c.random.normal(0, 0.003)
        reach = (0.006 + 0.02 * place**2) * c.random.uniform(0.75, 1.1)
        tip = root + np.array([lean, -reach * (1.08 - 0.62 * place**3)])
        bend = root + np.array([0.7 * lean, -0.2 * reach])
        lashes.append(smooth([tuple(root), tuple(bend), tuple(tip)], 6))
    c.lines(lashes, np.tile(colour(LASH), (len(lashes), 1)), [1] * len(lashes), 0.85, 0.0015)


def draw_brow(c: Canvas, side: float) -> None:
    flip = np.array([side, 1], np.float32)
    top, low = resampled(smooth(BROW_UPPER), 60) * flip, resampled(smooth(BROW_LOWER), 60) * flip
    shape = c.mask(np.vstack([top, low[::-1]]), 0.012)
    c.paint(BROW, shape * np.clip((np.abs(c.x) - 0.1) / 0.15, 0.25, 1), 0.68)
    hairs, tints, widths = [], [], []
    for _ in range(190):
        place, level = c.random.uniform(0, 0.97), c.random.uniform(0, 1)
        at = int(place * 59)
        root = low[at] + (top[at] - low[at]) * level
        ahead = top[min(at + 4, 59)] - top[max(at - 4, 0)]
        along = ahead / (np.linalg.norm(ahead) + 1e-6)
        lift = (0.75 - 0.95 * place) + 0.5 * (0.5 - level)
        turn = np.array([along[0], along[1] - max(lift, -0.25)])
        tip = root + turn / np.linalg.norm(turn) * (0.04 + 0.02 * c.random.uniform())
        hairs.append(np.array([root, (root + tip) / 2 + along * 0.004, tip], np.float32))
        tints.append(colour(BROW) * c.random.uniform(0.7, 1.2))
        widths.append(1 if c.random.uniform() < 0.7 else 2)
    c.lines(hairs, np.array(tints, np.float32), widths, 0.62, 0.003)
