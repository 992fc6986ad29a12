"""A server for a measurement: started, warm, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from engines.types import KDTalkerError


@dataclass(frozen=True, slots=True)
class Running:
    """A server under measurement."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def server(
    calls: int,
    command: Sequence[str] = ("-m", "kdtalker", "serve"),
    cores: Sequence[int] = (),
    **settings: object,
) -> Iterator[Running]:
    """A server for so many calls, up and warm, that sheds no load unless `settings` say so.

    `command`: what the interpreter runs. `cores`: those it may use, all where none are named (Linux).
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"load_shedding": False, "host": "127.0.0.1", "log_level": "error"} | settings
    settings |= {"port": port, "max_sessions": calls}
    environment = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
    environment |= {f"KDTALKER_{name.upper()}": str(value) for name, value in settings.items()}
    pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    # In a group of its own, so that Ctrl-C ends the measurement and not the server under it.
    process = subprocess.Popen([*pin, sys.executable, *command], env=environment, start_new_session=True)
    running = Running(f"http://127.0.0.1:{port}", process)
    try:
        while process.poll() is None:
            try:
                if httpx.get(f"{running.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            raise KDTalkerError("The server did not start; its last words are above.")
        yield running
    finally:
        process.terminate()
        process.wait()
