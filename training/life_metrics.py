"""How alive the head and the eyes are, against tracked people."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.audio import mel_windows
from engines.face_mesh import FaceModel
from engines.life import life_model, loudness
from engines.profile import EMBEDDED
from engines.types import FPS, FloatArray
from training.corpus import Item, lid_curve

BLINK = -0.05  # change of the lids' gap, eye distances


def life(face: FaceModel, poses: list[FloatArray], lids: list[FloatArray]) -> dict[str, Any]:
    """Blinks a minute, and how the head moves.

    `poses` (T, 7) in physical units, `lids` (T,) change of the lids' gap. Deviation and speed in degrees
    and degrees a frame, correlation with the pose one second later.
    """
    blinks = sum(int(((lid[1:] < BLINK) & (lid[:-1] >= BLINK)).sum()) for lid in lids)
    angles = [pose[:, 1:4] for pose in poses]
    later = [[np.corrcoef(a[:-FPS, k], a[FPS:, k])[0, 1] for k in range(3)] for a in angles]
    return {
        "blinks_a_minute": round(blinks / sum(map(len, lids)) * FPS * 60, 1),
        "deviation": _median([a.std(0) for a in angles], 1),
        "speed": _median([np.abs(np.diff(a, axis=0)).mean(0) for a in angles], 2),
        "after_a_second": _median(later, 2),
    }


def _median(rows: list[Any], digits: int) -> list[float]:
    """Median over clips: a few people turn their heads far more than the others."""
    return [round(float(value), digits) for value in np.median(rows, axis=0)]


def life_table(face: FaceModel, items: list[Item]) -> dict[str, Any]:
    """Real heads and eyes beside generated ones, in speech and in two minutes of silence."""
    natural = [i for i in items if i.clip.dataset == "clips" and len(i.motion) > 150]
    model = life_model()
    normalisation = face.normalisation
    real = life(
        face,
        [normalisation.denormalise(i.motion)[:, :7] for i in natural],
        [lid_curve(i.motion, face) for i in natural],
    )
    levels = [np.array([loudness(w) for w in mel_windows(i.mel.T, EMBEDDED.mel, len(i.motion))]) for i in natural]
    table = {"real": real}
    for name, sounds in (("speech", levels), ("silence", [np.zeros(3000)])):
        poses, lids = [], []
        for seed, level in enumerate(sounds):
            pose, lid, _ = model.advance(model.begin(seed), level)
            still = np.tile(normalisation.mean, (len(pose), 1))
            still[:, 7:] = 0
            poses.append(pose)
            lids.append(lid_curve(normalisation.normalise(model.apply(still, pose, lid)), face))
        table[name] = life(face, poses, lids)
    return table
