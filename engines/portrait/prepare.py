"""A photo becomes a Portrait: the one face found, checked, cut to the square the renderer works in.

Done once per photo, in some tenths of a second on one core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from engines.portrait import checks
from engines.portrait.landmarks import FaceBox, FaceLandmarker, distinct
from engines.portrait.photo import Photo, read_photo
from engines.portrait.scene import scene_of
from engines.types import FRAME_SIZE, ByteArray, FloatArray, Portrait

VERSION = 1  # of everything below; part of the digest, so that what was cached before is made anew

FOREHEAD, CHIN = 10, 152
CROP_SIDE = 2.15  # in distances from forehead to chin
HEADROOM = 0.12  # of the side, above the hair
CHIN_LIMIT = 0.80  # of the side, from the top: room that the jaw needs below
EDGE_TRIM = 0.006  # of the side: frames and scaling rings at a photo's border are not to be continued
LARGEST_SIDE = 1.4 * CROP_SIDE  # a tall hat is cut rather than the face made tiny

MESH_VIEW, PERSON_VIEW = 384, 256  # pixels, sides of what the graphs are shown

INNER_LIPS = np.array(
    [(191, 95), (80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318), (415, 324)]
)
LIPS_TOUCH = 0.012  # of the eye-corner distance: smaller gaps are closed lips
LIPS_APART = 0.3  # pixels that closed lips stay from their common line, so that no pair ever crosses

# Shift (x, y) in sides, zoom and turn in degrees of the crops whose meshes the median is taken of.
JITTER = (
    (0.000, 0.000, 1.00, 0.0),
    (0.020, 0.010, 0.96, 2.0),
    (-0.020, 0.010, 0.92, -2.0),
    (0.010, -0.020, 1.04, -3.0),
    (-0.010, -0.020, 0.98, 3.0),
    (0.025, -0.005, 0.94, -1.0),
    (-0.025, -0.010, 1.02, 1.0),
    (0.000, 0.025, 0.90, 0.5),
)


def digest_of(photo: bytes) -> str:
    """Name of a prepared photo: its bytes and the version of the preparation, as 64 hexadecimal digits."""
    return hashlib.sha256(photo + b"portrait %d" % VERSION).hexdigest()


def prepare(photo: bytes, landmarker: FaceLandmarker | None = None) -> Portrait:
    """An image file's bytes -> Portrait; raises PortraitError with a sentence for the person who sent it.

    Without a `landmarker` one is made for this call; a server keeps one, because MediaPipe gives back not quite
    all memory of graphs that are closed. The same bytes always give the same Portrait.
    """
    picture = read_photo(photo)
    if landmarker is None:
        with FaceLandmarker() as own:
            return _prepare(photo, picture, own)
    return _prepare(photo, picture, landmarker)


def _prepare(photo: bytes, picture: Photo, landmarker: FaceLandmarker) -> Portrait:
    pixels = picture.pixels
    found = faces(landmarker, pixels)
    checks.require_one_face([face_height(mesh) for mesh in found])
    height = face_height(found[0]) * picture.scale
    checks.require_size(height)

    left, top, side = crop_square(found[0], hair_top(landmarker, pixels, found[0]))
    crop = cut(pixels, left, top, side)
    meshes = jittered_meshes(landmarker, crop)
    mesh = close_lips(np.median(meshes, axis=0).astype(np.float32))
    on_photo = mesh[:, :2] * (side / FRAME_SIZE) + (left, top)
    report = {
        "face_height": height,
        "cut": checks.require_inside(on_photo, pixels.shape[1], pixels.shape[0]),
        **checks.require_frontal(mesh),
        "sharpness": checks.require_sharp(crop, mesh),
        **checks.require_open_mouth_view(crop, meshes),
    }
    # Pixel centres lie half a pixel inside the corner from which both pictures are measured.
    pixel = side / FRAME_SIZE * picture.scale
    corner = np.array([left, top]) * picture.scale + 0.5 * pixel - 0.5
    to_photo = np.array([[pixel, 0.0, corner[0]], [0.0, pixel, corner[1]]], np.float32)
    scene = scene_of(landmarker, pixels, crop, left, top, side)
    return Portrait(crop, mesh, to_photo, digest_of(photo), scene, report)


def face_height(mesh: FloatArray) -> float:
    """Forehead to chin, in the mesh's unit."""
    return float(np.linalg.norm(mesh[FOREHEAD, :2] - mesh[CHIN, :2]))


