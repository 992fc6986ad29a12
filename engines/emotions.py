"""The emotions of the embedded profile: what each adds to the expression, whatever is being said.

The table comes out of ``weights/embedded/emotions.npz``, fitted by ``python -m training emotions``.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from engines.controls import EMOTIONS
from engines.face_mesh import FaceModel, face_model
from engines.tables import tables
from engines.types import FloatArray


def emotion_offsets(face: FaceModel) -> FloatArray:
    """Offsets of exp at full strength f32 (E, 63), head frame, eye distances, for `EMOTIONS` but the first.

    Keypoints other than the shipped ones are given what moves the mesh alike. Raises WeightsError when the file is
    missing or not ours.
    """
    offsets, shipped = _shipped(), face_model()
    if face is shipped:
        return offsets
    return face.expression(shipped.offsets(offsets.reshape(len(offsets), -1, 3))).reshape(len(offsets), -1)


@cache
def _shipped() -> FloatArray:
    with tables("emotions.npz", "emotions") as archive:
        return np.stack([archive[name] for name in EMOTIONS[1:]])
