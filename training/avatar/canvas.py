"""A canvas for painting with soft-edged shapes, and the curves the shapes are made of.

Coordinates are in U, the distance between the outer corners of the eyes, from the point midway between
them, x right and y down.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Points = list[tuple[float, float]]

SIDE = 768  # pixels of the finished picture
OVERSAMPLING = 2
UNIT = 174.0 * OVERSAMPLING  # pixels per U on the canvas
ORIGIN = (SIDE * OVERSAMPLING / 2, 0.455 * SIDE * OVERSAMPLING)
LIGHT = np.array([-0.42, -0.46, 0.78]) / np.linalg.norm([-0.42, -0.46, 0.78])


def colour(value: tuple[int, int, int]) -> Array:
    return np.array(value, np.float32)


def smooth(points: Points, samples: int = 24, closed: bool = False) -> Array:
    """Catmull-Rom curve through the points, (n, 2)."""
    p = np.array(points, np.float32)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    if not closed:
        parts.append(p[-2:-1])
    return np.vstack(parts).astype(np.float32)


def mirrored(curve: Array) -> Array:
    return (curve * np.array([-1, 1])).astype(np.float32)


def resampled(curve: Array, count: int) -> Array:
    """The curve at equal steps of its length."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, curve[:, axis]) for axis in (0, 1)], -1).astype(np.float32)


def both(half: Points) -> Array:
    """Open curve from left to right of a half contour that starts on the middle line."""
    right = smooth(half)
    return np.vstack([mirrored(right)[:0:-1], right])


class Canvas:
    """A float picture in [0, 255] with its coordinate grids, painted from back to front."""

    def __init__(self) -> None:
        side = SIDE * OVERSAMPLING
        rows, columns = np.mgrid[:side, :side].astype(np.float32)
        self.x = (columns - ORIGIN[0]) / UNIT
        self.y = (rows - ORIGIN[1]) / UNIT
        self.pixels = np.zeros((side, side, 3), np.float32)
        self.random = np.random.default_rng(7)

    def mask(self, outline: Array, soft: float = 0.004) -> Array:
        """Coverage of a closed outline in [0, 1], its edge blurred by `soft` U."""
        mask = np.zeros(self.x.shape, np.uint8)
        cv2.fillPoly(mask, [self._fixed(outline)], 255, cv2.LINE_AA, 4)
        return blur(mask.astype(np.float32) / 255, soft)

    def stroke(self, curve: Array, widths: Array | float, soft: float = 0.003) -> Array:
        """Coverage of a line of varying width (U)."""
        widths = np.broadcast_to(np.asarray(widths, np.float32), (len(curve),))
        tangent = np.gradient(curve, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], -1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        offset = normal * widths[:, None] / 2
        return self.mask(np.vstack([curve + offset, (curve - offset)[::-1]]).astype(np.float32), soft)

    def spot(self, x: float, y: float, rx: float, ry: float) -> Array:
        """Gaussian bump of height 1."""
        return np.exp(-(((self.x - x) / rx) ** 2) - ((self.y - y) / ry) ** 2)

    def pair(self, x: float, y: float, rx: float, ry: float) -> Array:
        return self.spot(x, y, rx, ry) + self.spot(-x, y, rx, ry)

    def paint(self, tint: Array | tuple[int, int, int], share: Array, strength: float = 1.0) -> None:
        """Lay a colour (or a picture) over the canvas where `share` says."""
        a = (np.clip(share, 0, 1) * strength)[..., None]
        self.pixels += a * (np.asarray(tint, np.float32) - self.pixels)

    def shade(self, factor: tuple[float, float, float], share: Array) -> None:
        """Multiply by `factor` where `share` is 1: a shadow keeps what is below it visible."""
        a = np.clip(share, 0, 1)[..., None]
        self.pixels *= 1 - a * (1 - np.array(factor, np.float32))

    def lines(
        self, curves: list[Array], tints: Array, widths: list[int], within: Array | float, soft: float = 0
    ) -> None:
        """Many thin opaque lines, later ones over earlier ones, kept inside a mask."""
        layer = np.clip(self.pixels, 0, 255).astype(np.uint8)
        for curve, tint, width in zip(curves, tints, widths, strict=True):
            cv2.polylines(layer, [self._fixed(curve)], False, [float(v) for v in tint], width, cv2.LINE_AA, 4)
        share = np.broadcast_to(np.asarray(within, np.float32), self.x.shape)
        self.paint(blur(layer.astype(np.float32), soft) if soft else layer.astype(np.float32), share)

    def finish(self) -> NDArray[np.uint8]:
        small = cv2.resize(self.pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        grain = np.random.default_rng(11).normal(0, 1.1, (SIDE, SIDE, 1))  # keeps gradients from banding
        return np.clip(small + grain, 0, 255).round().astype(np.uint8)

    @staticmethod
    def _fixed(curve: Array) -> NDArray[np.int32]:
        return np.round((curve * UNIT + np.array(ORIGIN)) * 16).astype(np.int32)


def blur(image: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(image, (0, 0), max(sigma * UNIT, 0.3)).astype(np.float32)


def lit(height: Array, scale: float = 1.0) -> tuple[Array, Array, Array]:
    """Diffuse light, gloss and hollowness of a height field."""
    gy, gx = np.gradient(height * UNIT * scale)
    norm = 1 / np.sqrt(gx**2 + gy**2 + 1)
    diffuse = (-gx * LIGHT[0] - gy * LIGHT[1] + LIGHT[2]) * norm
    half = LIGHT + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    gloss = np.clip((-gx * half[0] - gy * half[1] + half[2]) * norm, 0, 1) ** 22
    hollow = np.clip((blur(height, 0.07) - height) * 9, 0, 1)
    return diffuse.astype(np.float32), gloss.astype(np.float32), hollow.astype(np.float32)
