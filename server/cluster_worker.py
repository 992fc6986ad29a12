"""A worker of a cluster: one whole avatar server in an actor, on a private port, with cores and a loop of its own."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import uvicorn

from server import control, logs, pinning
from server.app import DRAIN, create_app
from server.cluster_faces import ClusterShelf
from server.house import House
from server.load import cores
from server.placement import Phase, WorkerState
from server.settings import Settings

STUCK = 30.0  # seconds after which an event loop that does not answer is given up
# What belongs to the front, or to its machine: the port of a worker is plain HTTP inside the cluster.
FRONT = {"advertise", "host", "port", "self_signed", "tls_cert", "tls_key", "trusted_proxies"}
LOCAL = {"advertise", "cache", "record_folder", "udp_ports"}  # what a machine's own environment knows better

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """`cost`: cores that a call was measured to need here. `failure`: why this worker will never take calls."""

    state: WorkerState
    cost: float | None = None
    failure: str | None = None


def given(settings: Settings) -> dict[str, object]:
    """What was set for the cluster, for `settings_of` on every machine."""
    dumped = settings.model_dump(exclude_unset=True)
    return {name: value for name, value in dumped.items() if name not in FRONT}


def settings_of(name: str, told: Mapping[str, object]) -> Settings:
    """A worker's settings: what the cluster was told, before what its machine's environment says.

    Where a machine is, and which folders and ports it has, it knows better itself.
    """
    count = math.ceil(cores())
    here = Settings(**dict[str, Any]())
    local = {each: getattr(here, each) for each in LOCAL & here.model_fields_set}
    plain = {"tls_cert": None, "tls_key": None, "self_signed": False}
    usual: dict[str, Any] = {"workers": count, "max_sessions": 2 * count}
    return Settings(**usual | dict(told) | local | plain | {"prefix": f"{name}-"})


class AvatarWorker:
    """The actor. Its methods are called by threads of Ray; the server runs in one of its own."""

    def __init__(self, name: str, told: Mapping[str, object], cpus: float, faces: Any) -> None:
        self._name = name
        self._pin = pinning.take(cpus)
        self._settings = settings_of(name, told)
        logs.configure(self._settings.log_level, self._settings.log_format)
        context = ray.get_runtime_context()
        self._node: str = context.get_node_id()
        self._loop = asyncio.new_event_loop()
        app = create_app(self._settings, ClusterShelf(faces))
        self._house: House = app.state.house
        self._socket = socket.socket()
        self._socket.bind((ray.util.get_node_ip_address(), 0))
        self._url = "http://{}:{}".format(*self._socket.getsockname())
        config = uvicorn.Config(
            app,
            http="h11",
            log_config=None,
            access_log=False,
            proxy_headers=True,
            forwarded_allow_ips="*",
            server_header=False,
            ws_max_size=control.MAX_FRAME,
            timeout_graceful_shutdown=DRAIN,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._leaving = False
        self._thread.start()

    def report(self, cost: float | None) -> Report:
        """How it stands. `cost`: what others on this machine measured, for as long as nothing was measured here."""
        asked = asyncio.run_coroutine_threadsafe(self._describe(cost), self._loop)
        try:
            return asked.result(STUCK)
        except TimeoutError:
            logger.error("the event loop has not answered for %.0f s", STUCK)
            os._exit(1)  # Ray starts the actor anew

    def drain(self) -> None:
        """Take no new calls."""
        self._loop.call_soon_threadsafe(self._house.drain, lambda: None)

    def leave(self) -> None:
        """End every call and the server."""
        self._leaving = True
        self._server.should_exit = True
        self._thread.join(2 * DRAIN)

    def process(self) -> int:
        """Its process id."""
        return os.getpid()

    async def _describe(self, cost: float | None) -> Report:
        house = self._house
        if house.reception is None:
            failure = str(house.failure) if house.failure else None
            return Report(WorkerState(self._name, self._node, self._url), failure=failure)
        if cost is not None:
            house.reception.expect(cost)
        room = house.reception.headroom()
        phase = Phase.DRAINING if house.reception.draining else Phase.OPEN
        state = WorkerState(self._name, self._node, self._url, phase, room.calls, room.places, room.rooms)
        return Report(state, room.cost)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve([self._socket]))
        except Exception:
            logger.exception("the server failed")
        if not self._leaving:
            os._exit(1)  # Ray starts the actor anew
