"""A checked portrait becomes an Identity: closed-lip rest, the photo's own motion, and every table frames need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import motion
from engines.face_mesh import FaceModel, to_unit
from engines.types import FRAME_SIZE, KEYPOINTS, FloatArray, Identity, Portrait
from engines.warp.eye_field import iris_rows
from engines.warp.eyelids import Eyelids, eyelid_tables
from engines.warp.head_field import node_rows, skin_mixing, survey
from engines.warp.lip_line import LipLine
from engines.warp.lips import LipModel, closed_rest, gaps_of
from engines.warp.mouth import MouthTables, mouth_tables
from engines.warp.mouth_interior import Interior, interior_tables
from engines.warp.stage import scene_tables
from engines.warp.warp_field import Lattice, supersample

VERSION = 8  # of the tables; identities cached by another version are enrolled anew
STEP = 4  # pixels between the nodes of the whole picture
PICTURE = Lattice(0, 0, FRAME_SIZE // STEP, FRAME_SIZE // STEP, STEP)


def enrol(face: FaceModel, profile: str, portrait: Portrait) -> Identity:
    """Prepare everything about this person that no frame changes; about half a second."""
    photo = supersample(portrait.crop)
    line = LipLine.of(portrait.mesh, photo)
    mesh = line.applied(portrait.mesh)
    placed = to_unit(mesh)
    pose = face.pose(placed)
    lips = LipModel.of(face)
    unposed = pose.remove(placed)
    expression = closed_rest(face, lips, unposed)
    canonical = unposed - face.offsets(expression)
    source = motion.pack(pose.scale, motion.angles_of(pose.matrix), pose.translation, expression)

    around = survey(mesh, portrait.crop)
    rows = node_rows(mesh, face.mixing, pose, around, PICTURE, skin_mixing(face))
    rows[:, -KEYPOINTS:] += iris_rows(mesh, face, PICTURE.points())
    tables: dict[str, NDArray[Any]] = {
        "photo": np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]),
        "rows": np.ascontiguousarray(rows.T),
        "lip_rest": np.maximum(gaps_of(canonical), 0),
    }
    parts: dict[str, MouthTables | Interior | Eyelids] = {
        "mouth": mouth_tables(mesh, line, face, pose, around, photo),
        "interior": interior_tables(mesh, line, canonical, face, photo, source),
        "eyelids": eyelid_tables(mesh, face, photo),
    }
    tables |= scene_tables(portrait.scene)
    for part, record in parts.items():
        tables |= {f"{part}.{field.name}": getattr(record, field.name) for field in fields(record)}
    return Identity(profile, portrait.digest, face.canonical_keypoints(canonical), source, portrait.crop, tables)


def mouth_of(tables: Mapping[str, NDArray[Any]]) -> MouthTables:
    """The mouth's tables back from the identity's."""
    return MouthTables(*(tables[f"mouth.{field.name}"] for field in fields(MouthTables)))


def interior_of(tables: Mapping[str, NDArray[Any]]) -> Interior:
    """The mouth interior's tables back from the identity's."""
    return Interior(*(tables[f"interior.{field.name}"] for field in fields(Interior)))


def eyelids_of(tables: Mapping[str, NDArray[Any]]) -> Eyelids:
    """The eyelids' tables back from the identity's."""
    return Eyelids(*(tables[f"eyelids.{field.name}"] for field in fields(Eyelids)))


def rest_gaps(tables: Mapping[str, NDArray[Any]]) -> FloatArray:
    """Openings (9,) of the inner-lip pairs at closed rest, eye distances."""
    return np.asarray(tables["lip_rest"], np.float32)
