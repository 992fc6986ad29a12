"""`kdtalker render` and `kdtalker prepare`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engines.enrolment import VERSION
from engines.identity_store import IdentityStore
from engines.media import load_speech
from engines.offline import render_file
from engines.pipeline import Talker, open_talker
from engines.portrait import digest_of
from engines.portrait import prepare as prepare_portrait
from engines.profile import PROFILES
from engines.types import FPS, Identity, KDTalkerError


def cache_folder() -> Path:
    """Where enrolled faces are kept: the XDG cache directory unless KDTALKER_CACHE names another."""
    base = os.environ.get("KDTALKER_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdtalker"


def read_photo(path: Path) -> bytes:
    """The bytes of a photo; raises KDTalkerError with a sentence when the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KDTalkerError(f"{path} cannot be read ({error.strerror}).") from error


def enrolled(talker: Talker, photo: bytes) -> Identity:
    """The face on a photo, from the cache where it was enrolled before; raises PortraitError."""
    store = IdentityStore(cache_folder() / "identities", VERSION)
    return store.enrolled(talker.profile.name, digest_of(photo), lambda: talker.renderer.enrol(prepare_portrait(photo)))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=Path, help="one portrait: a single face, looking at the camera")
    parser.add_argument("--profile", choices=list(PROFILES), default="embedded", help="default: embedded")


def render(argv: list[str]) -> int:
    """Photo and speech to an MP4: H.264 + AAC, 25 frames a second, as long as the speech."""
    parser = argparse.ArgumentParser(prog="kdtalker render", description=render.__doc__)
    _common(parser)
    parser.add_argument("speech", type=Path, help="any sound file (WAV, FLAC, MP3 ...)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the MP4 file to write")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same video; default: 0")
    options = parser.parse_args(argv)

    console = Console(stderr=True)
    speech = load_speech(options.speech)
    talker = open_talker(options.profile)
    with console.status("Preparing the photo"):
        identity = enrolled(talker, read_photo(options.photo))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("Rendering", total=speech.frames, speed="")

        def show(done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(bar, completed=done, speed=f"{speed:.0f} frames/s" if speed else "")

        count = render_file(talker, identity, speech, options.out, seed=options.seed, on_progress=show)
    console.print(f"{options.out}: {count} frames, {count / FPS:.2f} s")
    return 0


def prepare(argv: list[str]) -> int:
    """Check a photo, enrol the face on it and keep the result, so that later starts are quick."""
    parser = argparse.ArgumentParser(prog="kdtalker prepare", description=prepare.__doc__)
    _common(parser)
    options = parser.parse_args(argv)
    talker = open_talker(options.profile)
    identity = enrolled(talker, read_photo(options.photo))
    Console().print(f"{options.photo} is ready: {identity.digest[:16]}")
    return 0
