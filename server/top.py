"""`kdtalker top`: the live calls of a server in the terminal."""

from __future__ import annotations

import argparse
import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engines.cache import cache_folder
from engines.types import KDTalkerError
from server.load import STEPS
from server.settings import Settings

PATIENCE = 5.0
COLUMNS = ("call", "state", "avatar", "time", "fps", "late p95", "delay p50", "skew p95", "line", "lost", "left out")


def top(argv: list[str]) -> int:
    """Show the live calls of a server, anew every second."""
    parser = argparse.ArgumentParser(prog="kdtalker top", description=top.__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is; default: %(default)s")
    parser.add_argument("--token", help="default: the first of KDTALKER_TOKENS")
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="believe this certificate, as a self-made one")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--once", action="store_true", help="print the table once")
    given = parser.parse_args(argv)
    if given.every < 0.1:
        raise KDTalkerError("--every must be at least 0.1 seconds.")
    server = _Server(given.url.rstrip("/"), given.token or _own_token(), _trust(given.certificate))
    if given.once:
        Console().print(table(server.calls()))
        return 0
    with Live(table(server.calls()), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(given.every)
            try:
                live.update(table(server.calls()), refresh=True)
            except KDTalkerError as error:  # a server that starts anew comes back
                live.update(Text(str(error), style="red"), refresh=True)


class _Server:
    def __init__(self, url: str, token: str | None, trust: ssl.SSLContext) -> None:
        if not url.startswith(("http://", "https://")):
            raise KDTalkerError(f"'{url}' is no address of a server; it begins with http:// or https://.")
        self._url, self._trust = url, trust
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def calls(self) -> dict[str, Any]:
        """What `GET /sessions` answers; raises KDTalkerError."""
        request = urllib.request.Request(f"{self._url}/sessions", headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self._trust) as answer:
                listed: dict[str, Any] = json.load(answer)
                return listed
        except urllib.error.HTTPError as error:
            with error:
                hint = "; give a token with --token" if error.code in (401, 403) else ""
                raise KDTalkerError(f"{self._url} answers {error.code} {error.reason}{hint}") from error
        except (OSError, ValueError) as error:
            raise KDTalkerError(f"{self._url} does not answer: {error}") from error


def _own_token() -> str | None:
    given: dict[str, Any] = {}
    try:
        tokens = Settings(**given).tokens
    except ValueError as error:
        raise KDTalkerError(f"The settings are not usable: {error}") from error
    return tokens[0].get_secret_value() if tokens else None


def _trust(certificate: Path | None) -> ssl.SSLContext:
    """The system's authorities, and a certificate that was named or that this machine's server made."""
    trust = ssl.create_default_context()
    own = certificate or cache_folder() / "tls" / "certificate.pem"
    if certificate is not None or own.exists():
        try:
            trust.load_verify_locations(own)
        except OSError as error:  # an SSLError is one
            raise KDTalkerError(f"{own} is no certificate: {error}") from error
    return trust


def table(listed: dict[str, Any]) -> Group:
    """`GET /sessions` as a person reads it; times in milliseconds."""
    calls = listed["calls"]
    shown = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
    for column in shown.columns[3:]:
        column.justify = "right"
    for call in sorted(calls, key=lambda call: -call["seconds"]):
        line = call["microphone"] or {}
        live = call["state"] == "live"
        shown.add_row(
            call["label"],
            Text(call["state"], style="green" if live else "yellow"),
            call["avatar"],
            _clock(call["seconds"]),
            Text(f"{call['fps']:.1f}", style="red" if live and call["fps"] < 20 else ""),
            _of(call["lateness_ms"]["video"], "p95"),
            _of(call["added_latency_ms"], "p50"),
            _of(call["skew_ms"], "p95"),
            f"{line['delay_ms']:.0f}" if "delay_ms" in line else "",
            str(line.get("lost", "")),
            ", ".join(f"{cause} {count}" for cause, count in call["drops"].items()),
        )
    viewers = sum(call["viewers"]["count"] for call in calls)
    told = f"{len(calls)} of {listed['capacity']} calls, {viewers} of {listed['viewer_capacity']} viewers"
    heading = Text(told, style="bold")
    if calls and calls[0]["effort"] != STEPS[0].name:
        heading.append(f", falling behind: {calls[0]['effort']}", style="yellow")
    return Group(heading, shown)


def _of(percentiles: dict[str, float] | None, which: str) -> str:
    return f"{percentiles[which]:.0f}" if percentiles else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
