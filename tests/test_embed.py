"""The web component in a page of another server, whose visitors bring a link's key; and a program with a token."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from client import AvatarClient, AvatarError
from server.auth import Keys
from tests.browser import ALLOW, NOTE_PEERS, Visit, launch, playwright, visit
from tests.conftest import REPOSITORY, LiveServer, start_server, stop_server

pytestmark = pytest.mark.timeout(180)

TOKEN = "the long token of this server"
ELEMENT = "document.querySelector('kdtalker-avatar')"
SHADOW = f"{ELEMENT}.shadowRoot"
HEARD = """async () => {
  const entries = [...(await window.peers.at(-1).getStats()).values()];
  return entries.find(({ type, kind }) => type === "inbound-rtp" && kind === "audio")?.totalAudioEnergy ?? 0;
}"""


class Pages(SimpleHTTPRequestHandler):
    """The folder of examples, with the address of the server in them that is tried."""

    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page if self.path == "/embed.html" else b"")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def other() -> Iterator[ThreadingHTTPServer]:
    """Another web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as web:
        thread = threading.Thread(target=partial(web.serve_forever, 0.05))
        thread.start()
        yield web
        web.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def guarded(other: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that wants a token and lets pages of the other one in."""
    live = start_server(
        tmp_path_factory.mktemp("guarded"), tokens=TOKEN, cors_origins=f"http://127.0.0.1:{other.server_port}"
    )
    yield live
    stop_server(live)


def embedding(other: ThreadingHTTPServer, guarded: LiveServer, attributes: str) -> str:
    """The address of examples/embed.html on the other server, for this server and with more attributes."""
    page = (REPOSITORY / "examples" / "embed.html").read_text().replace("http://127.0.0.1:8080", guarded.url)
    Pages.page = page.replace("<kdtalker-avatar ", f"<kdtalker-avatar {attributes} ").encode()
    return f"http://127.0.0.1:{other.server_port}/embed.html"


def opened(visitor: Visit, address: str) -> None:
    visitor.page.add_init_script(NOTE_PEERS)
    for event, heard in (("console", visitor._said), ("response", visitor._answered)):
        visitor.page.on(event, heard)  # type: ignore[call-overload]
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    visitor.page.goto(address)


def shot(visitor: Visit, name: str) -> None:
    """A picture of the page for a person to look at, where KDTALKER_SHOTS names a folder."""
    if folder := os.environ.get("KDTALKER_SHOTS"):
        visitor.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_a_page_of_another_server_has_the_avatar(other: ThreadingHTTPServer, guarded: LiveServer) -> None:
    key = Keys([TOKEN]).link("visitor", 600)
    with playwright() as driver:
        # Sound may only play after a tap here, as on phones.
        browser = launch(driver, ALLOW, "--autoplay-policy=user-gesture-required")
        with visit(browser, guarded.url) as visitor:
            page = visitor.page
            opened(visitor, embedding(other, guarded, f'key="{key}" avatar="astronaut" mode="mirror"'))
            visitor.until(f"{SHADOW}.querySelector('img').naturalWidth > 0")
            shot(visitor, "embed-before")
            page.click("kdtalker-avatar button:has-text('Start')")
            visitor.until(f"{ELEMENT}.state === 'live' && {SHADOW}.querySelector('video').currentTime > 1", 60)
            assert page.evaluate(f"{SHADOW}.querySelector('video').videoWidth") == 512
            assert page.evaluate(f"{SHADOW}.querySelector('video').hasAttribute('playsinline')")
            assert page.evaluate(f"{SHADOW}.querySelector('video').muted"), "one's own voice begins in silence"
            page.click("kdtalker-avatar button:has-text('Sound on')")
            visitor.until(f"!{SHADOW}.querySelector('video').muted && !{SHADOW}.querySelector('video').paused")
            shot(visitor, "embed-live")
            page.evaluate(f"{ELEMENT}.remove()")
            visitor.until(lambda: sessions(guarded) == 0)
        browser.close()


def test_it_says_what_the_page_asks_for(other: ThreadingHTTPServer, guarded: LiveServer) -> None:
    key = Keys([TOKEN]).link("visitor", 600)
    with playwright() as driver:
        browser = launch(driver, "--autoplay-policy=user-gesture-required")  # and no microphone
        with visit(browser, guarded.url) as visitor:
            opened(visitor, embedding(other, guarded, f'key="{key}"'))
            visitor.page.click("kdtalker-avatar button:has-text('Start')")
            visitor.until(f"{ELEMENT}.state === 'live'", 60)
            assert not visitor.page.evaluate(f"{SHADOW}.querySelector('video').muted")
            visitor.page.click("button:has-text('Say it')")
            visitor.until(lambda: visitor.page.evaluate(HEARD) > 0, 60)
            visitor.page.evaluate(f"{ELEMENT}.interrupt()")
            visitor.page.click("kdtalker-avatar button:has-text('Stop')")
            visitor.until(f"{ELEMENT}.state === 'idle'")
            visitor.until(lambda: sessions(guarded) == 0)
        browser.close()


def test_without_a_key_it_says_what_is_missing(other: ThreadingHTTPServer, guarded: LiveServer) -> None:
    with playwright() as driver:
        browser = launch(driver)
        with visit(browser, guarded.url) as visitor:
            visitor.refusals = {401}
            opened(visitor, embedding(other, guarded, ""))
            visitor.until(f"{SHADOW}.querySelector('[role=status]').textContent.includes('bearer token')")
            shot(visitor, "embed-refused")
            with pytest.raises(Exception, match="start one first"):
                visitor.page.evaluate(f"{ELEMENT}.speak('Hello')")
        browser.close()


def sessions(guarded: LiveServer) -> int:
    answer = httpx.get(f"{guarded.url}/sessions", headers={"Authorization": f"Bearer {TOKEN}"})
    return len(answer.json()["calls"])


async def test_a_program_brings_its_token(guarded: LiveServer) -> None:
    async with AvatarClient(guarded.url, token=TOKEN) as call:
        await anext(call.video)
        assert (await call.control(gaze="fixed"))["gaze"] == "fixed"
    with pytest.raises(AvatarError, match="bearer token") as refused:
        async with AvatarClient(guarded.url, token="another"):
            pass
    assert refused.value.status == 401
