"""What a photo must show to become a talking face, and what is said when it does not.

The limits were set on 16 faces (smiling, bearded, with glasses, turned by 20 degrees, grey) under
changes of light, noise, compression and size, against the same faces blurred or with the mouth
covered. U is the distance between the outer corners of the eyes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engines.face_mesh import LEFT_EYE_CORNER, RIGHT_EYE_CORNER, STABLE, face_model, to_unit
from engines.motion import angles_of
from engines.types import ByteArray, FloatArray, PortraitError

SECOND_FACE = 0.4  # of the first one's height: smaller ones are bystanders
MIN_FACE = 72.0  # pixels from forehead to chin; from fewer the eyes come out as smears
MAX_YAW, MAX_PITCH, MAX_ROLL = 22.0, 20.0, 25.0  # degrees; the head turns further while it talks
MAX_CUT = 0.06  # of the face's height that may lie beyond the photo's edge
MIN_SHARPNESS = 15.0  # sharp photos: 18 and more; blurred by .024 U (3 pixels of the crop): 15, by .032 U: 13
# Plain faces: .04 to .14; badly lit, noisy or compressed ones: up to .19; covered mouths: most over .25.
MAX_MOUTH_DOUBT = 0.22
MIN_MESHES = 4  # of the jittered crops in which the face has to be found

MOUTH_CONTOURS = np.array(  # corner to corner: outer upper, outer lower, inner upper, inner lower
    [
        [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
        [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
        [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
        [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
    ]
)
LIPS = np.unique(MOUTH_CONTOURS)
EYES = np.array([[33, 133, 159, 145], [362, 263, 386, 374]])  # corners, upper and lower lid


def eye_distance(mesh: FloatArray) -> float:
    """U in the mesh's unit, as seen in the picture."""
    return float(np.linalg.norm(mesh[LEFT_EYE_CORNER, :2] - mesh[RIGHT_EYE_CORNER, :2]))


def require_one_face(heights: Sequence[float]) -> None:
    """`heights` of the faces found, largest first."""
    if not heights:
        raise PortraitError(
            "no_face", "No face was found; send a photo of one person looking into the camera, well lit and uncovered."
        )
    if len(heights) > 1 and heights[1] > SECOND_FACE * heights[0]:
        count = sum(height > SECOND_FACE * heights[0] for height in heights)
        raise PortraitError("several_faces", f"The photo shows {count} faces; cut it so that only one person is left.")


def require_size(height: float) -> None:
    """`height` of the face in pixels of the photo."""
    if height < MIN_FACE:
        raise PortraitError(
            "small",
            f"The face is only {height:.0f} pixels high; send a larger photo or go closer to the camera"
            f" (at least {MIN_FACE:.0f} pixels from forehead to chin).",
        )


def require_meshes(count: int) -> None:
    """`count` of the jittered crops that showed a face."""
    if count < MIN_MESHES:
        raise PortraitError(
            "no_face", "The face is too hard to make out; send a photo that shows all of it, well lit, from the front."
        )


def require_inside(mesh: FloatArray, width: int, height: int) -> float:
    """Largest distance of the mesh (pixels of the photo) beyond the photo's edge, in face heights."""
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    beyond = max(-low[0], -low[1], high[0] - width, high[1] - height, 0.0)
    share = float(beyond / (high[1] - low[1]))
    if share > MAX_CUT:
        raise PortraitError("cut", "The face is cut off by the edge of the photo; send one that shows the whole head.")
    return share


def require_frontal(mesh: FloatArray) -> dict[str, float]:
    """Angles of the head in degrees, by the same fit that the renderer uses."""
    yaw, pitch, roll = (float(angle) for angle in angles_of(face_model().pose(to_unit(mesh)).matrix))
    if abs(yaw) > MAX_YAW or abs(pitch) > MAX_PITCH:
        raise PortraitError(
            "turned",
            f"The head is turned too far ({yaw:+.0f} degrees sideways, {pitch:+.0f} up or down);"
            " send a photo that looks straight into the camera.",
        )
    if abs(roll) > MAX_ROLL:
        raise PortraitError(
            "turned", f"The head is tilted by {abs(roll):.0f} degrees; turn the photo so that the eyes are level."
        )
    return {"yaw": yaw, "pitch": pitch, "roll": roll}


