"""The way through the network: TURN by coturn, a range of ports, and an address behind 1:1 NAT."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from aioice.ice import get_host_addresses
from aioice.stun import TransactionFailed
from aioice.turn import create_turn_endpoint
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCSessionDescription

from benchmarks.peer import Peer, RefusedError
from server.ice import PortRange, PortsExhaustedError, facing, ice_servers, turn_credentials
from server.settings import Settings
from server.tls import self_made
from tests.conftest import free_port, start_server, stop_server

pytestmark = pytest.mark.timeout(180)

SECRET = "a secret that coturn and the server share"
CANDIDATE = re.compile(r"^a=candidate:\S+ \d udp \d+ (\S+) (\d+) typ (\S+)", re.MULTILINE)


def own_address() -> str:
    addresses = get_host_addresses(use_ipv4=True, use_ipv6=False)
    if not addresses:
        pytest.skip("this machine has no address but loopback, over which ICE does not go")
    return addresses[0]


def candidates(sdp: str) -> set[tuple[str, int, str]]:
    return {(address, int(port), kind) for address, port, kind in CANDIDATE.findall(sdp)}


def turn_left_out(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


def wait_for_stun(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Ask for a binding (RFC 8489) until somebody answers."""
    request = bytes.fromhex("000100002112a442") + os.urandom(12)
    deadline = time.monotonic() + 30
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        asking.connect((host, port))
        while time.monotonic() < deadline and process.poll() is None:
            try:
                asking.send(request)
                if asking.recv(2048)[8:20] == request[8:]:
                    return
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.1)
    pytest.fail("coturn did not come up")


