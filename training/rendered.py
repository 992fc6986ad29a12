"""Lips measured again on rendered video: sound through the live pipeline onto portraits, frames through the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engines.face_mesh import FaceModel
from engines.media import Speech
from engines.offline import frames, motions
from engines.pipeline import Talker
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import prepare
from engines.types import FRAME_SIZE, ByteArray, FloatArray, Identity
from training.bench import Bench
from training.corpus import Item, mouth_numbers
from training.keypoints import motion_of
from training.lips import SEEDS
from training.metrics import FIGURES, score_rows
from training.shapes import shapes_of
from training.tracks import Clip

SHEET_COLUMNS, SHEET_SIDE, SHEET_EVERY = 8, 150, 5
SHEET_PART = np.s_[FRAME_SIZE * 35 // 100 : FRAME_SIZE * 85 // 100, FRAME_SIZE // 4 : FRAME_SIZE * 3 // 4]


def rendered(bench: Bench, talker: Talker, items: Sequence[Item], photos: dict[str, Path]) -> dict[str, Any]:
    """Correlation and amplitude of opening, width and jaw in rendered frames, means over clips and portraits.

    "ours": with the true clip. "driving": with the motion that was rendered, what the renderer and the tracker lose.
    "true motion": the tracked person's lips put on the portrait, with the true clip; the ceiling of "ours".
    """
    rows: dict[str, list[FloatArray]] = {"ours": [], "driving": [], "true motion": []}
    with FaceLandmarker() as landmarker:
        for photo in photos.values():
            identity = talker.renderer.enrol(prepare(photo.read_bytes(), landmarker))
            for item in items:
                truth = bench.lips(item.motion)
                made = _motions(talker, identity, item)
                seen = seen_lips(bench, landmarker, frames(talker, identity, made), item)
                shown = seen_lips(bench, landmarker, frames(talker, identity, _with_lips(bench.face, made, item)), item)
                driving = bench.lips(bench.face.normalisation.normalise(made))
                rows["ours"].append(score_rows([seen], [truth])[0])
                rows["driving"].append(score_rows([seen], [driving])[0])
                rows["true motion"].append(score_rows([shown], [truth])[0])
    return {
        "portraits": list(photos),
        "clips": len(items),
        **{
            name: {key: round(float(value), 3) for key, value in zip(FIGURES, np.mean(each, axis=0), strict=True)}
            for name, each in rows.items()
        },
    }


def _motions(talker: Talker, identity: Identity, item: Item) -> FloatArray:
    """Motion (T, 70) of a clip's sound on a portrait, as a call would make it."""
    speech = Speech(item.clip.sound, np.empty(0, np.int16))
    ticks = motions(talker, identity, speech, SEEDS[0])
    return np.stack([tick.motion for tick in ticks])[: len(item.motion)]


def _with_lips(face: FaceModel, made: FloatArray, item: Item) -> FloatArray:
    """The same head with the tracked person's lips and jaw."""
    shown = made.copy()
    numbers = mouth_numbers(face)
    shown[:, numbers] = face.normalisation.denormalise(item.motion)[: len(made), numbers]
    return shown


def seen_lips(bench: Bench, landmarker: FaceLandmarker, pictures: Any, item: Item) -> FloatArray:
    """Opening, width, jaw (T, 3) that the tracker sees in u8 batches of pictures; a lost face keeps its last mesh."""
    meshes: list[FloatArray] = []
    for batch in pictures:
        for picture in batch:
            mesh = landmarker.mesh(picture)
            meshes.append(meshes[-1] if mesh is None else mesh)
    clip = Clip("clips", item.clip.name, "rendered", item.clip.split, np.stack(meshes), item.clip.sound)
    (shape,) = shapes_of([clip], bench.face.template)
    motion = motion_of(shape, bench.face.reading, bench.face.mouth, gain=1.0)
    return bench.lips(bench.face.normalisation.normalise(motion))


def contact_sheet(talker: Talker, bench: Bench, item: Item, photo: Path, path: Path, first: int = 10) -> None:
    """Frames of one clip, every fifth of a second: above with the tracked person's lips, below with ours."""
    with FaceLandmarker() as landmarker:
        identity = talker.renderer.enrol(prepare(photo.read_bytes(), landmarker))
    made = _motions(talker, identity, item)
    rows = []
    for motion in (_with_lips(bench.face, made, item), made):
        chosen = motion[first : first + SHEET_COLUMNS * SHEET_EVERY : SHEET_EVERY]
        rows.append(np.hstack([_small(picture) for batch in frames(talker, identity, chosen) for picture in batch]))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def _small(picture: ByteArray) -> ByteArray:
    """The lower part of the face."""
    return np.asarray(cv2.resize(picture[SHEET_PART], (SHEET_SIDE, SHEET_SIDE), interpolation=cv2.INTER_AREA), np.uint8)
