"""Motion templates: what a face did in one video, saved to be done again by the same or another face."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.types import FPS, MOTION_WIDTH, FloatArray, KDTalkerError

VERSION = 1


@dataclass(frozen=True, slots=True)
class MotionClip:
    """`rows` f32 (T, 70): motion of every frame, placed on the photo whose own motion is `made_on` (70,)."""

    profile: str
    rows: FloatArray
    made_on: FloatArray


def save_motion(path: Path, clip: MotionClip) -> None:
    """Write the clip as an npz file under exactly this name."""
    try:
        with path.open("wb") as file:
            np.savez(file, version=VERSION, fps=FPS, profile=clip.profile, rows=clip.rows, made_on=clip.made_on)
    except OSError as error:
        raise KDTalkerError(f"{path} cannot be written ({error.strerror}).") from error


def load_motion(path: Path, profile: str) -> MotionClip:
    """The clip in a file that `save_motion` wrote for the same profile; raises KDTalkerError for any other."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            version, made_for = int(archive["version"]), str(archive["profile"])
            rows, made_on = (np.asarray(archive[name], np.float32) for name in ("rows", "made_on"))
    except FileNotFoundError:
        raise KDTalkerError(f"There is no file {path}.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise KDTalkerError(f"{path} is no motion file or is damaged; `--save-motion` writes them.") from error
    if version != VERSION or rows.ndim != 2 or rows.shape[1:] != (MOTION_WIDTH,) or made_on.shape != (MOTION_WIDTH,):
        raise KDTalkerError(f"{path} is a motion file of another version; save it again with `--save-motion`.")
    if made_for != profile:
        raise KDTalkerError(f"{path} was made with the profile '{made_for}'; render with `--profile {made_for}`.")
    if not len(rows) or not np.isfinite(rows).all() or not np.isfinite(made_on).all():
        raise KDTalkerError(f"{path} holds no motion or impossible numbers.")
    return MotionClip(made_for, rows, made_on)
