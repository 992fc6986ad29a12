"""The reverse proxy of docs/deploy.md, by nginx itself."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.peer import Peer
from server.tls import self_made
from tests.conftest import REPOSITORY, LiveServer, free_port, start_server, stop_server

pytestmark = pytest.mark.timeout(180)

TOKEN = "the token of this server"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that believes a proxy on this machine."""
    live = start_server(tmp_path_factory.mktemp("behind"), tokens=TOKEN, trusted_proxies="127.0.0.1", rate_limit=1)
    yield live
    stop_server(live)


@pytest.fixture(scope="module")
def proxy(behind: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """nginx with the lines of the document, on a port of its own; its address and the certificate."""
    if (program := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is None:
        pytest.skip("nginx is not installed (Debian: apt install nginx-light), so its recipe cannot be tried")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    certificate = self_made(folder, ("127.0.0.1",))
    recipe = re.search(r"```nginx\n(.*?)```", (REPOSITORY / "docs" / "deploy.md").read_text(), re.DOTALL)
    assert recipe is not None
    lines = recipe[1].replace("listen 443", f"listen 127.0.0.1:{port}").replace("avatar.example.org", "127.0.0.1")
    lines = lines.replace("/etc/ssl/avatar.pem", str(certificate.chain)).replace(
        "/etc/ssl/avatar.key", str(certificate.key)
    )
    lines = lines.replace("http://127.0.0.1:8080", behind.url)
    paths = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log {folder}/access.log; {paths}\n{lines} }}\n"
    )
    folder.chmod(0o755)
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(configuration)], stderr=subprocess.PIPE)
    try:
        trusting = ssl.create_default_context(cafile=str(certificate.chain))
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"https://127.0.0.1:{port}/healthz", verify=trusting)
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"https://127.0.0.1:{port}", certificate.chain
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_the_page_and_its_cookie_come_through(proxy: tuple[str, Path], behind: LiveServer) -> None:
    url, certificate = proxy
    link = subprocess.run(
        [sys.executable, "-m", "kdtalker", "link", "--url", url],
        cwd=REPOSITORY,
        env={"KDTALKER_TOKENS": TOKEN, "PATH": ""},
        capture_output=True,
        text=True,
    ).stdout.strip()
    with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), timeout=30) as client:
        opened = client.get(link)
        assert opened.status_code == 303
        assert "Secure" in opened.headers["set-cookie"], "the server knows that the browser came by HTTPS"
        assert client.get(f"{url}/app.js").status_code == 200
        own_page = {"Origin": url}
        assert client.post(f"{url}/sessions", headers=own_page).status_code == 415, "its own page may ask"
        assert client.post(f"{url}/sessions", headers={"Origin": "https://evil.test"}).status_code == 403
    assert "?key=" not in (certificate.parent / "access.log").read_text()


async def test_a_call_and_a_websocket_come_through(proxy: tuple[str, Path]) -> None:
    url, certificate = proxy
    trusting = ssl.create_default_context(cafile=str(certificate))
    peer = Peer(url)
    peer._http = httpx.AsyncClient(base_url=url, verify=trusting, headers=BEARER, timeout=30)
    async with peer:
        await peer.pictures(3, within=60)
        address = url.replace("https", "wss") + peer.location + "/audio"
        async with connect(address, ssl=trusting, additional_headers=BEARER, origin=url) as channel:
            async with asyncio.timeout(20):
                assert '"state"' in await channel.recv()
        with pytest.raises(InvalidStatus):
            await connect(address, ssl=trusting, origin=url)
