"""``kdtalker train --videos DIR``: a model of your own from your own clips.

Films -> tracks (kept in the cache folder) -> offset of the sound -> training and validation clips ->
statistics -> training, which can be resumed -> ONNX files, curves and a table, all in one folder that
``--weights`` takes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engines.cache import cache_folder
from engines.face_mesh import FaceModel, face_model
from engines.life import life_model
from engines.motion import EXPRESSION
from engines.types import FPS, SPEECH_SAMPLES, KDTalkerError
from training.baselines import fit_loudness, loudness
from training.bench import open_bench
from training.corpus import MEASURES, Item, items_of
from training.gathering import Film, gather
from training.keypoints import WEIGHTS, motion_of, opening_gains
from training.life import blink_moments, fit_life, save_life
from training.metrics import lip_score
from training.plots import plot_lips, plot_training
from training.shapes import Shape, mirror_of, shapes_of
from training.sync_table import measure
from training.syncnet import load_syncnet
from training.team import Team, open_team
from training.tracks import REPOSITORY, Clip
from training.train import Recipe, train
from training.videos import TrackCache

VALIDATED = 0.12  # share of the frames that are kept for choosing, at least
PEOPLE = 4  # from so many on whole people are kept for it, with fewer whole clips
CUT = 0.15  # of a single clip
ENOUGH = 5.0  # minutes; with fewer the model mostly learns the clips by heart
BLINKS, SWAY = 12, 120.0  # blinks and seconds from which head and eyes can be fitted
SEEDS = (11, 23, 37)


def _order(name: str) -> str:
    """A fixed shuffle: adding clips moves few others from training to validation."""
    return hashlib.sha256(name.encode()).hexdigest()


def split(clips: Sequence[Clip]) -> list[Clip]:
    """The clips with ``train`` or ``val``: whole people where there are enough, else clips, else the end of the one
    clip. Raises KDTalkerError where there is too little for both."""
    if not clips:
        raise KDTalkerError("No clip can be learned from; the reasons stand above.")
    if len(clips) == 1:
        (clip,) = clips
        border = round((1 - CUT) * len(clip.mesh))
        if len(clip.mesh) < 10 * FPS:
            raise KDTalkerError("One clip of less than 10 s is too little to learn from and to check on; record more.")
        whole = clip.mesh, clip.sound
        parts = [(part, slice(*ends)) for part, ends in (("train", (0, border)), ("val", (border, len(whole[0]))))]
        return [
            replace(
                clip,
                name=f"{clip.name}, {part}",
                split=part,
                mesh=whole[0][frames],
                sound=whole[1][frames.start * SPEECH_SAMPLES : frames.stop * SPEECH_SAMPLES],
            )
            for part, frames in parts
        ]
    people = len({clip.person for clip in clips}) >= PEOPLE
    groups = [clip.person if people else f"{clip.person}/{clip.name}" for clip in clips]
    lengths = dict.fromkeys(sorted(set(groups), key=_order), 0)
    for group, clip in zip(groups, clips, strict=True):
        lengths[group] += len(clip.mesh)
    kept: set[str] = set()
    for group in lengths:
        enough = sum(lengths[name] for name in kept) >= VALIDATED * sum(lengths.values())
        if not enough and len(kept) < len(lengths) - 1:
            kept.add(group)
    return [replace(clip, split="val" if group in kept else "train") for group, clip in zip(groups, clips, strict=True)]


def statistics(shapes: list[Shape]) -> FaceModel:
    """The shipped keypoints with mean and deviation of these clips, half to twice the shipped deviation.

    Canonical keypoints keep the shipped statistics: by those of a few people everybody else would be an outlier.
    """
    face = face_model()
    gains = opening_gains(shapes)
    motion = np.concatenate([motion_of(s, face.reading, face.mouth, gains[s.clip.person]) for s in shapes])
    shipped = face.normalisation
    mean = shipped.mean.copy()
    mean[EXPRESSION] = motion[:, EXPRESSION].mean(0)
    std = np.clip(motion.std(0), 0.5 * shipped.std, 2 * shipped.std).astype(np.float32)
    return replace(face, normalisation=replace(shipped, mean=mean, std=std))


def save_tables(face: FaceModel, path: Path) -> None:
    """``keypoints.npz``."""
    normalisation = face.normalisation
    tables = {name: getattr(face, name) for name in ("mixing", "reading", "placing", "template", "mouth")}
    names = ("mean", "std", "canonical_mean", "canonical_std")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **tables, **{name: getattr(normalisation, name) for name in names})


def fit_own_life(items: list[Item], face: FaceModel, path: Path) -> str:
    """Write ``life.npz``, fitted where the clips hold enough of it; returns a sentence on what was done."""
    long = [item for item in items if len(item.motion) >= 4 * FPS]
    blinks = sum(len(blink_moments(item.motion, face)) for item in long)
    seconds = sum(len(item.motion) for item in long) / FPS
    if blinks >= BLINKS and seconds >= SWAY:
        save_life(fit_life(items, face), path)
        return f"Head, brows and eyes move as in the clips ({blinks} blinks in {seconds:.0f} s)."
    save_life(life_model(), path)
    return (
        f"Head, brows and eyes move as in the shipped model: {blinks} blinks in {seconds:.0f} s were found, "
        f"{BLINKS} in {SWAY:.0f} s are needed."
    )


def compare(items: list[Item], face: FaceModel, out: Path) -> dict[str, Any]:
    """Lips on the validation clips, generated as in a call: ours, the shipped model, loudness, foreign sound."""
    ours = open_bench(out, face)
    shipped = open_bench(WEIGHTS)
    val = [item for item in items if item.clip.split == "val"]
    truth = [ours.lips(item.motion) for item in val]
    line = fit_loudness([item for item in items if item.clip.split == "train"], ours.measures)
    made = {seed: [ours.lips(motion) for motion in ours.generate(val, seed)] for seed in SEEDS}
    systems = {
        "this model": list(made.values()),
        "shipped model": [[shipped.lips(m) for m in shipped.generate(val, seed)] for seed in SEEDS],
        "loudness to lips": [[np.asarray(loudness(item) @ line, np.float32) for item in val]],
        "this model, foreign sound": [[ours.lips(m) for m in ours.generate(val, SEEDS[0], shuffled=True)]],
    }
    if len(val) == 1:
        del systems["this model, foreign sound"]  # there is no other clip to take the sound from
    figures: dict[str, Any] = {}
    for name, runs in systems.items():
        scores = [lip_score(curves, truth) for curves in runs]
        figures[name] = {
            kind: {m: round(float(np.mean([getattr(score, kind)[m] for score in scores])), 3) for m in MEASURES}
            for kind in ("correlation", "amplitude")
        }
    curves = zip(val, truth, made[SEEDS[0]], strict=True)
    plot_lips([(item.clip.name, item.clip.sound, true, mine) for item, true, mine in curves], out / "lips.png")
    return figures


def _show_films(found: list[Film], console: Console) -> None:
    table = Table("film", "person", "seconds", "sound", "use", title="Clips")
    for film in found:
        seconds = "" if film.track is None else f"{len(film.track.mesh) / FPS:.1f}"
        offset = "" if film.offset is None else f"{film.offset} ({film.offset.agreement:.2f})"
        moved = film.clip is not None and film.track is not None and len(film.clip.mesh) < len(film.track.mesh)
        use = f"left out: {film.refused}" if film.refused else "corrected" if moved else "yes"
        table.add_row(film.path.name, film.person, seconds, offset, use)
    console.print(table)


def _show_lips(figures: dict[str, Any], console: Console) -> None:
    heads = ("opening", "width", "jaw", "amplitude opening", "width", "jaw")
    table = Table("system", *heads, title="Lips on the validation clips: correlation, amplitude")
    for name, score in figures.items():
        rows = (*score["correlation"].values(), *score["amplitude"].values())
        table.add_row(name, *(f"{value:.2f}" for value in rows))
    console.print(table)


def _measure_sync(found: list[Film], clips: list[Clip], options: argparse.Namespace, console: Console) -> Any:
    """LSE-D and LSE-C of validation films."""
    network = load_syncnet(options.syncnet)
    names = {(clip.person, clip.name.partition(", ")[0]) for clip in clips if clip.split == "val"}
    chosen = [(f.path, f.track) for f in found if f.track is not None and (f.person, f.path.stem) in names]
    figures = measure(network, chosen, options.out)
    table = Table("film", "of", "LSE-D", "LSE-C", title="Sync by SyncNet (less, more is better)")
    for film, rows in figures.items():
        for system, row in rows.items():
            table.add_row(film, system, f"{row['distance']:.2f}", f"{row['confidence']:.2f}")
    console.print(table)
    return figures


def train_embedded(
    found: list[Film], clips: list[Clip], options: argparse.Namespace, team: Team, console: Console
) -> None:
    """Tables, network, ONNX files, curves and figures of the embedded profile in ``options.out``."""
    out: Path = options.out
    shapes = shapes_of(clips, face_model().template)
    face = statistics([shape for shape in shapes if shape.clip.split == "train"])
    items = items_of(shapes, face)
    given = {name: getattr(options, name) for name in ("steps", "patience", "check_every", "frames", "seed")}
    recipe = replace(Recipe(mix={"clips": 1.0}, parts=options.batches or team.size), **given)
    checkpoint = out / "motion.pt"
    if team.leads:
        save_tables(face, out / "keypoints.npz")
        console.print(fit_own_life([i for i in items if i.clip.split == "train"], face, out / "life.npz"))
    best = train(recipe, items, mirror_of(face.template), checkpoint, face=face, team=team, resume=options.resume)
    if not team.leads:
        return
    console.print(f"chose step {best.step} of {best.history[-1]['step']}")
    # By name, as training and export do not know each other.
    command = [sys.executable, "-m", "export.to_onnx", str(checkpoint.resolve()), "--out", str(out.resolve())]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    plot_training(best.history, best.step, out / "training.png")
    figures = {"step": best.step, "lips": compare(items, face, out)}
    _show_lips(figures["lips"], console)
    if options.syncnet is not None:
        figures["sync"] = _measure_sync(found, clips, options, console)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    console.print(f"Try it: kdtalker render PHOTO SPEECH -o OUT.mp4 --weights {out}", soft_wrap=True)


def train_on_videos(options: argparse.Namespace) -> None:
    """The whole way from a folder of films to a folder of weights."""
    if options.syncnet is not None and not options.syncnet.is_file():
        raise KDTalkerError(f"There is no file {options.syncnet}.")
    torch.set_num_threads(options.threads or (1 if options.profile == "embedded" else os.cpu_count() or 1))
    with open_team(options.device) as team:
        console = Console(quiet=not team.leads)
        cache = TrackCache(cache_folder())
        found = gather(options.videos, cache, team, console)
        _show_films(found, console)
        clips = split([film.clip for film in found if film.clip is not None])
        minutes = {part: sum(len(c.mesh) for c in clips if c.split == part) / FPS / 60 for part in ("train", "val")}
        console.print(f"{minutes['train']:.1f} minutes to learn from, {minutes['val']:.1f} to choose by")
        if minutes["train"] < ENOUGH:
            console.print(f"Under {ENOUGH:.0f} minutes the model mostly learns the clips by heart; record more.")
        if team.leads:
            _write_films(found, clips, options.out / "clips.json")
        if options.profile == "kdtalker":
            from training.published import train_published

            train_published(found, clips, options, team, console)
        else:
            train_embedded(found, clips, options, team, console)


def _write_films(found: list[Film], clips: list[Clip], path: Path) -> None:
    """What became of every film, as JSON."""
    splits: dict[tuple[str, str], list[str]] = {}
    for clip in clips:
        splits.setdefault((clip.person, clip.name.partition(", ")[0]), []).append(clip.split)
    entries = [
        {
            "film": str(film.path),
            "person": film.person,
            "offset_frames": None if film.offset is None else film.offset.frames,
            "agreement": None if film.offset is None else round(film.offset.agreement, 3),
            "refused": film.refused,
            "use": splits.get((film.person, film.path.stem), []) if film.clip is not None else [],
        }
        for film in found
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n")
