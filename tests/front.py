"""Two or more servers behind one ingress, as a cluster has them, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import uvicorn

from server.ingress import create_ingress
from server.placement import Phase, WorkerState
from server.settings import Settings
from tests.conftest import LiveServer, free_port, start_server, stop_server


@dataclass
class Listed:
    """The workers as they are written here."""

    states: dict[str, WorkerState]
    rooms: dict[str, str] = field(default_factory=dict)

    async def workers(self) -> tuple[WorkerState, ...]:
        return tuple(self.states.values())

    async def claim(self, room: str, worker: str) -> str:
        return self.rooms.setdefault(room, worker)


@dataclass
class Front:
    url: str
    listed: Listed
    servers: dict[str, LiveServer]

    async def say(self, name: str, **changes: object) -> None:
        """Let the directory say so of a worker, and the ingress hear of it."""
        self.listed.states[name] = replace(self.listed.states[name], **changes)
        await asyncio.sleep(0.7)

    async def open(self, name: str, places: int, calls: int = 0) -> None:
        await self.say(name, phase=Phase.OPEN, places=places, calls=calls, url=self.servers[name].url)


@contextmanager
def fronted(folders: pytest.TempPathFactory, *names: str) -> Iterator[Front]:
    """Servers of two calls each at 256 pixels, and the ingress that knows them."""
    servers = {
        name: start_server(folders.mktemp(name), prefix=f"{name}-", max_sessions=2, video_size=256) for name in names
    }
    listed = Listed({name: WorkerState(name, "node", servers[name].url, Phase.OPEN, 0, 2) for name in names})
    port = free_port()
    app = create_ingress(lambda: listed, Settings(port=port))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws_max_size=65_536))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield Front(f"http://127.0.0.1:{port}", listed, servers)
    finally:
        server.should_exit = True
        thread.join()
        for each in servers.values():
            if each.process.poll() is None:
                stop_server(each)
