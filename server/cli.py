"""`kdtalker serve`."""

from __future__ import annotations

import argparse
import re
import secrets

from engines.controls import add_options
from engines.profile import PROFILES
from engines.types import KDTalkerError
from server.app import serve as run
from server.auth import Keys
from server.settings import Settings


def serve(argv: list[str]) -> int:
    """Run the avatar server and its page. Every setting is also an environment variable (KDTALKER_...)."""
    parser = argparse.ArgumentParser(prog="kdtalker serve", description=serve.__doc__)
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="TCP port; default: 8080")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: embedded")
    parser.add_argument("--weights", help="folder that `kdtalker train --videos` wrote; default: the profile's own")
    parser.add_argument("--hop", type=int, metavar="TICKS", help="1 to 16 frames generated at once; default: 2")
    parser.add_argument("--max-sessions", type=int, help="calls at once; default: two a core")
    parser.add_argument("--tls-cert", metavar="PEM", help="serve HTTPS with this certificate; with --tls-key")
    parser.add_argument("--tls-key", metavar="PEM")
    parser.add_argument("--self-signed", action="store_true", default=None, help="serve HTTPS with one made here")
    parser.add_argument("--advertise", metavar="ADDRESS", help="public address of this machine, where 1:1 NAT hides it")
    parser.add_argument("--udp-ports", metavar="FIRST-LAST", help="ports for sound and pictures; default: any")
    parser.add_argument("--video-bitrate", type=int, metavar="BITS", help="a second, at most; default: 1200000")
    parser.add_argument("--video-size", type=int, choices=[256, 384, 512], help="pixels of a side; default: 512")
    parser.add_argument("--video-rate", type=int, metavar="PICTURES", help="a second, 5 to 25; default: 25")
    parser.add_argument("--keyframe-interval", type=float, metavar="SECONDS", help="default: only when asked for")
    parser.add_argument("--cluster", metavar="auto|ADDRESS", help="serve from every machine of a Ray cluster")
    parser.add_argument("--worker-cpus", type=float, metavar="CORES", help="of a cluster's worker; default: 1")
    parser.add_argument("--worker-gpus", type=float, metavar="GPUS", help="or a share of one; default: 0")
    parser.add_argument("--min-workers", type=int, metavar="COUNT", help="default: 1")
    parser.add_argument("--max-workers", type=int, metavar="COUNT", help="default: 4")
    parser.add_argument("--photos", metavar="URL", help="where a cluster keeps sent photos; default: in memory only")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    add_options(parser)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    settings = settings_of(given)
    if settings.cluster is None:
        run(settings)
    else:
        from server import cluster  # Ray is an extra

        cluster.serve(settings)
    return 0


def drain(argv: list[str]) -> int:
    """Let the calls of this machine finish before it leaves a cluster; status 1 where some have not in their time."""
    parser = argparse.ArgumentParser(prog="kdtalker drain", description=drain.__doc__)
    parser.add_argument("--cluster", default="auto", metavar="ADDRESS", help="of the Ray cluster; default: auto")
    parser.add_argument("--within", type=float, default=600, metavar="SECONDS", help="default: %(default)s")
    given = parser.parse_args(argv)
    from server import cluster  # Ray is an extra

    calls = cluster.drain(given.cluster, given.within)
    print(f"calls left: {calls}")
    return 1 if calls else 0


UNITS = {"m": 60, "h": 3600, "d": 86_400}


def link(argv: list[str]) -> int:
    """Print a link that lets a guest make calls until it expires, signed by the first of KDTALKER_TOKENS."""
    parser = argparse.ArgumentParser(prog="kdtalker link", description=link.__doc__)
    parser.add_argument("--for", dest="time", default="2h", metavar="TIME", help="as 30m, 2h or 7d; default: 2h")
    parser.add_argument("--name", help="what tells this guest from others; default: made up")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is; default: %(default)s")
    given = parser.parse_args(argv)
    time = re.fullmatch(r"(\d+)([mhd])", given.time)
    if time is None or not int(time[1]):
        raise KDTalkerError(f"'{given.time}' is no time; write 30m, 2h or 7d.")
    tokens = [token.get_secret_value() for token in settings_of({}).tokens]
    if not tokens:
        raise KDTalkerError("KDTALKER_TOKENS is not set here; a link is signed by a token of the server.")
    key = Keys(tokens).link(given.name or secrets.token_hex(4), int(time[1]) * UNITS[time[2]])
    print(f"{given.url.rstrip('/')}/?key={key}")
    return 0


def settings_of(given: dict[str, object]) -> Settings:
    """The environment's settings with `given` on top; raises KDTalkerError."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise KDTalkerError(f"The settings are not usable: {error}") from error