def faces(landmarker: FaceLandmarker, pixels: ByteArray) -> list[FloatArray]:
    """Meshes f32 (478, 3) of all faces, largest first, in pixels of the picture.

    Where the whole picture shows none, it is looked at with a margin (for faces that fill it) and then
    in enlarged, overlapping parts (for small ones).
    """
    for group in _views(*pixels.shape[:2]):
        boxes = []
        for x, y, width, height in group:
            seen = landmarker.boxes(_window(pixels, x, y, width, height))
            boxes += [replace(box, x=box.x + x, y=box.y + y) for box in seen]
        meshes = [mesh for box in distinct(boxes) if (mesh := _mesh_in(landmarker, pixels, box)) is not None]
        if meshes:
            return sorted(meshes, key=face_height, reverse=True)
    return []


def _views(height: int, width: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Windows (x, y, width, height) in which faces are looked for, in groups from easy to hard."""
    yield [(0, 0, width, height)]
    yield [(-2 * width // 5, -2 * height // 5, 9 * width // 5, 9 * height // 5)]
    for parts in (2, 4):
        w, h = 7 * width // (5 * parts), 7 * height // (5 * parts)
        steps = np.linspace(0, 1, 2 * parts - 2)
        yield [(round((width - w) * x), round((height - h) * y), w, h) for y in steps for x in steps]


def _window(pixels: ByteArray, x: int, y: int, width: int, height: int) -> ByteArray:
    """Part of the picture; outside it, its edge goes on."""
    rows, columns = pixels.shape[:2]
    inside = pixels[max(y, 0) : y + height, max(x, 0) : x + width]
    margins = (max(-y, 0), max(y + height - rows, 0), max(-x, 0), max(x + width - columns, 0))
    return np.asarray(cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE), np.uint8)


def _resize(image: ByteArray, side: int, enlarge: int = cv2.INTER_CUBIC) -> ByteArray:
    method = cv2.INTER_AREA if image.shape[0] > side else enlarge
    return np.asarray(cv2.resize(image, (side, side), interpolation=method), np.uint8)


def _mesh_in(landmarker: FaceLandmarker, pixels: ByteArray, box: FaceBox) -> FloatArray | None:
    side = max(round(2.4 * box.side), 1)
    x0, y0 = round(box.x - side / 2), round(box.y - side / 2)
    mesh = landmarker.mesh(_resize(_window(pixels, x0, y0, side, side), MESH_VIEW))
    if mesh is None:
        return None
    zoom = MESH_VIEW / side
    mesh /= zoom
    mesh[:, :2] += (x0 + 0.5 / zoom - 0.5, y0 + 0.5 / zoom - 0.5)
    return mesh


def hair_top(landmarker: FaceLandmarker, pixels: ByteArray, mesh: FloatArray) -> float:
    """y of the highest pixel of the head, at most the forehead's; from the person's outline."""
    middle = (mesh[FOREHEAD, :2] + mesh[CHIN, :2]) / 2
    side = round(3.4 * face_height(mesh))
    x0, y0 = (round(float(value) - side / 2) for value in middle)
    zoom = PERSON_VIEW / side
    person = landmarker.person(_resize(_window(pixels, x0, y0, side, side), PERSON_VIEW)) > 0.5
    left, right = (int((edge - x0) * zoom) for edge in (mesh[:, 0].min(), mesh[:, 0].max()))
    start = min(max(int((mesh[FOREHEAD, 1] - y0) * zoom), 1), PERSON_VIEW - 1)
    background = ~person[start::-1, max(left, 0) : right + 1]  # rows from the forehead upwards
    reach = np.where(background.any(0), background.argmax(0), start + 1)
    top = y0 + (start + 1 - float(np.percentile(reach, 90))) / zoom
    return max(min(top, float(mesh[FOREHEAD, 1])), 0.0)


def crop_square(mesh: FloatArray, top_of_hair: float) -> tuple[int, int, int]:
    """Left, top and side, in whole pixels of the picture, of the square that is cut out."""
    tall = face_height(mesh)
    chin = float(mesh[:, 1].max())
    side = float(np.clip((chin - top_of_hair) / (CHIN_LIMIT - HEADROOM), CROP_SIDE * tall, LARGEST_SIDE * tall))
    middle = float(mesh[FOREHEAD, 1] + mesh[CHIN, 1]) / 2
    top = max(min(middle - side / 2, top_of_hair - HEADROOM * side), chin - CHIN_LIMIT * side)
    centre = float(mesh[:, 0].min() + mesh[:, 0].max()) / 2
    return round(centre - side / 2), round(top), round(side)


def cut(pixels: ByteArray, left: int, top: int, side: int) -> ByteArray:
    """The square u8 (512, 512, 3); beyond the photo its edge goes on, ever more blurred."""
    rows, columns = pixels.shape[:2]
    trim = max(1, round(EDGE_TRIM * side)) if min(left, top, rows - top - side, columns - left - side) < 0 else 0
    x0, y0 = max(left, trim), max(top, trim)
    x1, y1 = min(left + side, columns - trim), min(top + side, rows - trim)
    margins = (y0 - top, top + side - y1, x0 - left, left + side - x1)
    square = np.asarray(cv2.copyMakeBorder(pixels[y0:y1, x0:x1], *margins, cv2.BORDER_REPLICATE), np.uint8)
    crop = _resize(square, FRAME_SIZE, cv2.INTER_LANCZOS4)
    return _soften_margins(crop, [margin * FRAME_SIZE / side for margin in margins]) if any(margins) else crop


def _soften_margins(crop: ByteArray, margins: list[float]) -> ByteArray:
    above, below, before, after = margins
    index = np.arange(FRAME_SIZE, dtype=np.float32)
    away_y = np.maximum(np.maximum(above - index, index - (FRAME_SIZE - 1 - below)), 0)
    away_x = np.maximum(np.maximum(before - index, index - (FRAME_SIZE - 1 - after)), 0)
    distance = np.hypot(away_y[:, None], away_x[None, :])
    result = crop.astype(np.float32)
    reach = 1.0
    for sigma in (1.5, 3.0, 6.0, 12.0, 24.0, 48.0):
        shrink = max(int(sigma) // 3, 1)  # a wide blur is made on a small picture
        small = cv2.resize(crop, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
        blurred = cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        share = np.clip((distance - reach) / (2 * reach), 0, 1)[..., None]
        result += share * (blurred - result)
        reach *= 2
    return result.round().astype(np.uint8)


def jittered_meshes(landmarker: FaceLandmarker, crop: ByteArray) -> FloatArray:
    """Meshes f32 (n, 478, 3) of the crop seen through slightly different windows, in crop pixels."""
    middle = (FRAME_SIZE - 1) / 2
    found = []
    for shift_x, shift_y, zoom, turn in JITTER:
        affine = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
        affine[:, 2] += np.array((shift_x, shift_y)) * FRAME_SIZE
        view = cv2.warpAffine(crop, affine, (FRAME_SIZE, FRAME_SIZE), borderMode=cv2.BORDER_REPLICATE)
        mesh = landmarker.mesh(np.asarray(view, np.uint8))
        if mesh is not None:
            back = cv2.invertAffineTransform(affine)
            flat = mesh[:, :2] @ back[:, :2].T + back[:, 2]
            found.append(np.column_stack([flat, mesh[:, 2] / zoom]))
    checks.require_meshes(len(found))
    return np.array(found, np.float32)


def close_lips(mesh: FloatArray) -> FloatArray:
    """Inner-lip pairs that cross or all but meet are put on either side of their midpoint."""
    mesh = mesh.copy()
    axis = mesh[CHIN, :2] - mesh[FOREHEAD, :2]
    axis /= np.linalg.norm(axis)
    touch = LIPS_TOUCH * float(np.linalg.norm(mesh[33, :2] - mesh[263, :2]))
    for upper, lower in INNER_LIPS:
        if (mesh[lower, :2] - mesh[upper, :2]) @ axis < touch:
            middle = (mesh[upper] + mesh[lower]) / 2
            mesh[upper], mesh[lower] = middle, middle
            mesh[upper, :2] -= LIPS_APART * axis
            mesh[lower, :2] += LIPS_APART * axis
    return mesh