def require_sharp(crop: ByteArray, mesh: FloatArray) -> float:
    """Steepest edges of the better eye, as a share of its contrast per U.

    An edge is only as sharp as in the worse of the two directions (motion blurs just one); lids lie
    across, so a vertical edge counts double.
    """
    unit = eye_distance(mesh)
    grey = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.006 * unit)
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0) / 8
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1) / 8
    sharpest = 0.0
    for eye in EYES:
        low, high = mesh[eye, :2].min(0), mesh[eye, :2].max(0)
        (x, y), half = (low + high) / 2, (high - low)[0]
        rows = slice(max(int(y - 0.4 * half), 0), int(y + 0.4 * half) + 1)
        columns = slice(max(int(x - 0.6 * half), 0), int(x + 0.6 * half) + 1)
        contrast = float(np.subtract(*np.percentile(grey[rows, columns], [98, 2]))) + 1.0
        steep = [
            float(np.percentile(np.abs(edges[rows, columns]), 98)) for edges in (np.hypot(across, down), across, down)
        ]
        sharpest = max(sharpest, min(steep[0], 2 * steep[1], 2 * steep[2]) / contrast * unit)
    if sharpest < MIN_SHARPNESS:
        raise PortraitError("blurred", "The face is blurred; send a photo that is in focus and was held still.")
    return sharpest


def require_open_mouth_view(crop: ByteArray, meshes: FloatArray) -> dict[str, float]:
    """How well the lips can be seen; `meshes` (n, 478, 3) are those of the jittered crops.

    A covered mouth is guessed by the tracker: the guesses scatter, and along the contours guessed there
    are no edges. The doubt is the one divided by the other: the lips' scatter over crops after alignment
    on the stable points (% of U), and the steepest mean edge across each lip contour near where it
    was found (contrast of the face per U). Means are signed, so the edges of a texture cancel.
    """
    scatter = _lip_scatter(meshes)
    edges = _lip_edges(crop, np.median(meshes, axis=0))
    doubt = scatter / max(edges, 1e-3)
    if doubt > MAX_MOUTH_DOUBT:
        raise PortraitError(
            "covered",
            "The mouth cannot be seen well; send a photo without hand, mask, scarf or microphone before the mouth.",
        )
    return {"lip_scatter": scatter, "lip_edges": edges, "mouth_doubt": doubt}


def _lip_scatter(meshes: FloatArray) -> float:
    middle = np.median(meshes, axis=0)[:, :2]
    flat = meshes[..., 0] + 1j * meshes[..., 1]
    target = middle[:, 0] + 1j * middle[:, 1]
    anchors, goal = flat[:, STABLE], target[STABLE]
    centre = anchors.mean(1, keepdims=True)
    spread = anchors - centre
    turn = (spread.conj() @ (goal - goal.mean()) / (np.abs(spread) ** 2).sum(1))[:, None]
    aligned = (flat[:, LIPS] - centre) * turn + goal.mean()
    return float(100 * np.sqrt((np.abs(aligned - target[LIPS]) ** 2).mean()) / eye_distance(middle))


def _lip_edges(crop: ByteArray, mesh: FloatArray) -> float:
    unit = eye_distance(mesh)
    light = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)[..., 0], np.float32)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), 0.012 * unit), np.float32)
    along = mesh[291, :2] - mesh[61, :2]
    normal = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    shifts = np.arange(-8, 9) / 100
    places = np.linspace(1.5, 8.5, 40)  # the corners, where contours meet, are left out
    steepest = []
    for contour in MOUTH_CONTOURS:
        line = np.stack([np.interp(places, np.arange(11), mesh[contour, axis]) for axis in (0, 1)], -1)
        at = (line + (shifts * unit)[:, None, None] * normal).astype(np.float32)
        seen = cv2.remap(light, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
        mean = np.gradient(seen, shifts, axis=0).mean(1)
        steepest.append(np.abs(mean).max())
    low, high = mesh[:, :2].min(0).astype(int), mesh[:, :2].max(0).astype(int)
    face = light[max(int(mesh[9, 1]), 0) : high[1], max(low[0], 0) : high[0]]
    return float(np.mean(steepest) / (np.subtract(*np.percentile(face, [95, 5])) + 1.0))
