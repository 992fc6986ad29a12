"""What views, backgrounds and a recording cost.

    kdtalker bench views [PHOTO ...] [--pictures 100] [--out views.json]

For every view and background: CPU time of preparing it, and of a picture on one thread (median over pictures of all
photos; default: those that ship). For a recording: CPU time of its thread for a picture with its sound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from benchmarks.machine import machine
from engines import motion
from engines.controls import BACKGROUNDS, VIEWS
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import prepare
from engines.profile import EMBEDDED
from engines.renderer import Renderer, open_renderer
from engines.types import FPS, PLAYBACK_SAMPLES, ByteArray, FloatArray, Identity
from server.recording import STOPPED, Bounds, Recording


def swaying(identity: Identity, pictures: int) -> FloatArray:
    """Motion (pictures, 70): the head goes round."""
    rows = np.repeat(identity.source[None], pictures, 0)
    turn = 2 * np.pi * np.arange(pictures) / FPS
    rows[:, motion.ANGLES] += np.stack([6 * np.sin(turn), 3 * np.cos(turn), 2 * np.sin(turn / 2)], 1)
    return np.asarray(rows, np.float32)


def look(
    renderer: Renderer, identities: list[Identity], view: str, background: str, pictures: int
) -> dict[str, object]:
    """Milliseconds of one view with one background."""
    prepared, shown, size = [], [], (0, 0)
    for identity in identities:
        begun = time.thread_time()
        staged = renderer.staged(identity, view, background)
        prepared.append(time.thread_time() - begun)
        size = max(size, staged.size)
        for row in swaying(identity, pictures):
            begun = time.thread_time()
            staged(row)
            shown.append(time.thread_time() - begun)
    return {
        "view": view,
        "background": background,
        "largest": list(size),
        "prepare_ms": round(1000 * float(np.median(prepared)), 1),
        "picture_ms": round(1000 * float(np.median(shown)), 2),
        "picture_p95_ms": round(1000 * float(np.percentile(shown, 95)), 2),
    }


async def recorded(frames: ByteArray) -> dict[str, float]:
    """CPU milliseconds of a picture u8 (n, h, w, 3) with its sound, and bytes of a second of film."""
    chance = np.random.default_rng(0)
    sound = (2000 * chance.standard_normal((len(frames), PLAYBACK_SAMPLES))).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        path = Path(folder) / "film.mp4"
        recording = Recording(path, frames[0], Bounds(3600, 1 << 32, 0), lambda: None, "bench")
        for tick, picture in enumerate(frames):
            recording.sound(tick, sound[tick])
            recording.picture(tick, picture)
            while recording.waiting > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        recording.stop(STOPPED)
        await recording.closed()
        used = time.process_time() - begun
        return {
            "picture_ms": round(1000 * used / len(frames), 2),
            "cores": round(used / len(frames) * FPS, 3),
            "bytes_a_second": round(path.stat().st_size * FPS / len(frames)),
        }


def views(argv: list[str]) -> int:
    """Milliseconds of every view and background, and of a recording."""
    parser = argparse.ArgumentParser(prog="kdtalker bench views", description=views.__doc__)
    parser.add_argument("photos", nargs="*", type=Path, help="portraits; default: those that ship")
    parser.add_argument("--pictures", type=int, default=100, help="of each photo; default: %(default)s")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    renderer = open_renderer(EMBEDDED)
    shipped = [entry for entry in files("engines").joinpath("avatars").iterdir() if entry.name[-4:] in (".jpg", ".png")]
    with FaceLandmarker() as landmarker:
        identities = [renderer.enrol(prepare(photo.read_bytes(), landmarker)) for photo in options.photos or shipped]
    console = Console()
    looks = [look(renderer, identities, view, ground, options.pictures) for view in VIEWS for ground in BACKGROUNDS]
    for one in looks:
        console.print(one)
    frames = renderer.render([identities[0]] * options.pictures, swaying(identities[0], options.pictures))
    film = asyncio.run(recorded(frames))
    console.print("recording", film)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "looks": looks, "recording": film}, indent=1) + "\n")
    return 0
