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
from engines.types import FRAME_SIZE, ByteArray, FloatArray
from engines.warp.head_field import Surroundings, node_rows, skin_mixing, smoothstep
from engines.warp.lip_line import LipLine
from engines.warp.lips import INNER_LOWER, INNER_UPPER, LOWER_LIP, UPPER_LIP, bool_rows
from engines.warp.mouth_interior import Interior, draw_interior
from engines.warp.warp_field import SUPERSAMPLING, Lattice, identity_map, identity_planes, invert, pixel_map, warp

STEP = 2  # pixels between nodes
ITERATIONS = 9
FEATHER = 1.2  # pixels, softness of the lips' edges
OVERLAP = 1.5  # pixels by which the lower layer reaches up where the photo's lips touch: it hides the meeting line
PAD = 10  # nodes by which the photo's box is larger than the frame's, on every side
GLIMPSE = 0.02  # a smaller share of the mouth's inside in a pixel is not worth drawing
RIM = 10  # pixels over which the layers give way to the picture around them


@dataclass(frozen=True, slots=True)
class MouthTables:
    """Prepared once per photo. `box` int (4,): left, top, columns, rows of the lattice on the photo; the
    part of the frame that is drawn is smaller by `PAD` nodes on every side.

    `upper_rows`, `lower_rows` f32 (25, nodes): `engines.warp.head_field` rows of both layers. `upper`,
    `lower` u8 (h, w, 4): supersampled photo of the box with the layer's mask. `window` f32 (h, w):
    1 inside, 0 at the box's edge. `centre` f32 (25,): the row of the mouth's middle, without expression.
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


def mouth_tables(
    mesh: FloatArray, line: LipLine, face: FaceModel, pose: Pose, around: Surroundings, photo: ByteArray
) -> MouthTables:
    """Cut the two layers; `mesh` (478, 3) crop pixels, `photo` the supersampled crop."""
    unit = float(np.linalg.norm(mesh[33] - mesh[263]))
    ring = mesh[[*INNER_UPPER, *INNER_LOWER], :2]
    low = ring.min(0) - unit * np.array([0.15, 0.18]) - PAD * STEP
    high = ring.max(0) + unit * np.array([0.15, 0.34]) + PAD * STEP
    low, high = np.clip(low, 0, FRAME_SIZE - 8), np.clip(high, 8, FRAME_SIZE)
    columns, rows = ((high - low) // STEP).astype(int)
    lattice = Lattice(int(low[0]), int(low[1]), int(columns), int(rows), STEP)

    aside = skin_mixing(face)
    both = node_rows(mesh, face.mixing, pose, around, lattice, aside)
    x, y = np.moveaxis((lattice.points() - line.origin) @ line.axes.T, -1, 0)
    width = line.x[-1]
    within = smoothstep(np.minimum(x, width - x), 0, 0.04 * unit)[:, None]
    layers: list[FloatArray] = []
    for others, contour, sign in ((LOWER_LIP, INNER_UPPER, 1), (UPPER_LIP, INNER_LOWER, -1)):
        own = node_rows(mesh, face.mixing, pose, around, lattice, aside | bool_rows(len(mesh), others))
        # Past the lip the layer moves as the lip's edge right above or below does.
        along = (mesh[contour, :2] - line.origin) @ line.axes.T
        edge = np.stack([np.interp(x, along[:, 0], face.mixing[contour, k]) for k in range(face.mixing.shape[1])], -1)
        carried = own.copy()
        carried[:, 4:] = edge
        beyond = sign * (y - np.interp(x, along[:, 0], along[:, 1]))
        share = within * smoothstep(beyond, -STEP / 2, STEP / 2)[:, None]
        mixed = own * (1 - share) + carried * share
        mixed = np.where((x < 0)[:, None] | (x > width)[:, None], both, mixed)
        layers.append(np.ascontiguousarray(mixed.T, np.float32))

    box_width, box_height = lattice.size
    pixels = identity_map(box_width * SUPERSAMPLING, box_height * SUPERSAMPLING) / SUPERSAMPLING
    _, y, upper_y, lower_y = line.heights(pixels + np.array([lattice.left, lattice.top]))
    overlap = OVERLAP * (1 - smoothstep(lower_y - upper_y, 0.5, 2.5))
    masks = (0.5 + (upper_y - y) / FEATHER, 0.5 + (y - lower_y + overlap) / FEATHER)
    patch = photo[lattice.top * SUPERSAMPLING :, lattice.left * SUPERSAMPLING :][: pixels.shape[0], : pixels.shape[1]]
    upper, lower = (np.dstack([patch, np.round(255 * np.clip(mask, 0, 1)).astype(np.uint8)]) for mask in masks)

    drawn_x, drawn_y = (np.arange(side - 2 * PAD * STEP) for side in lattice.size)
    edge_x, edge_y = np.minimum(drawn_x, drawn_x[::-1]), np.minimum(drawn_y, drawn_y[::-1])
    window = smoothstep(np.minimum(edge_x[None], edge_y[:, None]), 0, RIM)
    middle = int(np.argmin(((lattice.points() - ring.mean(0)) ** 2).sum(-1)))
    centre = both[middle] * (np.arange(both.shape[1]) < 4)  # the drawn box follows the head and not the jaw
    box = np.array([lattice.left, lattice.top, columns, rows], np.int32)
    return MouthTables(box, layers[0], layers[1], upper, lower, window, centre)


def draw_mouth(
    tables: MouthTables, interior: Interior, flow: FloatArray, frame: FloatArray, picture: ByteArray
) -> None:
    """Draw the mouth into `picture` u8 (512, 512, 3), in place.

    `flow` (25, 2): this frame's coefficients; `frame` (70,): its motion, exp in the head's frame.
    """
    lattice = tables.lattice
    height, width = tables.window.shape[:2]
    corner = np.array([lattice.left, lattice.top]) + PAD * STEP
    shift = np.round(tables.centre @ flow).astype(int)
    shift = np.clip(shift, -corner, FRAME_SIZE - np.array([width, height]) - corner)
    inner = (PAD + shift / STEP).astype(np.float32)[:, None, None]
    nodes = identity_planes(width // STEP, height // STEP) + inner
    pixels = SUPERSAMPLING * (identity_planes(width, height) + STEP * inner)
    start = np.asarray(-shift / STEP, np.float32)
    drawn = []
    for rows, layer in ((tables.upper_rows, tables.upper), (tables.lower_rows, tables.lower)):
        forward = np.asarray(flow.T / STEP @ rows, np.float32).reshape(2, lattice.rows, lattice.columns)
        warped = warp(layer, pixel_map(invert(forward, nodes, start, ITERATIONS), pixels, STEP))
        drawn.append((cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), warped[..., 3] * np.float32(1 / 255)))
    (upper, above), (lower, below) = drawn
    left, top = (int(v) for v in corner + shift)
    gap = (1 - above) * (1 - below)
    x, y, across, down = cv2.boundingRect(np.asarray(gap > GLIMPSE, np.uint8))
    if across:
        hole = slice(y, y + down), slice(x, x + across)
        behind = draw_interior(interior, frame, (left + x, top + y), gap[hole])
        lower[hole] = cv2.blendLinear(lower[hole], behind, below[hole], 1 - below[hole])
    composed = cv2.blendLinear(upper, lower, above, 1 - above)
    place = picture[top : top + height, left : left + width]
    place[:] = cv2.blendLinear(composed, place, tables.window, 1 - tables.window)
