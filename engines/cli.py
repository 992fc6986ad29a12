"""`kdtalker render` and `kdtalker prepare`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engines.cache import cache_folder
from engines.controls import DEFAULT, Controls, add_options, chosen, steady
from engines.media import Speech, load_speech
from engines.motion_file import MotionClip, load_motion, save_motion
from engines.offline import conversation, motions, render_file
from engines.pipeline import Talker
from engines.portrait.identity_store import IdentityStore
from engines.portrait.prepare import digest_of
from engines.portrait.prepare import prepare as prepare_portrait
from engines.profile import EMBEDDED, KDTALKER, PROFILES
from engines.published.cropping import PasteBack
from engines.published.networks import PublishedNetworks, open_networks, torch_networks
from engines.published.weights_files import open_model
from engines.renderer import Staged
from engines.talkers import open_talker
from engines.types import FPS, FloatArray, Identity, KDTalkerError
from engines.warp.enrolment import VERSION


def read_photo(path: Path) -> bytes:
    """The bytes of a photo; raises KDTalkerError with a sentence when the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KDTalkerError(f"{path} cannot be read ({error.strerror}).") from error


def enrolled(talker: Talker, photo: bytes) -> Identity:
    """The face on a photo, from the cache where it was enrolled before; raises PortraitError."""

    def enrol() -> Identity:
        return talker.renderer.enrol(prepare_portrait(photo))

    if talker.profile.name != EMBEDDED.name:
        return enrol()  # what is read from a photo depends on the weights, which may change
    return IdentityStore(cache_folder() / "identities", VERSION).enrolled(talker.profile.name, digest_of(photo), enrol)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=Path, help="one portrait: a single face, looking at the camera")
    parser.add_argument("--profile", choices=list(PROFILES), default="embedded", help="default: embedded")


