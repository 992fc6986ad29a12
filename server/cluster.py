"""`kdtalker serve --cluster`: workers, a controller and ingresses on the machines of a Ray cluster.

Ray places, supervises and restarts the processes; nothing of that is done here.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve.config import RequestRouterConfig

from engines.types import KDTalkerError
from server import logs
from server.app import warn_of_open_door
from server.cluster_controller import CONTROLLER, FACES, NAMESPACE, Controller, Orders
from server.cluster_faces import Faces
from server.cluster_routing import PresentIngress
from server.cluster_worker import given
from server.ingress import create_ingress
from server.placement import Bounds, WorkerState
from server.settings import Settings

APPLICATION = "kdtalker"
HEAD = {"node:__internal_head__": 0.001}  # where an actor goes that must not go with a worker's machine
READY = 300.0  # seconds that the first worker may take

logger = logging.getLogger(__name__)


class RayRegistry:
    """The controller, asked over Ray. A call that meets it while it begins anew waits until it has."""

    def __init__(self) -> None:
        self._controller = ray.get_actor(CONTROLLER, NAMESPACE)

    async def workers(self) -> tuple[WorkerState, ...]:
        known: tuple[WorkerState, ...] = await self._controller.workers.remote()
        return known

    async def claim(self, room: str, worker: str) -> str:
        holder: str = await self._controller.claim.remote(room, worker)
        return holder


def connect(address: str, shown: bool = False) -> None:
    """Join a Ray cluster that runs already; `auto`: the one of this machine. Raises KDTalkerError.

    `shown`: what its processes log appears here too.
    """
    try:
        ray.init(address, namespace=NAMESPACE, ignore_reinit_error=True, log_to_driver=shown)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise KDTalkerError(
            f"There is no Ray cluster to join at '{address}' ({reason}). Start one with `ray start --head`, "
            "and `ray start --address=HEAD:6379` on the other machines."
        ) from error


def start(settings: Settings) -> None:
    """Bring up what is not there yet: the photos, the controller, which starts the workers, and the ingresses."""
    orders = Orders(
        Bounds(settings.min_workers, settings.max_workers, settings.spare_places, settings.calm),
        settings.worker_cpus,
        settings.worker_gpus,
        given(settings),
        settings.worker_patience,
        (settings.log_level, settings.log_format),
    )
    lasting: dict[str, Any] = {
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "resources": HEAD,
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 1000,
    }
    faces = ray.remote(Faces).options(name=FACES, **lasting)
    shelf = faces.remote(settings.max_avatars, settings.keep_photos, settings.photos)
    ray.remote(Controller).options(name=CONTROLLER, **lasting).remote(orders, shelf)
    options: dict[str, Any] = {"host": settings.host, "port": settings.port}
    if settings.tls_cert is not None:
        options |= {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    ray_serve.start(proxy_location="EveryNode", http_options=options)

    def application() -> Any:
        return create_ingress(RayRegistry, settings)

    ingress = ray_serve.deployment(
        ray_serve.ingress(application)(),
        name="ingress",
        num_replicas=settings.ingresses,
        max_ongoing_requests=1000,
        request_router_config=RequestRouterConfig(request_router_class=PresentIngress),
        ray_actor_options={"num_cpus": 0},  # or a worker would not fit beside it
    )
    ray_serve.run(ingress.bind(), name=APPLICATION, route_prefix="/")


def stop(patience: float) -> None:
    """Take everything down again; running calls have `patience` seconds to finish."""
    controller = ray.get_actor(CONTROLLER, NAMESPACE)
    ray.get(controller.stop.remote(patience))
    ray_serve.shutdown()
    for name in (CONTROLLER, FACES):
        ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)


def serve(settings: Settings) -> None:
    """Serve until SIGINT, or SIGTERM and the end of the running calls."""
    assert settings.cluster is not None
    if settings.self_signed:
        raise KDTalkerError(
            "A self-made certificate is for one machine; a cluster takes --tls-cert, or a proxy has one."
        )
    logs.configure(settings.log_level, settings.log_format)
    warn_of_open_door(settings)
    connect(settings.cluster, settings.log_format == "text")
    told = _Told()
    start(settings)
    scheme = "http" if settings.tls_cert is None else "https"
    logger.info("ready: %s://%s:%d on every machine of the cluster", scheme, settings.host, settings.port)
    told.wait()
    stop(settings.drain if told.kindly else 0)


class _Told:
    """SIGTERM and SIGINT, from now on. `kindly`: running calls may finish."""

    def __init__(self) -> None:
        self.kindly = False
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def wait(self) -> None:
        self._event.wait()

    def _hear(self, number: int, frame: object) -> None:
        self.kindly = number == signal.SIGTERM
        self._event.set()


def drain(address: str, patience: float) -> int:
    """Let the calls of this machine finish, for `patience` seconds at most; returns how many have not."""
    connect(address)
    controller = ray.get_actor(CONTROLLER, NAMESPACE)
    node = ray.get_runtime_context().get_node_id()
    deadline = time.monotonic() + patience
    while (calls := int(ray.get(controller.drain.remote(node)))) and time.monotonic() < deadline:
        time.sleep(1)
    return calls
