"""A Ray cluster of three machines on this one: where calls go, how it grows and shrinks, and what may die.

Calls have 256 pixels and five pictures a second, and listen. The sound of twelve takes more than two cores, so pictures
are asked of three; rates are measured elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect

from benchmarks.peer import RATE, Peer, RefusedError
from benchmarks.rooms import Publisher, Viewer
from tests.conftest import PORTRAIT, REPOSITORY, free_port

if find_spec("ray") is None:
    pytest.skip("ray is not installed (pip install '.[cluster]'), so there is no cluster", allow_module_level=True)

import ray
from ray.cluster_utils import Cluster

from server.cluster_controller import CONTROLLER, FACES, NAMESPACE, WORKER
from server.encode import VIDEO_CLOCK
from server.placement import Phase, WorkerState

# What Ray itself warns of is no error of ours.
pytestmark = [pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]
PLACES = 4  # calls of one worker
PICTURES = 5  # a second, of every call
PATIENCE = 90  # seconds for whatever a loaded machine takes
PACKETS = 50  # of sound, one second
STORE = 100_000_000  # bytes, the least that Ray takes being 75 MB
SOUND = np.zeros(RATE, np.int16)


@dataclass
class Machines:
    """The cluster, `kdtalker serve` on it, and where it answers."""

    cluster: Cluster
    url: str
    log: Path

    @property
    def controller(self) -> Any:
        return ray.get_actor(CONTROLLER, NAMESPACE)

    async def workers(self) -> list[WorkerState]:
        return list(await self.controller.workers.remote())

    async def opened(self) -> list[WorkerState]:
        return [worker for worker in await self.workers() if worker.phase is Phase.OPEN]

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """A front that has just died cuts connections; the next question meets another one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError):
                if await condition():
                    return
            assert time.monotonic() < deadline, f"{await self.workers()}\n{self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.3)

    async def grown(self, count: int) -> None:
        """Wait for so many open workers."""

        async def there() -> bool:
            return len(await self.opened()) == count

        await self.until(there)

    async def away(self, peers: list[Peer]) -> WorkerState:
        """A worker of one of these calls, on a machine that is not the head."""
        head, owners = self.cluster.head_node.node_id, set(map(worker_of, peers))
        return next(each for each in await self.opened() if each.node != head and each.name in owners)

    async def is_at(self, worker: str, phase: Phase | None) -> bool:
        """Whether a worker is in this phase; None: it is not there any more."""
        return next((each.phase for each in await self.workers() if each.name == worker), None) == phase

    async def has_forgotten(self, peer: Peer) -> bool:
        """Whether nobody knows of this call, nor that it was ended: a page begins another."""
        answer = await ask(f"{self.url}{peer.location}/stats")
        return answer.status_code == 404 and "reason" not in answer.json()

    @asynccontextmanager
    async def calls(self, count: int, query: str = "") -> AsyncIterator[list[Peer]]:
        """So many calls, one after another, each as soon as there is a place."""
        async with AsyncExitStack() as stack:
            peers: list[Peer] = []

            async def another() -> bool:
                peer = Peer(self.url, query=query, tidy=False, every=1000, listens=False)
                try:
                    peers.append(await stack.enter_async_context(peer))
                except httpx.TransportError:
                    await peer.close()
                except RefusedError as refused:
                    if refused.answer.status_code != 503:
                        raise
                return len(peers) == count

            await self.until(another)
            yield peers
            for peer in peers:
                await self.until(lambda peer=peer: self.hung_up(peer))

    async def hung_up(self, peer: Peer) -> bool:
        """Whether a call is over, which this asks for."""
        return (await ask(f"{self.url}{peer.location}", "DELETE")).status_code in (204, 404)


