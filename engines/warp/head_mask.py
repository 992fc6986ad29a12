"""Where the head with its hair ends and the background begins, roughly.

Only the softness of the background's movement depends on it, so colour statistics are enough: a hole or a
spill of some pixels is never seen as an edge.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.types import FRAME_SIZE, ByteArray, FloatArray

SIDE = 128  # pixels, the crop while it is segmented
ROUNDS = 4
# In eye distances from the face's oval.
LIKELY_HAIR, FARTHEST_HAIR = 0.35, 1.15
ALWAYS_HEAD = 0.2
NECK, NECK_AND_HAIR = 0.3, 0.8  # half widths below the chin: surely the neck; the neck with hair beside it


def head_mask(crop: ByteArray, outline: FloatArray, chin: FloatArray, unit: float) -> NDArray[np.uint8]:
    """1 on head and hair, 0 elsewhere, u8 (512, 512); shoulders count only near the neck.

    `outline` (n, 2): the face's oval, `chin` (2,), both in crop pixels; `unit` the eye distance in pixels.
    """
    scale = SIDE / FRAME_SIZE
    small = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    face = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(face, [np.round(outline * scale * 16).astype(np.int32)], 1, shift=4)
    distance = np.asarray(cv2.distanceTransform(1 - face, cv2.DIST_L2, 5)) / (unit * scale)
    y, x = np.mgrid[:SIDE, :SIDE]
    below = y > chin[1] * scale
    beside = np.abs(x - chin[0] * scale) / (unit * scale)

    labels = np.full((SIDE, SIDE), cv2.GC_PR_BGD, np.uint8)
    labels[distance < LIKELY_HAIR] = cv2.GC_PR_FGD
    labels[below & (beside < NECK_AND_HAIR)] = cv2.GC_PR_FGD
    labels[(face > 0) | (below & (beside < NECK))] = cv2.GC_FGD
    labels[~below & (distance > FARTHEST_HAIR)] = cv2.GC_BGD
    labels[:3] = labels[: int(0.7 * SIDE), :3] = labels[: int(0.7 * SIDE), -3:] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # the colour clusters start from random ones
    behind, before = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, labels, (0, 0, 1, 1), behind, before, ROUNDS, cv2.GC_INIT_WITH_MASK)
    person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)) & (~below | (beside < NECK_AND_HAIR))
    person |= distance < ALWAYS_HEAD
    closed = cv2.morphologyEx(person.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    _, regions = cv2.connectedComponents(closed)
    middle = np.round(outline.mean(0) * scale).astype(int)
    head = np.asarray(regions == regions[middle[1], middle[0]], np.uint8)
    return np.asarray(cv2.resize(head, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_NEAREST), np.uint8)
