"""The mouth: two layers of skin that part along the lip line, and what shows between them.

One field alone would stretch the lip line into a smear. Here the upper layer carries the upper lip's
motion on past its edge, the lower layer the lower lip's, each is drawn through its own
backward field, and each ends in a mask along its lip in the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.face_mesh import FaceModel, Pose
from engines.head_field import ROW, Surroundings, node_rows, skin_mixing, smoothstep
from engines.lips import INNER_LOWER, INNER_UPPER, LOWER_LIP, UPPER_LIP, bool_rows
from engines.mouth_interior import Interior, draw_interior
from engines.types import ByteArray, FloatArray
from engines.warp_field import SUPERSAMPLING, Lattice, identity_map, invert, pixel_map

STEP = 2  # pixels between nodes
ITERATIONS = 9
FEATHER = 1.2  # pixels, softness of the lips' edges
OVERLAP = 1.5  # pixels by which the lower layer reaches up where the photo's lips touch: it hides the meeting line
RIM = 10  # pixels over which the layers give way to the picture around them


@dataclass(frozen=True, slots=True)
class MouthTables:
    """Prepared once per photo. `box` int (4,): left, top, columns, rows of the lattice.

    `upper_rows`, `lower_rows` f32 (25, nodes): `engines.head_field` rows of both layers. `upper`,
    `lower` u8 (h, w, 4): supersampled photo of the box with the layer's mask. `window` f32 (h, w, 1):
    1 inside, 0 at the box's edge. `centre` f32 (25,): the row of the mouth's middle.
    """

    box: NDArray[np.int32]
    upper_rows: FloatArray
    lower_rows: FloatArray
    upper: ByteArray
    lower: ByteArray
    window: FloatArray
    centre: FloatArray

    @property
    def lattice(self) -> Lattice:
        left, top, columns, rows = (int(v) for v in self.box)
        return Lattice(left, top, columns, rows, STEP)


@dataclass(frozen=True, slots=True)
class LipLine:
    """Both inner lip contours of the photo as heights over a straight mouth axis.

    `axes` f32 (2, 2): rows are the unit vectors along the mouth and down; `origin` f32 (2,) its left
    corner. `x` (n,), `upper` (n,), `lower` (n,): a dense polyline in that frame, pixels.
    """

    axes: FloatArray
    origin: FloatArray
    x: FloatArray
    upper: FloatArray
    lower: FloatArray

    @staticmethod
    def of(mesh: FloatArray) -> LipLine:
        corners = mesh[[INNER_UPPER[0], INNER_UPPER[-1]], :2]
        along = (corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        axes = np.stack([along, np.array([-along[1], along[0]])]).astype(np.float32)
        contours = [(mesh[indices, :2] - corners[0]) @ axes.T for indices in (INNER_UPPER, INNER_LOWER)]
        x = np.linspace(0, contours[0][-1, 0], 200).astype(np.float32)
        upper, lower = (_smooth_height(contour, x) for contour in contours)
        lower = np.maximum(lower, upper)
        return LipLine(axes, corners[0].astype(np.float32), x, upper, lower)

    def heights(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Points (..., 2) in pixels -> x and y in the mouth's frame, and both contours' y there."""
        x, y = np.moveaxis((points - self.origin) @ self.axes.T, -1, 0)
        return x, y, np.interp(x, self.x, self.upper).astype(np.float32), np.interp(x, self.x, self.lower).astype(np.float32)


