"""Displacement fields on lattices: from scattered points to nodes, from forward to backward.

A forward field says where each node of the photo goes; drawing needs the backward field, which says
where each pixel of the frame comes from. Everything here is geometry: nothing knows about faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.types import ByteArray, FloatArray

_NO_MAP: Any = None  # a map of pairs is OpenCV's first map alone; its type stubs do not know that
_EDGE = cv2.BORDER_REPLICATE
FULL_STEPS = 3
SUPERSAMPLING = 2  # the photo is kept at twice its size, so that sampling between pixels does not blur


@dataclass(frozen=True, slots=True)
class Lattice:
    """Nodes every `step` pixels over a box of pixels that starts at (`left`, `top`).

    A node stands in the middle of its `step` x `step` pixels, which is where `cv2.resize` expects it.
    """

    left: int
    top: int
    columns: int
    rows: int
    step: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.columns * self.step, self.rows * self.step

    def points(self) -> FloatArray:
        """Pixel positions of the nodes, f32 (rows * columns, 2)."""
        offset = (self.step - 1) / 2
        x = self.left + offset + self.step * np.arange(self.columns)
        y = self.top + offset + self.step * np.arange(self.rows)
        return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)

    def sample(self, image: NDArray[np.floating]) -> FloatArray:
        """Values of a whole-crop image (512, 512[, c]) at the nodes, (rows * columns[, c])."""
        values = sample(np.asarray(image, np.float32), self.points().reshape(self.rows, self.columns, 2))
        return values.reshape(self.rows * self.columns, *values.shape[2:])


@lru_cache(maxsize=64)
def identity_map(width: int, height: int) -> FloatArray:
    """Map f32 (height, width, 2) that sends every pixel to itself; shared, so read-only."""
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    pixels.flags.writeable = False
    return pixels


@lru_cache(maxsize=64)
def identity_planes(width: int, height: int) -> FloatArray:
    """The same map as two planes, f32 (2, height, width), x and y; shared, so read-only."""
    planes = np.ascontiguousarray(np.moveaxis(identity_map(width, height), -1, 0))
    planes.flags.writeable = False
    return planes


def sample(image: NDArray[Any], where: NDArray[np.floating]) -> FloatArray:
    """Bilinear values f32 of `image` (h, w[, c]) at pixel positions (H, W, 2); edges continue outwards."""
    values = cv2.remap(image, where.astype(np.float32), _NO_MAP, cv2.INTER_LINEAR, borderMode=_EDGE)
    return np.asarray(values, np.float32)


def invert(forward: FloatArray, nodes: FloatArray, start: FloatArray, iterations: int) -> FloatArray:
    """Backward displacement of a forward one by damped fixed point, both in node steps, planes of x and y.

    `forward` (2, h, w) belongs to the photo's lattice; `nodes` (2, H, W) are the frame's nodes in
    the photo's lattice coordinates, and the result has their shape. `start` (2,) is the first guess.
    The first `FULL_STEPS` steps are full, the last too, those between are averaged
    with their predecessor; undamped iteration cycles where the field is about to fold.
    """
    backward = np.empty_like(nodes)
    backward[:] = start[:, None, None]
    position = np.empty_like(nodes)
    sampled = np.empty_like(nodes)
    for step in range(iterations):
        np.add(nodes, backward, out=position)
        for plane in (0, 1):  # single channels and maps of two planes are what OpenCV samples fastest
            cv2.remap(forward[plane], position[0], position[1], cv2.INTER_LINEAR, dst=sampled[plane], borderMode=_EDGE)
        if step >= FULL_STEPS and step < iterations - 1:
            sampled -= backward
            sampled *= 0.5
        np.negative(sampled, out=backward)
    return backward


def pixel_map(backward: FloatArray, pixels: FloatArray, step: int) -> FloatArray:
    """Backward displacement (2, h, w) in node steps -> map into the supersampled photo, planes of x and y.

    `pixels` (2, H, W) are the frame's pixels in supersampled photo coordinates.
    """
    dense, moved = np.empty_like(pixels), backward * np.float32(step * SUPERSAMPLING)
    for plane in (0, 1):
        cv2.resize(moved[plane], pixels.shape[:0:-1], dst=dense[plane], interpolation=cv2.INTER_LINEAR)
    dense += pixels
    return dense


def warp(image: ByteArray, where: FloatArray) -> ByteArray:
    """Bilinear u8 (h, w, 4) of `image` (H, W, 4) at `where` (2, h, w); edges continue outwards.

    Four channels, because OpenCV samples them in half the time of three.
    """
    return np.asarray(cv2.remap(image, where[0], where[1], cv2.INTER_LINEAR, borderMode=_EDGE), np.uint8)


def supersample(crop: ByteArray) -> ByteArray:
    """Image (h, w, c) -> (2h, 2w, c) whose even samples are the original's, the others Lanczos between."""
    height, width = crop.shape[:2]
    scale = 1 / SUPERSAMPLING
    enlarge = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(crop, enlarge, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def interpolate(points: FloatArray, values: FloatArray, lattice: Lattice) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Piecewise-linear interpolation of scattered values over their Delaunay triangles.

    `points` (n, 2) pixels, `values` (n, c). Returns (nodes, c) and which nodes lie inside the hull;
    outside they hold zeros.
    """
    low = points.min(0) - 2
    span = np.ceil(points.max(0) - low + 4).astype(int)
    # Coincident points would merge and lose one value: moved apart by less than anyone sees.
    spread = points + np.random.default_rng(0).uniform(-0.02, 0.02, points.shape).astype(np.float32)
    triangulation = cv2.Subdiv2D((float(low[0]), float(low[1]), float(span[0]), float(span[1])))
    for x, y in spread:
        triangulation.insert((float(x), float(y)))
    corners = np.asarray(triangulation.getTriangleList(), np.float32).reshape(-1, 3, 2)
    inside_box = ((corners >= low) & (corners <= low + span)).all((1, 2))
    corners = corners[inside_box]
    vertex = np.empty(corners.shape[:2], np.intp)
    for start in range(0, len(corners), 256):
        block = corners[start : start + 256]
        vertex[start : start + 256] = ((block[:, :, None] - spread) ** 2).sum(-1).argmin(-1)

    owner = np.full((lattice.rows, lattice.columns), -1, np.float32)
    origin = np.array([lattice.left, lattice.top]) + (lattice.step - 1) / 2
    for index, triangle in enumerate((corners - origin) / lattice.step):
        cv2.fillConvexPoly(owner, np.round(triangle * 256).astype(np.int32), float(index), shift=8)
    flat = owner.reshape(-1).astype(int)
    inside = flat >= 0
    a, b, c = np.moveaxis(corners[flat[inside]], 1, 0)
    query = lattice.points()[inside]
    area = _cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-6, 1e-6, area)
    second, third = _cross(query - a, c - a) / area, _cross(b - a, query - a) / area
    share = np.clip(np.stack([1 - second - third, second, third], -1), -0.2, 1.2)
    share /= share.sum(-1, keepdims=True)
    result = np.zeros((len(flat), values.shape[1]), np.float32)
    result[inside] = np.einsum("nk,nkc->nc", share, values[vertex[flat[inside]]])
    return result, inside


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], np.float32)
