"""`kdtalker serve`."""

from __future__ import annotations

import argparse

from engines.profile import PROFILES
from engines.types import KDTalkerError
from server.app import serve as run
from server.settings import Settings


def serve(argv: list[str]) -> int:
    """Run the avatar server and its page. Every setting is also an environment variable (KDTALKER_...)."""
    parser = argparse.ArgumentParser(prog="kdtalker serve", description=serve.__doc__)
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="TCP port; default: 8080")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: embedded")
    parser.add_argument("--max-sessions", type=int, help="calls at once; default: one a core")
    parser.add_argument("--tls-cert", metavar="PEM", help="serve HTTPS with this certificate; with --tls-key")
    parser.add_argument("--tls-key", metavar="PEM")
    parser.add_argument("--self-signed", action="store_true", default=None, help="serve HTTPS with one made here")
    parser.add_argument("--advertise", metavar="ADDRESS", help="public address of this machine, where 1:1 NAT hides it")
    parser.add_argument("--udp-ports", metavar="FIRST-LAST", help="ports for sound and pictures; default: any")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValueError as error:
        raise KDTalkerError(f"The settings are not usable: {error}") from error
    run(settings)
    return 0