def mouth_tables(
    mesh: FloatArray, face: FaceModel, pose: Pose, around: Surroundings, photo: ByteArray
) -> MouthTables:
    """Cut the two layers; `mesh` (478, 3) crop pixels, `photo` the supersampled crop."""
    unit = float(np.linalg.norm(mesh[33] - mesh[263]))
    line = LipLine.of(mesh)
    ring = mesh[[*INNER_UPPER, *INNER_LOWER], :2]
    low = ring.min(0) - unit * np.array([0.17, 0.2])
    high = ring.max(0) + unit * np.array([0.17, 0.42])
    low, high = np.clip(low, 0, 504), np.clip(high, 8, 510)
    columns, rows = ((high - low) // STEP).astype(int)
    lattice = Lattice(int(low[0]), int(low[1]), int(columns), int(rows), STEP)

    aside = skin_mixing(face)
    both = node_rows(mesh, face.mixing, pose, around, lattice, aside)
    x, y, upper_y, lower_y = line.heights(lattice.points())
    width = line.x[-1]
    within = smoothstep(np.minimum(x, width - x), 0, 0.04 * unit)[:, None]
    layers = []
    for others, contour, beyond in (
        (LOWER_LIP, INNER_UPPER, smoothstep(y - upper_y, 0, STEP)),
        (UPPER_LIP, INNER_LOWER, smoothstep(lower_y - y, 0, STEP)),
    ):
        own = node_rows(mesh, face.mixing, pose, around, lattice, aside | bool_rows(len(mesh), others))
        # Past the lip the layer moves as the lip's edge right above or below does.
        along = (mesh[contour, :2] - line.origin) @ line.axes.T
        edge = np.stack([np.interp(x, along[:, 0], face.mixing[contour, k]) for k in range(face.mixing.shape[1])], -1)
        carried = own.copy()
        carried[:, 4:] = edge
        share = within * beyond[:, None]
        mixed = own * (1 - share) + carried * share
        mixed = np.where((x < 0)[:, None] | (x > width)[:, None], both, mixed)
        layers.append(np.ascontiguousarray(mixed.T, np.float32))

    box_width, box_height = lattice.size
    pixels = identity_map(box_width * SUPERSAMPLING, box_height * SUPERSAMPLING) / SUPERSAMPLING
    _, y, upper_y, lower_y = line.heights(pixels + np.array([lattice.left, lattice.top], np.float32))
    overlap = OVERLAP * (1 - smoothstep(lower_y - upper_y, 0.5, 2.5))
    masks = (0.5 + (upper_y - y) / FEATHER, 0.5 + (y - lower_y + overlap) / FEATHER)
    patch = photo[lattice.top * SUPERSAMPLING :, lattice.left * SUPERSAMPLING :][: pixels.shape[0], : pixels.shape[1]]
    upper, lower = (np.dstack([patch, np.round(255 * np.clip(mask, 0, 1)).astype(np.uint8)]) for mask in masks)

    edge_x = np.minimum(np.arange(box_width), box_width - 1 - np.arange(box_width))
    edge_y = np.minimum(np.arange(box_height), box_height - 1 - np.arange(box_height))
    window = smoothstep(np.minimum(edge_x[None], edge_y[:, None]), 0, RIM)[..., None]
    middle = int(np.argmin(((lattice.points() - ring.mean(0)) ** 2).sum(-1)))
    box = np.array([lattice.left, lattice.top, columns, rows], np.int32)
    return MouthTables(box, *layers, upper, lower, window, np.ascontiguousarray(both[middle]))


def draw_mouth(tables: MouthTables, interior: Interior, flow: FloatArray, frame: FloatArray, picture: ByteArray) -> None:
    """Draw the mouth into `picture` u8 (512, 512, 3), in place.

    `flow` (25, 2): this frame's coefficients; `frame` (70,): its motion, exp in the head's frame.
    """
    lattice = tables.lattice
    width, height = lattice.size
    shift = np.round(tables.centre @ flow).astype(int)
    shift = np.clip(shift, (-lattice.left, -lattice.top), (512 - width - lattice.left, 512 - height - lattice.top))
    nodes = identity_map(lattice.columns, lattice.rows) + (shift / STEP).astype(np.float32)
    pixels = SUPERSAMPLING * (identity_map(width, height) + shift.astype(np.float32))
    start = (-shift / STEP).astype(np.float32)
    drawn = []
    for rows, layer in ((tables.upper_rows, tables.upper), (tables.lower_rows, tables.lower)):
        forward = np.ascontiguousarray((flow.T @ rows).T).reshape(lattice.rows, lattice.columns, 2) / np.float32(STEP)
        backward = invert(forward, nodes, start, ITERATIONS)
        first, second = pixel_map(backward, pixels, STEP)
        drawn.append(cv2.remap(layer, first, second, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    upper, lower = (np.asarray(layer, np.float32) for layer in drawn)
    above = upper[..., 3:] / 255
    below = lower[..., 3:] / 255
    left, top = lattice.left + int(shift[0]), lattice.top + int(shift[1])
    gap = (1 - above) * (1 - below)
    behind = draw_interior(interior, frame, (left, top), gap[..., 0])
    composed = lower[..., :3] * below + behind * (1 - below)
    composed += (upper[..., :3] - composed) * above
    place = picture[top : top + height, left : left + width]
    composed = place + (composed - place) * tables.window
    place[:] = np.clip(composed + 0.5, 0, 255)


def _smooth_height(contour: FloatArray, x: FloatArray) -> FloatArray:
    """Height of a contour (n, 2) over `x`, its vertices rounded off a little."""
    height = np.interp(x, contour[:, 0], contour[:, 1])
    kernel = cv2.getGaussianKernel(21, 5.0)[:, 0]
    padded = np.pad(height, 10, mode="reflect", reflect_type="odd")
    return np.convolve(padded, kernel, "valid").astype(np.float32)


assert ROW == 4 + 21