async def ask(url: str, method: str = "GET", **given: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.request(method, url, **given)


async def run(module: str, *told: str) -> tuple[int | None, str]:
    """The exit status of `python -m module` and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *told), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, said.decode()


def worker_of(peer: Peer | Publisher | Viewer) -> str:
    return peer.location.rpartition("/")[2].partition("-")[0]


async def go_on(peers: list[Peer]) -> None:
    """Every one of these calls still brings sound, which is never given up for pictures."""
    before = [len(peer.received.timestamps["audio"]) for peer in peers]
    deadline = time.monotonic() + PATIENCE
    for peer, count in zip(peers, before, strict=True):
        while len(peer.received.timestamps["audio"]) < count + PACKETS:
            assert time.monotonic() < deadline, peer.location
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("cluster")
    patch = pytest.MonkeyPatch()
    for name, value in {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "KDTALKER_CACHE": str(folder.parent / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        patch.setenv(name, value)
    options = {"object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **options})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    port = free_port()
    told = {"max_sessions": PLACES, "max_workers": 3, "calm": 8, "worker_patience": 10, "drain": 1}
    told |= {
        "load_shedding": False,
        "video_size": 256,
        "video_rate": PICTURES,
        "lost_after": 20,
        "grace": 60,
        "photos": folder / "photos",
    }
    environment = os.environ | {f"KDTALKER_{name.upper()}": str(value) for name, value in told.items()}
    log = folder / "serve.log"
    command = [sys.executable, "-m", "kdtalker", "serve", "--cluster", cluster.address, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
    try:
        live = Machines(cluster, f"http://127.0.0.1:{port}", log)
        deadline = time.monotonic() + PATIENCE
        while not _ready(live.url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield live
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert not [name for name in ray.util.list_named_actors() if name.startswith(WORKER)], "all workers have left"
    finally:
        process.kill()
        process.wait()
        ray.shutdown()
        cluster.shutdown()
        patch.undo()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


async def test_twelve_calls_make_one_worker_three_and_go_again(machines: Machines) -> None:
    await machines.grown(1)
    async with machines.calls(3) as few:
        async with machines.calls(3 * PLACES - 3) as more:
            peers = [*few, *more]
            await go_on(peers)
            workers = await machines.opened()
            assert len({worker.node for worker in workers}) == 3, "one on every machine"
            assert Counter(map(worker_of, peers)) == {worker.name: PLACES for worker in workers}
            for peer in peers:
                assert (await peer.stats())["id"] == peer.location.rpartition("/")[2], "whichever ingress was asked"
            listed = (await ask(f"{machines.url}/sessions")).json()
            assert (len(listed["calls"]), listed["capacity"], listed["workers"]) == (3 * PLACES, 3 * PLACES, 3)
            assert (await ask(f"{machines.url}/readyz")).status_code == 503
        await asyncio.gather(*(peer.pictures(10, PATIENCE) for peer in few))
    for peer in peers:
        stamps = [stamp for _, stamp in peer.received.timestamps["video"]]
        assert {(stamp - stamps[0]) % (VIDEO_CLOCK // PICTURES) for stamp in stamps} <= {0}
    await machines.grown(1)


async def test_the_controller_may_die(machines: Machines) -> None:
    async with machines.calls(1) as peers:
        known = {worker.name for worker in await machines.workers()}
        ray.kill(machines.controller, no_restart=False)
        await go_on(peers)
        assert (await peers[0].stats())["state"] == "live"

        async def learnt() -> bool:
            return {(worker.name, worker.calls) for worker in await machines.opened()} >= {(worker_of(peers[0]), 1)}

        await machines.until(learnt)
        assert {worker.name for worker in await machines.workers()} <= known, "none was started in another's place"
        async with machines.calls(1) as more:
            await go_on([*peers, *more])
            await asyncio.gather(*(peer.pictures(10, PATIENCE) for peer in (*peers, *more)))


async def test_an_ingress_may_die(machines: Machines) -> None:
    async with machines.calls(1) as peers:
        await go_on(peers)
        replicas = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "ingress" in actor["name"]]
        assert len(replicas) == 2
        ray.kill(ray.get_actor(replicas[0]["name"], replicas[0]["namespace"]), no_restart=False)
        for _ in range(20):
            assert (await peers[0].stats())["state"] == "live"
        async with machines.calls(1) as more:
            await go_on([*peers, *more])
        async with connect(f"{machines.url.replace('http', 'ws')}{peers[0].location}/audio") as channel:
            assert '"live"' in str(await channel.recv())


async def test_a_room_is_where_its_publisher_is_whichever_ingress_is_asked(machines: Machines) -> None:
    async with (
        machines.calls(PLACES + 1),
        Publisher(machines.url, "studio", SOUND) as publisher,
        AsyncExitStack() as stack,
    ):
        owner = worker_of(publisher)
        with pytest.raises(RefusedError) as refused:
            await stack.enter_async_context(Publisher(machines.url, "studio", SOUND))
        assert refused.value.answer.status_code == 409

        async def known() -> bool:
            return any(each.name == owner and "studio" in each.rooms for each in await machines.opened())

        await machines.until(known)
        viewers = [await stack.enter_async_context(Viewer(machines.url, "studio")) for _ in range(4)]
        assert {worker_of(viewer) for viewer in viewers} == {owner}
        deadline = time.monotonic() + PATIENCE
        while not all(viewer.sounds >= PACKETS for viewer in viewers):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_a_worker_that_dies_takes_its_own_calls_only(machines: Machines) -> None:
    async with machines.calls(PLACES + 1) as peers:
        lost = peers[0]
        kept = [peer for peer in peers if worker_of(peer) != worker_of(lost)]
        assert kept, "one worker has no place for so many"
        worker = ray.get_actor(WORKER + worker_of(lost), NAMESPACE)
        os.kill(await worker.process.remote(), signal.SIGKILL)
        await go_on(kept)
        await machines.until(lambda: machines.has_forgotten(lost))
        async with machines.calls(1) as again:
            await go_on([*again, *kept])

        async def restarted() -> bool:
            return worker_of(lost) in {each.name for each in await machines.opened()}

        await machines.until(restarted)


async def test_a_photo_outlives_the_actor_that_kept_its_face(machines: Machines) -> None:
    face = ""

    async def sent() -> bool:
        nonlocal face
        answer = await ask(f"{machines.url}/avatars", "POST", files={"photo": PORTRAIT.read_bytes()})
        assert answer.status_code in (201, 503), answer.text  # 503: while workers begin anew
        face = answer.json().get("id", "")
        return bool(face)

    await machines.until(sent)
    async with machines.calls(1, f"?avatar={face}") as before:
        assert (await before[0].stats())["avatar"] == face
    ray.kill(ray.get_actor(FACES, NAMESPACE), no_restart=False)
    async with machines.calls(1, f"?avatar={face}") as after:
        await go_on(after)
        assert (await after[0].stats())["avatar"] == face
    assert (await ask(f"{machines.url}/avatars/{face}", "DELETE")).status_code == 204
    assert (await ask(f"{machines.url}/avatars/{face}/picture")).status_code == 404


async def test_a_machine_that_dies_takes_its_own_calls_only(machines: Machines) -> None:
    async with machines.calls(PLACES + 1) as peers:
        away = await machines.away(peers)
        gone = next(each for each in machines.cluster.list_all_nodes() if each.node_id == away.node)
        machines.cluster.remove_node(gone, allow_graceful=False)
        lost = [peer for peer in peers if worker_of(peer) == away.name]
        kept = [peer for peer in peers if peer not in lost]
        await go_on(kept)
        for peer in lost:
            await machines.until(lambda peer=peer: machines.has_forgotten(peer))
        async with machines.calls(1) as more:
            await go_on([*kept, *more])


async def test_a_machine_that_ray_drains_is_left_by_its_worker_once_its_calls_are_over(machines: Machines) -> None:
    async with AsyncExitStack() as stack:
        peers = await stack.enter_async_context(machines.calls(PLACES + 1))
        away = await machines.away(peers)
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the machine is taken away"]
        drain = ["ray.scripts.scripts", "drain-node", "--address", machines.cluster.address, "--node-id", away.node]
        code, said = await run(*drain, *reason)
        assert code == 0, said
        await machines.until(lambda: machines.is_at(away.name, Phase.DRAINING))
        await go_on(peers)
    await machines.until(lambda: machines.is_at(away.name, None))


async def test_the_command_waits_until_no_call_is_left_on_its_machine(machines: Machines) -> None:
    async with AsyncExitStack() as stack:
        peers = await stack.enter_async_context(machines.calls(1))
        drain = asyncio.create_task(run("kdtalker", "drain", "--cluster", machines.cluster.address))
        await machines.until(lambda: machines.is_at(worker_of(peers[0]), Phase.DRAINING))
        await go_on(peers)
        assert not drain.done()
    code, said = await drain
    assert code == 0, said
    assert "calls left: 0" in said
