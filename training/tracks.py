"""Reader for face-mesh tracks with their sound (the packed layout of ``../shared/data/talking``).

A file pair holds many clips: ``<base>.npz`` with quantised landmark differences and ``<base>.flac`` or
``<base>.ogg`` with 16 kHz sound. Tracks run at 25 frames a second; frame k covers samples 640 k onwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from engines.types import SPEECH_RATE, SPEECH_SAMPLES, FloatArray, KDTalkerError

REPOSITORY = Path(__file__).resolve().parent.parent
HELD_OUT = REPOSITORY / "training" / "held_out.json"
STEPS = 1024  # of quantisation in one eye distance


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of one person.

    `mesh` f32 (T, 478, 3) in source pixels, `sound` f32 (640 T,). `split` is ``train``, ``val`` (for
    choosing) or ``held_out`` (for the final table only). `person` groups clips that may share a face.
    """

    dataset: str
    name: str
    person: str
    split: str
    mesh: FloatArray
    sound: FloatArray


def data_folder() -> Path:
    """Where the tracks are: KDTALKER_DATA, else ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("KDTALKER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "talking" / "index.json").is_file():
        raise KDTalkerError(
            f"No training data in {root}: expected talking/index.json there. Set KDTALKER_DATA to the folder."
        )
    return root


def read_index(root: Path) -> dict[str, Any]:
    """``talking/index.json``: data sets, files, sources, licences."""
    index: dict[str, Any] = json.loads((root / "talking" / "index.json").read_text())
    return index


def held_out_names() -> frozenset[str]:
    return frozenset(json.loads(HELD_OUT.read_text())["clips"])


def _read_sound(base: Path) -> FloatArray:
    path = next((base.with_suffix(ending) for ending in (".flac", ".ogg") if base.with_suffix(ending).is_file()), None)
    if path is None:
        raise KDTalkerError(f"{base}.npz has no sound beside it (.flac or .ogg).")
    sound, rate = soundfile.read(path, dtype="float32")
    if rate != SPEECH_RATE:
        raise KDTalkerError(f"{path} is sampled at {rate} Hz; tracks need {SPEECH_RATE} Hz.")
    return np.asarray(sound, np.float32)


def _unpack(base: Path) -> Iterator[tuple[str, FloatArray, FloatArray]]:
    """(name, mesh, sound) of every clip of one file pair."""
    with np.load(base.with_suffix(".npz")) as archive:
        start, step, center = archive["start"], archive["step"], archive["center"]
        differences, names = archive["dq"], archive["names"]
    sound = _read_sound(base)
    for i, name in enumerate(names):
        frames = slice(int(start[i]), int(start[i + 1]))
        steps = np.cumsum(differences[frames].astype(np.int32), axis=0).astype(np.float32)
        mesh = steps * step[i] + center[frames, None, :]
        samples = sound[frames.start * SPEECH_SAMPLES : frames.stop * SPEECH_SAMPLES]
        wanted = (frames.stop - frames.start) * SPEECH_SAMPLES
        yield str(name), mesh.astype(np.float32), np.pad(samples, (0, wanted - len(samples)))


def pack(base: Path, name: str, mesh: FloatArray, sound: FloatArray) -> None:
    """Write one clip as a file pair: `mesh` f32 (T, 478, 3) in pixels, `sound` f32 (640 T,)."""
    center = mesh.mean(1)
    step = np.float32(np.linalg.norm(mesh[:, 33] - mesh[:, 263], axis=-1).mean() / STEPS)
    places = np.round((mesh - center[:, None]) / step).astype(np.int32)
    base.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(base.with_suffix(".flac"), np.clip(sound, -1, 1), SPEECH_RATE)
    np.savez_compressed(
        base.with_suffix(".npz"),
        dq=np.concatenate([places[:1], np.diff(places, axis=0)]).astype(np.int16),
        center=center.astype(np.float32),
        step=np.array([step], np.float32),
        start=np.array([0, len(mesh)], np.int32),
        names=np.array([name]),
    )


def unpack(base: Path) -> tuple[FloatArray, FloatArray]:
    """Mesh and sound of a file pair that `pack` wrote, the mesh within half a step."""
    ((_, mesh, sound),) = _unpack(base)
    return mesh, sound


def read_clips(root: Path, datasets: tuple[str, ...] = ("grid_s1", "lrcar", "clips")) -> list[Clip]:
    """Every clip of the named data sets. Held-out clips carry the split ``held_out`` whatever the index says."""
    folder, held_out, clips = root / "talking", held_out_names(), []
    for dataset in read_index(root)["datasets"]:
        if dataset["id"] not in datasets:
            continue
        clusters = {}
        if dataset["id"] == "lrcar":
            clusters = json.loads((folder / "lrcar" / "clips.json").read_text())
        for entry in dataset["files"]:
            for name, mesh, sound in _unpack(folder / entry["file"]):
                person = entry.get("identity") or (f"lrcar{clusters[name]['cluster']}" if clusters else dataset["id"])
                stem = Path(entry["file"]).name
                split = "held_out" if dataset["id"] == "clips" and stem in held_out else entry["split"]
                label = stem if dataset["id"] == "clips" else name
                clips.append(Clip(dataset["id"], label, person, split, mesh, sound))
    return clips
