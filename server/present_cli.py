"""`kdtalker present`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Coroutine
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from engines.cli import read_photo
from engines.controls import add_options, chosen
from engines.media import load_speech
from engines.types import KDTalkerError
from server.cli import settings_of
from server.performance import Moment, Performance, open_performance
from server.present import Publisher
from server.present_outlet import Outlet, OutletError
from server.present_programme import Programme, Speaker, clock
from server.present_rtmp import RtmpOutlet, without_key
from server.present_script import read_script
from server.present_whip import WhipOutlet
from server.services import Services
from server.settings import Settings

AVATAR = "iris"
SMALLEST_BITRATE = 100_000


def present(argv: list[str]) -> int:
    """An avatar speaks, live, to an RTMP server or a WHIP endpoint, until all is said."""
    parser = argparse.ArgumentParser(prog="kdtalker present", description=present.__doc__)
    parser.add_argument("--to", required=True, metavar="URL", help="rtmp:// or rtmps://, or http(s):// for WHIP")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", type=Path, metavar="FILE", help="Markdown or plain text, which is read out")
    what.add_argument("--speech", type=Path, metavar="FILE", help="a sound file (WAV, FLAC, MP3 ...)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--avatar", default=AVATAR, help=f"a face that ships: {', '.join(_faces())}; default: %(default)s")
    who.add_argument("--photo", type=Path, help="one portrait: a single face, looking at the camera")
    parser.add_argument("--voice", metavar="NAME", help="that reads a script: en-us, de, en-us+f3 ...; default: en-us")
    parser.add_argument("--token", help="bearer token for a WHIP endpoint; default: KDTALKER_WHIP_TOKEN")
    parser.add_argument(
        "--bitrate", type=int, default=1_500_000, help="of the pictures, bits a second; default: %(default)s"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS", help="to find a lost endpoint again; default: 60"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed and speech, same pictures; default: 0")
    add_options(parser)
    options = parser.parse_args(argv)
    try:
        return asyncio.run(_present(options, Console(stderr=True)))
    except asyncio.CancelledError:  # by SIGTERM, after the endpoint was told
        return 128 + signal.SIGTERM


async def _present(options: argparse.Namespace, console: Console) -> int:
    settings = settings_of({})
    if options.bitrate < SMALLEST_BITRATE:
        raise KDTalkerError(f"--bitrate must be at least {SMALLEST_BITRATE}.")
    where, make = _way_out(options, settings)
    programme, services = Programme(), Services(settings)
    try:
        say = await _what(options, programme, services)
        with console.status("Preparing"):
            performance = open_performance(_photo(options), chosen(options), options.seed)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}")
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("Connecting", total=None, line=where)

            def shown(moment: Moment) -> bool:
                over = programme.shown(moment)
                said, total = programme.said, programme.total
                bar.update(task, description="On air", total=total, completed=said, line=str(programme))
                return over

            def told(what: str) -> None:
                bar.console.print(f"{where}: {what}", highlight=False)

            publisher = Publisher(performance, lambda: make(performance.size), options.patience, told)
            await _together(publisher.run(shown), say(performance, told))
    except OutletError as error:
        said = f" {programme} were spoken." if programme.said else ""
        raise OutletError(f"{where}: {error}.{said}") from error
    finally:
        await services.close()
    left = f"; {publisher.left_out} pictures left out: the machine or the line was busy" if publisher.left_out else ""
    console.print(f"{where}: {clock(programme.said)} spoken{left}", highlight=False)
    return 0


async def _what(
    options: argparse.Namespace, programme: Programme, services: Services
) -> Callable[[Performance, Callable[[str], None]], Coroutine[None, None, None]]:
    """What is to be said, read and checked before anything begins."""
    if options.speech is not None:
        speech = load_speech(options.speech)

        async def play(performance: Performance, told: Callable[[str], None]) -> None:
            programme.play(speech, performance)

        return play
    script = read_script(options.script)
    speaker = await Speaker.called(options.voice, services.voices)
    return lambda performance, told: programme.read(script, speaker, performance, told)


async def _together(publishing: Coroutine[None, None, None], saying: Coroutine[None, None, None]) -> None:
    """Until all is published; what one of them raises ends the other. SIGTERM ends both, as Ctrl-C does, and what is
    open is closed first.
    """
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None
    loop.add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(publishing)
            group.create_task(saying)
    except* KDTalkerError as errors:
        raise errors.exceptions[0] from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _photo(options: argparse.Namespace) -> bytes:
    if options.photo is not None:
        return read_photo(options.photo)
    if options.avatar not in (faces := _faces()):
        raise KDTalkerError(f"There is no avatar '{options.avatar}'; there are {', '.join(faces)}, and --photo.")
    return faces[options.avatar].read_bytes()


def _faces() -> dict[str, Traversable]:
    """Photos of the faces that ship, by name."""
    folder = files("engines").joinpath("avatars").iterdir()
    named = {entry.name.rpartition(".")[0]: entry for entry in folder if entry.name.endswith((".jpg", ".png"))}
    return dict(sorted(named.items()))


def _way_out(options: argparse.Namespace, settings: Settings) -> tuple[str, Callable[[tuple[int, int]], Outlet]]:
    """The address as it may be shown, and what makes a connection to it for pictures of some size."""
    url, bitrate = options.to, options.bitrate
    match urlsplit(url).scheme:
        case "rtmp" | "rtmps":
            return without_key(url), lambda size: RtmpOutlet(url, size, bitrate)
        case "http" | "https":
            token = options.token or (settings.whip_token.get_secret_value() if settings.whip_token else None)
            return url.partition("?")[0], lambda size: WhipOutlet(url, token, settings, max(size), bitrate)
        case _:
            raise KDTalkerError(f"'{url}' is no way out; give an rtmp:// or rtmps:// address, or http(s):// for WHIP.")
