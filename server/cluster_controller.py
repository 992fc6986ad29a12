"""The controller of a cluster: an actor that knows the workers, starts and drains them as calls grow and shrink.

It holds nothing that it could not learn again: after its own death it finds the workers by their names and asks them.
Calls do not notice.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray

from server import logs
from server.cluster_worker import AvatarWorker, Report
from server.placement import Bounds, Phase, Scaler, WorkerState, emptiest, fleet

NAMESPACE = "kdtalker"
CONTROLLER, FACES, WORKER = "controller", "faces", "worker-"  # names of actors, the last one's beginning
LOOK = 0.5  # seconds between looks
LEAVING = 15.0  # seconds that workers have to end their servers
CLAIM = 10.0  # seconds that a room is kept for a call which is about to begin
RPC = 2.0  # seconds between questions to Ray which machines leave, and that it has to answer
PAUSE = 10.0  # seconds until another worker is tried after one that could not begin
GIVEN_UP = 300.0  # seconds without a word after which a worker is ended: no machine takes it, or its process hangs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a cluster is to be. `cpus`, `gpus`: of one worker; `told`: its settings; `patience`: seconds for which a
    worker may be silent before its calls count as lost.
    """

    bounds: Bounds
    cpus: float
    gpus: float
    told: Mapping[str, object]
    patience: float
    log: tuple[str, str]


@dataclass
class _Known:
    handle: Any
    state: WorkerState
    heard: float  # when it last reported, or was started
    following: asyncio.Task[None] | None = None