def _published_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --profile kdtalker")
    group.add_argument(
        "--weights",
        help="a folder with the published files, default: those `kdtalker weights` fetched; random:N for random ones, "
        "which need no files and show noise (for development); for the embedded profile a folder that "
        "`kdtalker train --videos` wrote",
    )
    group.add_argument(
        "--networks",
        type=Path,
        metavar="DIR",
        help="files that `kdtalker export` and `build` wrote, for ONNX Runtime or TensorRT, in place of the weights",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; default: a GPU where there is one")
    group.add_argument("--precision", default="float32", help="float32 (default) or float16")
    group.add_argument("--guidance", type=float, help="weight of the speech; default: 1, as trained")
    group.add_argument("--temperature", type=float, help="scale of the noise; default: 1, as trained")
    group.add_argument("--exact", action="store_true", help="KDTalker's own routine: whole clips, 50 steps, smoothed")
    group.add_argument("--relative", action="store_true", help="motion as change from the first frame")
    group.add_argument("--stitch", action="store_true", help="keep the picture's border where the photo's is")
    group.add_argument("--full-frame", action="store_true", help="put the face back into the whole photo")


@dataclass(frozen=True, slots=True)
class Take:
    """All that a rendering needs: who renders whom, and, where they are not the talker's own, which motion and where
    the pictures go."""

    talker: Talker
    identity: Identity
    rows: Iterable[FloatArray] | None = None
    paste: PasteBack | None = None


def _embedded_take(options: argparse.Namespace, photo: bytes) -> Take:
    foreign = [
        f"--{name.replace('_', '-')}"
        for name in ("exact", "relative", "stitch", "full_frame", "networks", "guidance", "temperature")
        if getattr(options, name) not in (None, False)
    ]
    if foreign:
        raise KDTalkerError(f"{', '.join(foreign)} needs `--profile kdtalker`.")
    talker = open_talker(options.profile, options.weights, options.hop)
    return Take(talker, enrolled(talker, photo))


def _published_networks(options: argparse.Namespace) -> PublishedNetworks:
    if options.networks is None:
        model = open_model(options.weights, cache_folder(), options.device, options.precision)
        return torch_networks(model, guided=options.guidance not in (None, 1))
    if options.weights is not None:
        raise KDTalkerError("--networks and --weights name the same thing twice; give one of them.")
    device = "cpu" if options.device == "auto" else options.device
    return open_networks(options.networks, device, options.precision)


def _published_take(options: argparse.Namespace, photo: bytes, speech: Speech) -> Take:
    networks = _published_networks(options)
    from engines.published import exact
    from engines.published.talker import find_face, published_talker

    talker, renderer = published_talker(
        networks,
        relative=options.relative,
        stitch=options.stitch,
        hop=options.hop,
        guidance=1.0 if options.guidance is None else options.guidance,
        temperature=1.0 if options.temperature is None else options.temperature,
    )
    face = find_face(photo, upright=options.full_frame)
    identity = renderer.enrol_face(face.pixels, face.digest, exact=options.exact)
    rows = None
    if options.exact and not options.motion:
        clip = exact.clip_motion(networks, identity, speech.pcm, options.seed)
        controls = chosen(options)
        talker.placing.offer.require(controls)
        rows, _ = talker.placing.place(
            identity.source, clip, np.zeros(len(clip), np.float32), steady(controls, len(clip)), None
        )
    paste = PasteBack.into(face.photo, face.to_photo) if options.full_frame else None
    return Take(talker, identity, rows, paste)


def _rows(take: Take, options: argparse.Namespace, speech: Speech, other: Speech | None) -> Iterable[FloatArray]:
    """Motion of every frame, from the file that is to be replayed or kept for the file that is to be saved."""
    controls = chosen(options)
    if options.motion:
        if other is not None:
            raise KDTalkerError("What the face hears is part of saved motion: leave --listen out with --motion.")
        if replace(controls, view=DEFAULT.view, background=DEFAULT.background, mark=DEFAULT.mark) != DEFAULT:
            raise KDTalkerError("What the face does is part of saved motion: leave the controls out with --motion.")
        clip = load_motion(options.motion, take.talker.profile.name)
        return take.talker.placing.transfer(take.identity.source, clip.rows, clip.made_on)
    rows = take.rows
    if rows is None:
        made = motions(take.talker, take.identity, speech, options.seed, controls, other)
        rows = (tick.motion for tick in made)
    if options.save_motion:
        rows = np.stack(list(rows))
        save_motion(options.save_motion, MotionClip(take.talker.profile.name, rows, take.identity.source))
    return rows


def _staged(take: Take, controls: Controls) -> Staged | None:
    """The view and background asked for; None leaves the crop to be rendered in batches."""
    take.talker.placing.offer.require(controls)
    look = controls.view, controls.background
    return None if look == (DEFAULT.view, DEFAULT.background) else take.talker.renderer.staged(take.identity, *look)


def render(argv: list[str]) -> int:
    """Photo and speech to an MP4: H.264 + AAC, 25 frames a second, as long as the speech."""
    parser = argparse.ArgumentParser(prog="kdtalker render", description=render.__doc__)
    _common(parser)
    parser.add_argument("speech", type=Path, help="any sound file (WAV, FLAC, MP3 ...)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the MP4 file to write")
    parser.add_argument(
        "--listen",
        type=Path,
        metavar="OTHER",
        help="what somebody else says meanwhile: the avatar nods along where it does not speak itself; both are heard",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same video; default: 0")
    parser.add_argument("--hop", type=int, metavar="TICKS", help="1 to 16 frames generated at once; default: 2")
    parser.add_argument("--save-motion", type=Path, metavar="FILE", help="also save the motion, for --motion")
    parser.add_argument(
        "--motion", type=Path, metavar="FILE", help="replay saved motion instead of following the speech"
    )
    add_options(parser)
    _published_options(parser)
    options = parser.parse_args(argv)
    chosen(options)  # what is wrong with them is said before the work begins

    console = Console(stderr=True)
    photo, speech, other = read_photo(options.photo), load_speech(options.speech), None
    if options.listen is not None:
        if options.profile != EMBEDDED.name:
            raise KDTalkerError("--listen needs the embedded profile: the published one knows speakers only.")
        speech, other = conversation(speech, load_speech(options.listen))
    with console.status("Preparing"):
        published = options.profile == KDTALKER.name
        take = _published_take(options, photo, speech) if published else _embedded_take(options, photo)
        rows = _rows(take, options, speech, other)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("Rendering", total=speech.frames, speed="")

        def show(done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(bar, completed=done, speed=f"{speed:.2g} frames/s" if speed else "")

        controls = chosen(options)
        count = render_file(
            take.talker,
            take.identity,
            speech,
            rows,
            options.out,
            paste=take.paste,
            staged=_staged(take, controls),
            mark=controls.mark,
            on_progress=show,
        )
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
