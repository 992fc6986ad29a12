"""Where exactly the lips end in the photo: the tracker's contours, moved to the edges that are there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.types import ByteArray, FloatArray
from engines.warp.lips import INNER_LOWER, INNER_UPPER
from engines.warp.warp_field import SUPERSAMPLING, sample

SAMPLES = 200  # along the mouth
REACH_IN, REACH_OUT = 0.05, 0.02  # eye distances that an edge is looked for inside and outside the contour
APART = 0.03  # eye distances: a smaller opening is closed lips, which have one dark line


@dataclass(frozen=True, slots=True)
class LipLine:
    """Both inner lip contours of the photo as heights over a straight mouth axis.

    `axes` f32 (2, 2): rows are the unit vectors along the mouth and down; `origin` f32 (2,) its left
    corner. `x`, `upper`, `lower` f32 (SAMPLES,): a dense polyline in that frame, pixels.
    """

    axes: FloatArray
    origin: FloatArray
    x: FloatArray
    upper: FloatArray
    lower: FloatArray

    @staticmethod
    def of(mesh: FloatArray, photo: ByteArray) -> LipLine:
        """From a mesh (478, 3) in crop pixels and the supersampled photo."""
        corners = mesh[[INNER_UPPER[0], INNER_UPPER[-1]], :2]
        along = (corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        axes = np.stack([along, np.array([-along[1], along[0]])]).astype(np.float32)
        contours = [(mesh[indices, :2] - corners[0]) @ axes.T for indices in (INNER_UPPER, INNER_LOWER)]
        x = np.linspace(0, contours[0][-1, 0], SAMPLES).astype(np.float32)
        upper, lower = (_rounded(np.interp(x, contour[:, 0], contour[:, 1]), 5.0) for contour in contours)
        line = LipLine(axes, corners[0].astype(np.float32), x, upper, np.maximum(lower, upper))
        return line._snapped(photo, float(np.linalg.norm(mesh[33] - mesh[263])))

    def heights(self, points: NDArray[np.floating]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Points (..., 2) in pixels -> x and y in the mouth's frame, and both contours' y there."""
        x, y = np.moveaxis(np.asarray((points - self.origin) @ self.axes.T, np.float32), -1, 0)
        upper, lower = (np.interp(x, self.x, side).astype(np.float32) for side in (self.upper, self.lower))
        return x, y, upper, lower

    def applied(self, mesh: FloatArray) -> FloatArray:
        """`mesh` (478, 3) in crop pixels with its inner-lip points on this line."""
        moved = mesh.copy()
        for indices, side in ((INNER_UPPER[1:-1], self.upper), (INNER_LOWER[1:-1], self.lower)):
            x = (mesh[indices, :2] - self.origin) @ self.axes[0]
            heights = np.stack([x, np.interp(x, self.x, side)], -1)
            moved[indices, :2] = heights @ self.axes + self.origin
        return moved

    def _snapped(self, photo: ByteArray, unit: float) -> LipLine:
        """The same line with its heights moved to the photo's edges, where there are any."""
        if (self.lower - self.upper).max() < APART * unit:
            middle = (self.upper + self.lower) / 2
            offsets, profile = self._profile(photo, np.asarray(middle, np.float32), -REACH_OUT * unit, REACH_OUT * unit)
            shift = self._pull(offsets, -cv2.GaussianBlur(profile.sum(-1), (5, 1), 1.2), unit)
            return LipLine(self.axes, self.origin, self.x, self.upper + shift, self.lower + shift)
        sides = []
        for height, sign in ((self.upper, 1), (self.lower, -1)):
            inside, outside = sign * REACH_IN * unit, -sign * REACH_OUT * unit
            offsets, profile = self._profile(photo, height, min(inside, outside), max(inside, outside))
            white = profile[..., 1] + profile[..., 2] - profile[..., 0]  # teeth are white, lips red, the rest dark
            edge = sign * np.gradient(cv2.GaussianBlur(white, (7, 1), 1.2), axis=1)
            sides.append(height + self._pull(offsets, edge, unit))
        upper, lower = sides
        return LipLine(self.axes, self.origin, self.x, upper, np.maximum(upper, lower))

    def _profile(self, photo: ByteArray, height: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
        """Offsets (m,) across the contour, and the photo's colour there, f32 (SAMPLES, m, 3)."""
        offsets = np.arange(low, high, 0.5).astype(np.float32)
        local = np.stack(np.broadcast_arrays(self.x[:, None], height[:, None] + offsets), -1)
        where = SUPERSAMPLING * (local @ self.axes + self.origin)
        return offsets, sample(photo, where)

    def _pull(self, offsets: FloatArray, edge: FloatArray, unit: float) -> FloatArray:
        """Smooth shift (SAMPLES,) towards the strongest `edge` (SAMPLES, m) of each sample, by its strength."""
        near = np.exp(-0.5 * (offsets / (0.03 * unit)) ** 2)
        score = (edge - np.median(edge, axis=1, keepdims=True)) * near
        best = score.argmax(1)
        strength = np.maximum(score.max(1), 0)
        strength = np.minimum(strength, np.quantile(strength, 0.8)) + 1e-6
        # The corners stay where the tracker has them.
        strength *= np.sin(np.pi * np.clip(np.arange(SAMPLES) / (SAMPLES - 1), 0.02, 0.98))
        found = offsets[best]
        typical = np.median(found[SAMPLES // 4 : -SAMPLES // 4])
        strength = strength * np.exp(-(((found - typical) / (0.02 * unit)) ** 2))
        doubt = 0.25 * strength.max()
        shift = _rounded(found * strength, 8.0) / (_rounded(strength, 8.0) + doubt) * 1.1
        ends = np.clip(np.minimum(np.arange(SAMPLES), np.arange(SAMPLES)[::-1]) / (0.12 * SAMPLES), 0, 1)
        return np.asarray(_rounded(shift * ends, 3.0), np.float32)


def _rounded(values: FloatArray, sigma: float) -> FloatArray:
    """Gaussian smoothing along a polyline that keeps its ends."""
    reach = int(3 * sigma)
    kernel = cv2.getGaussianKernel(2 * reach + 1, sigma)[:, 0]
    padded = np.pad(values, reach, mode="reflect", reflect_type="odd")
    return np.convolve(padded, kernel, "valid").astype(np.float32)