class Controller:
    """The actor."""

    async def __init__(self, orders: Orders, faces: Any) -> None:  # type: ignore[misc]
        logs.configure(*orders.log)
        self._orders, self._faces = orders, faces
        self._scaler = Scaler(orders.bounds)
        self._known: dict[str, _Known] = {}
        self._costs: dict[str, float] = {}  # cores a call, by machine
        self._claims: dict[str, tuple[str, float]] = {}  # worker and end of the claim, by room
        self._leaving: set[str] = set()  # machines that somebody said leave
        self._ray = _Ray()
        self._not_before = 0.0  # when the next worker may be started
        self._stopping = False
        for name in ray.util.list_named_actors():
            if name.startswith(WORKER):
                self._follow(name.removeprefix(WORKER), ray.get_actor(name))
        found = len(self._known)
        logger.info("the controller begins with %d workers", found)
        self._settled = asyncio.get_running_loop().time() + (orders.patience if found else 0)
        self._looking = asyncio.create_task(self._look_after(), name="workers")

    async def workers(self) -> tuple[WorkerState, ...]:
        """All of them, as they last described themselves."""
        return tuple(known.state for known in self._known.values())

    async def claim(self, room: str, worker: str) -> str:
        """Which worker has this room: `worker`, unless another one has it or was given it just now."""
        now = time.monotonic()
        self._claims = {each: claim for each, claim in self._claims.items() if claim[1] > now}
        having = next((known.state.name for known in self._known.values() if room in known.state.rooms), None)
        if having is not None:
            return having
        held = self._claims.get(room)
        if held is not None and (known := self._known.get(held[0])) is not None and known.state.phase is Phase.OPEN:
            return held[0]
        self._claims[room] = (worker, now + CLAIM)
        return worker

    async def drain(self, node: str) -> int:
        """Let nobody in on this machine any more; returns how many calls it still has."""
        self._leaving.add(node)
        await self._drain_machines()
        return sum(known.state.calls for known in self._known.values() if known.state.node == node)

    async def stop(self, patience: float) -> None:
        """Let nobody in any more, give the calls `patience` seconds to finish, and end every worker."""
        self._stopping = True
        for known in self._known.values():
            known.handle.drain.remote()
        for _ in range(math.ceil(patience / LOOK)):
            if not any(known.state.calls for known in self._known.values()):
                break
            await asyncio.sleep(LOOK)
        leaving = [known.handle.leave.remote() for known in self._known.values() if known.state.url]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*leaving, return_exceptions=True), LEAVING)
        for name in list(self._known):
            self._end(name)

    def _follow(self, name: str, handle: Any) -> None:
        known = self._known[name] = _Known(handle, WorkerState(name), time.monotonic())
        known.following = asyncio.create_task(self._listen(known), name=f"worker {name}")

    async def _listen(self, known: _Known) -> None:
        """Ask a worker how it stands, for as long as there is one. Ray starts it anew when it dies."""
        while True:
            try:
                report: Report = await known.handle.report.remote(self._costs.get(known.state.node))
            except ray.exceptions.RayError as error:
                if not _there(known.state.name):
                    logger.warning("worker %s is gone for good", known.state.name)
                    self._not_before = time.monotonic() + PAUSE
                    self._known.pop(known.state.name, None)
                    return
                logger.warning("worker %s begins anew: %s", known.state.name, str(error).partition("\n")[0])
                known.state = WorkerState(known.state.name)
            else:
                known.state, known.heard = report.state, time.monotonic()
                if report.cost is not None:
                    self._costs[report.state.node] = report.cost
                if report.failure is not None:
                    logger.error("worker %s cannot take calls: %s", known.state.name, report.failure)
                    self._not_before = time.monotonic() + PAUSE
                    self._end(known.state.name)
                    return
            await asyncio.sleep(LOOK)

    async def _look_after(self) -> None:
        while not self._stopping:
            try:
                await self._look()
            except Exception:
                logger.exception("a look at the workers failed")
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        now = time.monotonic()
        for known in self._known.values():
            if now - known.heard > self._orders.patience and known.state.phase is not Phase.STARTING:
                logger.warning("worker %s has been silent for %.1f s", known.state.name, now - known.heard)
                known.state = replace(known.state, phase=Phase.STARTING, calls=0, places=0, rooms=())
        await self._drain_machines()
        for known in list(self._known.values()):
            done = known.state.phase is Phase.DRAINING and not known.state.calls
            if done or now - known.heard > GIVEN_UP:
                self._end(known.state.name)
        if asyncio.get_running_loop().time() < self._settled:
            return  # workers that are there have not all said so yet
        states = [known.state for known in self._known.values()]
        change = self._scaler.look(now, fleet(states))
        for _ in range(change if now >= self._not_before else 0):
            self._start()
        for name in emptiest(states, -change) if change < 0 else ():
            logger.info("worker %s is not needed any more", name)
            self._known[name].handle.drain.remote()

    async def _drain_machines(self) -> None:
        leaving = self._leaving | await asyncio.to_thread(self._ray.leaving)
        for known in self._known.values():
            if known.state.node in leaving and known.state.phase is Phase.OPEN:
                logger.info("worker %s drains: its machine leaves", known.state.name)
                known.state = replace(known.state, phase=Phase.DRAINING)
                known.handle.drain.remote()

    def _start(self) -> None:
        name = secrets.token_hex(4)
        orders = self._orders
        leaving = ", ".join(sorted(self._leaving))
        actor = ray.remote(AvatarWorker).options(
            name=WORKER + name,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=orders.cpus,
            num_gpus=orders.gpus,
            max_restarts=-1,
            max_concurrency=8,
            scheduling_strategy="SPREAD",
            label_selector={"ray.io/node-id": f"!in({leaving})"} if leaving else {},
        )
        logger.info("worker %s is to start", name)
        self._follow(name, actor.remote(name, orders.told, orders.cpus, self._faces))

    def _end(self, name: str) -> None:
        known = self._known.pop(name)
        if known.following is not None:
            known.following.cancel()
        ray.kill(known.handle, no_restart=True)
        logger.info("worker %s has left", name)


def _there(worker: str) -> bool:
    """Whether Ray still has this worker, be it that it is starting it anew."""
    try:
        ray.get_actor(WORKER + worker, NAMESPACE)
    except ValueError:
        return False
    return True


class _Ray:
    """What Ray knows of its machines. Blocks; for one thread at a time."""

    def __init__(self) -> None:
        self._client: Any = None
        self._known: set[str] = set()
        self._asked = float("-inf")

    def leaving(self) -> set[str]:
        """Machines that are being drained: an autoscaler takes them, or somebody ran `ray drain-node`."""
        if time.monotonic() - self._asked > RPC:
            self._asked = time.monotonic()
            try:
                if self._client is None:
                    raylet: Any = importlib.import_module("ray._raylet")  # as Ray Serve does; there is no public way
                    self._client = raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
                self._known = set(self._client.get_draining_nodes(timeout=RPC))
            except Exception as error:
                logger.warning("Ray does not say which machines leave: %s", str(error).partition("\n")[0])
        return self._known