@dataclass(frozen=True)
class Coturn:
    """Where it listens, for UDP and TCP and for TLS, and the certificate it shows."""

    plain: str
    tls: str
    certificate: Path

    def url(self, transport: str) -> str:
        return f"turns:{self.tls}" if transport == "tls" else f"turn:{self.plain}?transport={transport}"


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """Debian's coturn with a shared secret."""
    if shutil.which("turnserver") is None:
        turn_left_out("coturn is not installed (Debian: apt install coturn), so nothing can be relayed")
    host, port, secure, folder = own_address(), free_port(), free_port(), tmp_path_factory.mktemp("coturn")
    made = self_made(folder, (host,))
    command = ["turnserver", "-n", "--no-cli", "--no-dtls", "--realm=kdtalker.test", "--fingerprint"]
    command += [f"--tls-listening-port={secure}", f"--cert={made.chain}", f"--pkey={made.key}"]
    command += ["--use-auth-secret", f"--static-auth-secret={SECRET}", f"--listening-ip={host}", f"--relay-ip={host}"]
    command += [
        f"--listening-port={port}",
        f"--db={folder / 'turndb'}",
        f"--pidfile={folder / 'pid'}",
        "--log-file=stdout",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_stun(host, port, process)
        yield Coturn(f"{host}:{port}", f"{host}:{secure}", made.chain)
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_credentials_are_those_of_the_shared_secret_scheme() -> None:
    # printf '1700000000:alice' | openssl dgst -sha1 -hmac 'north' -binary | base64
    assert turn_credentials("north", "alice", 1_700_000_000) == ("1700000000:alice", "Cd/49soE35ICqcJF/bCTn8Z4OyE=")


def test_every_call_gets_credentials_of_its_own_that_expire() -> None:
    settings = Settings(turn_urls=("turn:turn.example.org",), turn_secret=SECRET, turn_lifetime=600)
    first, second = ice_servers(settings)[0], ice_servers(settings)[0]
    assert first.username != second.username
    assert first.username is not None
    assert abs(int(first.username.partition(":")[0]) - time.time() - 600) < 5
    assert SECRET not in repr(settings)


async def allocate(server: str, username: str, credential: str) -> None:
    """Ask a TURN server for a relay, and give it back; raises TransactionFailed where it refuses."""
    host, _, port = server.partition(":")
    transport, _ = await create_turn_endpoint(
        asyncio.DatagramProtocol, server_addr=(host, int(port)), username=username, password=credential
    )
    transport.close()
    await asyncio.sleep(0.2)


async def test_coturn_takes_credentials_until_they_expire(coturn: Coturn) -> None:
    now, plain = int(time.time()), coturn.plain
    await allocate(plain, *turn_credentials(SECRET, "caller", now + 60))
    with pytest.raises(TransactionFailed, match="401"):
        await allocate(plain, *turn_credentials(SECRET, "caller", now - 60))
    with pytest.raises(TransactionFailed, match="401"):
        await allocate(plain, *turn_credentials("another secret", "caller", now + 60))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_a_call_that_may_only_be_relayed(
    coturn: Coturn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(coturn.certificate))  # whose word both ends take for TLS
    urls = [coturn.url(transport), "turns:turn.example.org?transport=tcp"]
    own = start_server(tmp_path, turn_urls=json.dumps(urls), turn_secret=SECRET, relay_only="true")
    try:
        async with httpx.AsyncClient(base_url=own.url) as client:
            given = (await client.get("/ice-servers")).json()["iceServers"]
        assert given[0]["urls"] == urls, "all for the page; this end asks the first"
        ice = RTCConfiguration([RTCIceServer(**server) for server in given], RTCIceTransportPolicy.RELAY)
        async with Peer(own.url, ice=ice) as peer:
            await peer.pictures(25, within=60)
            assert {kind for _, _, kind in candidates(peer.answer)} == {"relay"}
            assert {kind for _, _, kind in candidates(peer.connection.localDescription.sdp)} == {"relay"}
    finally:
        stop_server(own)


def test_a_range_binds_every_address_or_none() -> None:
    first = free_port()
    ports = PortRange(first, first)
    (held,) = ports.bind(["127.0.0.1"])
    assert held.getsockname() == ("127.0.0.1", first)
    with held, pytest.raises(PortsExhaustedError):
        ports.bind(["127.0.0.2", "127.0.0.1"])
    for again in ports.bind(["127.0.0.2", "127.0.0.1"]):  # the first of the failed pair was given back
        again.close()


def test_an_address_that_has_gone_is_left_out() -> None:
    first = free_port()
    (bound,) = PortRange(first, first).bind(["198.51.100.7", "127.0.0.1"])
    with bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_the_address_that_faces_the_world() -> None:
    own = own_address()
    assert facing("127.0.0.9", ["127.0.0.9", own]) == "127.0.0.9"
    assert facing(own, ["203.0.113.1", own]) == own
    assert facing("2001:db8::1", [own]) is None


def udp_ports(process: int) -> list[int]:
    """Local ports of the UDP sockets that a process holds."""
    inodes = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = []
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                ports.append(int(fields[1].rpartition(":")[2], 16))
    return ports


class Unbundled(Peer):
    """A peer that gives sound and pictures a transport each."""

    async def offer(self) -> str:
        return re.sub(r"a=group:BUNDLE.*\r\n", "", await super().offer())


async def test_a_range_of_ports_holds_the_calls_it_was_sized_for(tmp_path: Path) -> None:
    own_address()
    addresses = len(get_host_addresses(use_ipv4=True, use_ipv6=True))
    first = 41_200
    own = start_server(tmp_path, max_sessions=3, retry_after=4, udp_ports=f"{first}-{first}")
    try:
        async with Peer(own.url) as peer:
            await peer.pictures(5, within=60)
            # One socket for each address and call, and one port holds one socket of each address.
            assert udp_ports(own.process.pid) == [first] * addresses
            assert {port for _, port, _ in candidates(peer.answer)} == {first}
            with pytest.raises(RefusedError) as refused:
                async with Peer(own.url):
                    pass
            assert refused.value.answer.status_code == 503
            assert "UDP ports" in refused.value.answer.json()["detail"]
            assert refused.value.answer.headers["retry-after"] == "4"
            await peer.pictures(5, within=30)  # who was there before does not notice
        assert own.metric("kdtalker_sessions") == 0
        assert udp_ports(own.process.pid) == []
        with pytest.raises(RefusedError) as refused:
            async with Unbundled(own.url):
                pass
        assert refused.value.answer.status_code == 503, "two transports take two ports"
        assert udp_ports(own.process.pid) == []
        async with Peer(own.url) as peer:
            await peer.pictures(1, within=60)
    finally:
        stop_server(own)


class Mapping(asyncio.DatagramProtocol):
    """One port of a 1:1 NAT: what comes from outside goes to the same port inside, and answers go back out."""

    def __init__(self, inside: tuple[str, int]) -> None:
        self._inside = inside
        self._outside: dict[tuple[str, int], asyncio.DatagramTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.returned = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        task = asyncio.ensure_future(self._inward(data, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _inward(self, data: bytes, address: tuple[str, int]) -> None:
        if address not in self._outside:
            mapping = self

            class Back(asyncio.DatagramProtocol):
                def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
                    mapping.returned += 1
                    mapping._transport.sendto(data, address)  # type: ignore[attr-defined]

            loop = asyncio.get_running_loop()
            self._outside[address], _ = await loop.create_datagram_endpoint(Back, remote_addr=self._inside)
        self._outside[address].sendto(data)

    def close(self) -> None:
        for transport in (self._transport, *self._outside.values()):
            transport.close()


@asynccontextmanager
async def nat(public: str, inside: str, port: int) -> AsyncIterator[Mapping]:
    loop = asyncio.get_running_loop()
    _, mapping = await loop.create_datagram_endpoint(lambda: Mapping((inside, port)), local_addr=(public, port))
    try:
        yield mapping
    finally:
        mapping.close()


async def test_a_machine_behind_nat_is_reached_by_the_address_it_advertises(tmp_path: Path) -> None:
    public, inside = "127.0.0.77", own_address()  # nothing but the mapping below listens at the public address
    own = start_server(tmp_path, advertise=public)
    peer = Peer(own.url)
    try:
        sdp = {"Content-Type": "application/sdp"}
        async with httpx.AsyncClient(base_url=own.url, timeout=30) as client:
            # The caller's own candidates are kept from the server, which could otherwise reach out by itself.
            offer = re.sub(r"a=(candidate:|end-of-candidates).*\r\n", "", await peer.offer())
            answer = await client.post("/sessions", content=offer, headers=sdp)
            assert answer.status_code == 201, answer.text
            (advertised,) = [entry for entry in candidates(answer.text) if entry[2] == "srflx"]
            assert advertised[0] == public
            hosts = {address: port for address, port, kind in candidates(answer.text) if kind == "host"}
            assert advertised[1] in hosts.values()
            only = re.sub(r"a=candidate:.* typ host.*\r\n", "", answer.text)
            base = next(address for address, port in hosts.items() if port == advertised[1])
            async with nat(public, base, advertised[1]) as mapping:
                await peer.connection.setRemoteDescription(RTCSessionDescription(only, "answer"))
                await peer.pictures(25, within=60)
                assert mapping.returned > 25
                assert (await client.delete(answer.headers["location"])).status_code == 204
            assert base == inside
    finally:
        await peer.close()
        stop_server(own)
