"""``python -m training all``: every step, one after another; or one of them alone.

keypoints -> life -> emotions -> voice -> contact -> motion (build/motion.pt) -> ONNX files -> evaluation. Takes the
tracks of ``../shared/data`` (or KDTALKER_DATA) and writes ``engines/weights/embedded``.

``--videos DIR`` instead of a step: your own clips, tracked, checked, learned and written to ``--out``
(docs/training.md).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small products: one thread is faster than two

import numpy as np
import torch
from rich.console import Console

from engines.face_mesh import face_model
from engines.profile import PROFILES
from training import keypoints as keypoint_fit
from training.card import results, write_card
from training.contact import fit_contact
from training.corpus import Item, items_of
from training.distil import STUDENT, Lessons, distil
from training.emotions import fit_emotions, save_emotions
from training.evaluate import PARTS, evaluate
from training.life import fit_life, save_life
from training.own import train_on_videos
from training.shapes import first_template, shapes_of
from training.tracks import REPOSITORY, Clip, data_folder, read_clips
from training.train import SAMPLING, Recipe, train
from training.voice import fit_voice

console = Console()
WEIGHTS = keypoint_fit.WEIGHTS
PERMISSIVE_MIX = {"grid_s1": 0.4, "clips": 0.6}
LESSONS = REPOSITORY / "build" / "lessons"
CHECKPOINT = REPOSITORY / "build" / "motion.pt"
REGRESSION = REPOSITORY / "build" / "regression.pt"


def permitted(clip: Clip) -> bool:
    """Whether the permissively licensed variant may learn from a clip (``permissive.json``)."""
    decisions = json.loads((REPOSITORY / "training" / "permissive.json").read_text())
    entry = decisions["datasets"].get(clip.dataset) or decisions["clips"].get(clip.name, {"use": False})
    return bool(entry["use"])


def _learn_from(permissive: bool) -> list[Clip]:
    clips = [clip for clip in read_clips(data_folder()) if clip.split != "held_out"]
    return [clip for clip in clips if clip.split == "val" or not permissive or permitted(clip)]


def fit_keypoints(_: argparse.Namespace) -> None:
    """Write ``keypoints.npz``; print what it explains."""
    clips = _learn_from(permissive=False)
    template, mirror = first_template([clip for clip in clips if clip.split == "train"])
    shapes = shapes_of(clips, template)
    tables = keypoint_fit.fit([shape for shape in shapes if shape.clip.split == "train"], template, mirror)
    tables.save(WEIGHTS / "keypoints.npz")
    for line in keypoint_fit.describe(tables):
        console.print(line)
    for split in ("train", "val"):
        console.print(split, keypoint_fit.explained(tables, [s for s in shapes if s.clip.split == split]))


def fit_motion_of_life(_: argparse.Namespace) -> None:
    """Write ``life.npz``: head sway and blinks."""
    clips = [clip for clip in _learn_from(permissive=False) if clip.split == "train"]
    face = face_model()
    save_life(fit_life(items_of(shapes_of(clips, face.template)), face), WEIGHTS / "life.npz")


def fit_faces_of_emotion(_: argparse.Namespace) -> None:
    """Write ``emotions.npz``: what each emotion adds to the expression."""
    clips = [clip for clip in _learn_from(permissive=False) if clip.split == "train"]
    face = face_model()
    _, mirror = first_template(clips)
    shapes = shapes_of([clip for clip in clips if clip.dataset == "clips"], face.template)
    save_emotions(fit_emotions(shapes, face, mirror), WEIGHTS / "emotions.npz")


def fit_presence_of_voice(_: argparse.Namespace) -> None:
    """Write ``voice.npz``: whether somebody speaks."""
    torch.set_num_threads(1)
    items = items_of(shapes_of(_learn_from(permissive=False), face_model().template))
    console.print(fit_voice(items, WEIGHTS / "voice.npz"))


def fit_touching_lips(_: argparse.Namespace) -> None:
    """Write ``contact.npz``: when lips touch, and how a mouth closes."""
    torch.set_num_threads(1)
    face = face_model()
    items = items_of(shapes_of(_learn_from(permissive=False), face.template))
    console.print(fit_contact(items, face, WEIGHTS / "contact.npz"))


def fit_motion(arguments: argparse.Namespace) -> None:
    """Train the denoiser; write the checkpoint."""
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
    if arguments.permissive:
        recipe = replace(recipe, mix=PERMISSIVE_MIX)
    _fit(recipe, _learn_from(arguments.permissive), arguments.checkpoint)


def _fit(recipe: Recipe, clips: list[Clip], path: Path) -> None:
    torch.set_num_threads(1)
    best = train(recipe, *_material(clips), path)
    console.print(f"chose step {best.step}; wrote {path}")


def _material(clips: list[Clip]) -> tuple[list[Item], np.ndarray[Any, Any]]:
    """What is learned, and how a face is mirrored."""
    _, mirror = first_template([clip for clip in clips if clip.split == "train"])
    return items_of(shapes_of(clips, face_model().template)), mirror


def fit_student(arguments: argparse.Namespace) -> None:
    """Teach the student what the teachers answer on average; write the checkpoint."""
    torch.set_num_threads(1)
    items, mirror = _material(_learn_from(permissive=False))
    student = arguments.student or arguments.teachers[0]
    lessons = Lessons(arguments.lessons, tuple(arguments.teachers))
    best = distil(student, lessons, items, mirror, replace(STUDENT, seed=arguments.seed), arguments.checkpoint)
    console.print(f"chose step {best.step}; wrote {arguments.checkpoint}")


def fit_regression(arguments: argparse.Namespace) -> None:
    """Train the same network to answer at once, without noise: what the evaluation compares with."""
    recipe = Recipe(
        seed=arguments.seed,
        steps=arguments.steps,
        regression=True,
        sampling=replace(SAMPLING, steps=1),
        guidance=(1.0, 1.0),
        temperature=(0.0, 0.0),
    )
    _fit(recipe, _learn_from(permissive=False), arguments.regression)


def measure(arguments: argparse.Namespace) -> None:
    """Evaluate the exported files on every group of clips; write figures, plots and the card."""
    shapes = shapes_of(read_clips(data_folder()), face_model().template)
    checkpoints = arguments.checkpoints or [arguments.checkpoint]
    parts = arguments.parts or PARTS
    figures = evaluate(shapes, WEIGHTS, checkpoints, data_folder(), arguments.regression, arguments.before, parts)
    write_card(WEIGHTS, checkpoints[0], data_folder())
    for line in results(figures):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def everything(arguments: argparse.Namespace) -> None:
    """All steps."""
    tables = (fit_keypoints, fit_motion_of_life, fit_faces_of_emotion, fit_presence_of_voice, fit_touching_lips)
    for step in (*tables, fit_motion):
        step(arguments)
    # By name, as training and export do not know each other.
    subprocess.run([sys.executable, "-m", "export.to_onnx", str(arguments.checkpoint)], check=True, cwd=REPOSITORY)
    measure(arguments)


STEPS = {
    "keypoints": fit_keypoints,
    "life": fit_motion_of_life,
    "emotions": fit_faces_of_emotion,
    "voice": fit_presence_of_voice,
    "contact": fit_touching_lips,
    "motion": fit_motion,
    "distil": fit_student,
    "regression": fit_regression,
    "evaluate": measure,
    "all": everything,
}


def _add_videos(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("your own clips")
    group.add_argument("--videos", type=Path, metavar="DIR", help="films with sound; a folder inside is one person")
    group.add_argument("--out", type=Path, default=Path("trained"), metavar="DIR", help="result (default: trained)")
    group.add_argument("--profile", choices=list(PROFILES), default="embedded", help="what to train")
    group.add_argument("--resume", action="store_true", help="go on from the last check of the run in --out")
    group.add_argument("--patience", type=int, default=6, help="checks without improvement that end it (default: 6)")
    group.add_argument("--check-every", type=int, default=250, help="steps between checks (default: 250)")
    group.add_argument("--frames", type=int, default=Recipe().frames, help="frames in a batch (default: %(default)s)")
    group.add_argument("--batches", type=int, help="batches of a step (default: as many as processes)")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    group.add_argument("--threads", type=int, help="of a CPU (default: 1, for kdtalker all)")
    group.add_argument("--syncnet", type=Path, metavar="FILE", help="SyncNet weights, to measure LSE-C and LSE-D")
    group.add_argument("--weights", metavar="DIR|random:N", help="published weights, with --profile kdtalker")
    group.add_argument("--scratch", action="store_true", help="with --profile kdtalker: not from published weights")


def main(argv: list[str] | None = None) -> int:
    """`kdtalker train`, which is `python -m training`."""
    parser = argparse.ArgumentParser(
        prog="kdtalker train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--permissive", action="store_true", help="learn from permissively licensed clips only")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--teachers", type=Path, nargs="+", help="distil: checkpoints whose mean answer is learned")
    parser.add_argument("--student", type=Path, help="distil: the checkpoint that learns (default: the first teacher)")
    parser.add_argument("--lessons", type=Path, default=LESSONS, help="distil: a folder for 5 GB of what they answer")
    parser.add_argument("--checkpoints", type=Path, nargs="+", help="evaluate: the exported one, then other seeds'")
    parser.add_argument("--regression", type=Path, default=REGRESSION, help="checkpoint of the step regression")
    parser.add_argument("--parts", choices=PARTS, nargs="+", help="evaluate: measure these anew, keep the others")
    parser.add_argument("--before", type=Path, help="evaluate: exported files of an earlier model, for comparison")
    _add_videos(parser)
    arguments = parser.parse_args(argv)
    if (arguments.step is None) == (arguments.videos is None):
        parser.error("name a step, or your own clips with --videos DIR")
    if arguments.step == "distil" and not arguments.teachers:
        parser.error("distil learns from --teachers CHECKPOINT ...")
    if arguments.videos is not None:
        train_on_videos(arguments)
    else:
        STEPS[arguments.step](arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
