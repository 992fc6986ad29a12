"""Who may come in: tokens, links that expire, the page's cookie, foreign pages, and how often one may ask."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from benchmarks.peer import Peer
from server.auth import Keys
from server.limits import CLIENTS, Buckets, client_of
from server.settings import Settings
from tests.browser import ALLOW, launch, playwright
from tests.conftest import REPOSITORY, LiveServer, start_server, stop_server
from tests.test_ice import own_address

pytestmark = pytest.mark.timeout(180)

ALICE, BOB = "the long token of alice", "the long token of bob"
PORTRAIT = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


# Keys


def test_without_tokens_everybody_may_come_in() -> None:
    assert not Keys([]).required
    assert Keys([]).holder(None) is not None


def test_a_token_is_its_holder_and_nothing_like_it_is() -> None:
    keys = Keys([ALICE, BOB])
    alice, bob = keys.holder(ALICE), keys.holder(BOB)
    assert alice is not None
    assert bob is not None
    assert alice != bob
    assert alice.operator
    for wrong in (None, "", ALICE[:-1], ALICE + " ", ALICE.upper(), "é" * 30, "\udc80", "a.b.c"):
        assert keys.holder(wrong) is None


def test_a_link_lets_a_guest_in_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys([ALICE, BOB])
    link = keys.link("carol", 60)
    carol = keys.holder(link)
    assert carol is not None
    assert not carol.operator
    assert keys.holder(keys.link("dave", 60)) != carol
    assert Keys([BOB, ALICE]).holder(link) == carol
    assert Keys([BOB]).holder(link) is None, "a link goes with the token that signed it"
    assert keys.holder(keys.link("late", -1)) is None


def test_a_link_cannot_be_made_without_a_token() -> None:
    keys = Keys([ALICE])
    header, claims, signature = keys.link("carol", 60).split(".")
    body = {"sub": "carol", "exp": int(time.time()) + 60, "aud": "kdtalker", "operator": True}
    assert keys.holder(jwt.encode(body, None, algorithm="none")) is None
    assert keys.holder(jwt.encode(body, ALICE.ljust(32), algorithm="HS256")) is None
    assert keys.holder(f"{header}.{claims[:-2]}AA.{signature}") is None


def test_what_a_page_keeps_is_never_the_token() -> None:
    keys = Keys([ALICE])
    kept = keys.cookie(ALICE)
    assert kept is not None
    assert ALICE not in kept[0]
    assert keys.holder(kept[0]) == keys.holder(ALICE)
    link = keys.link("carol", 600)
    cookie = keys.cookie(link)
    assert cookie is not None
    assert cookie[0] == link
    assert 590 < cookie[1] <= 600
    assert keys.cookie("nobody") is None


def test_tokens_are_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_TOKENS", f"{ALICE},{BOB}")
    settings = Settings()
    assert [token.get_secret_value() for token in settings.tokens] == [ALICE, BOB]
    assert "long token" not in repr(settings)
    monkeypatch.setenv("KDTALKER_TOKENS", "much-too-short")
    with pytest.raises(ValueError, match="at least 16") as refused:
        Settings()
    assert "much-too-short" not in str(refused.value)


# Limits


def test_a_bucket_empties_and_fills() -> None:
    clock = [0.0]
    buckets = Buckets(rate=2, burst=3, now=lambda: clock[0])
    for _ in range(3):
        assert buckets.wait("a") == 0
        buckets.take("a")
    assert buckets.wait("a") == pytest.approx(0.5)
    assert buckets.wait("b") == 0
    clock[0] = 0.5
    assert buckets.wait("a") == 0
    clock[0] = 100
    for _ in range(3):
        buckets.take("a")
    assert buckets.wait("a") > 0


def test_clients_beyond_number_take_no_memory() -> None:
    buckets = Buckets(rate=1, burst=1)
    for client in range(CLIENTS + 50):
        buckets.take(str(client))
    assert len(buckets._levels) == CLIENTS
    assert buckets.wait(str(CLIENTS + 49)) > 0


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
    ],
)
def test_an_address_stands_for_a_client(host: str, client: str | None) -> None:
    assert client_of(host) == client


# The running server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(
        tmp_path_factory.mktemp("guarded"),
        tokens=f"{ALICE.replace(',', '')},{BOB.replace(',', '')}",
        cors_origins="https://friend.test",
        trusted_proxies="127.0.0.1",
        rate_limit=0.01,
        rate_burst=6,
        keep_photos=3600,
        max_sessions=2,
    )
    yield live
    stop_server(live)


@pytest.fixture
def http(guarded: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=60) as client:
        yield client


A, B = bearer(ALICE), bearer(BOB)
GUEST = Keys([ALICE]).link("carol", 600)
PATHS = ["/", "/app.js", "/avatars", "/avatars/iris/picture", "/ice-servers", "/metrics", "/openapi.json", "/nowhere"]


def test_every_way_in_asks_for_a_credential(http: httpx.Client) -> None:
    for path in PATHS:
        refused = http.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.headers["content-type"] == "application/problem+json"
        assert http.get(path, headers=A).status_code == (404 if path == "/nowhere" else 200), path
        assert http.get(path, headers=bearer("wrong")).status_code == 401
    for method, path in (
        ("POST", "/sessions"),
        ("POST", "/avatars"),
        ("DELETE", "/sessions/x"),
        ("DELETE", "/avatars/x"),
        ("POST", "/whip/room"),
        ("OPTIONS", "/whip/room"),
        ("PATCH", "/whip/room/x"),
        ("DELETE", "/whip/room/x"),
        ("POST", "/whep/room"),
        ("PATCH", "/whep/room/x"),
        ("DELETE", "/whep/room/x"),
    ):
        assert http.request(method, path).status_code == 401, path
    assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200


async def test_a_websocket_asks_for_a_credential_too(guarded: LiveServer) -> None:
    for path in ("/sessions/x/audio", "/nowhere"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(guarded.url.replace("http", "ws") + path)
        assert refused.value.response.status_code == 401
        with pytest.raises(InvalidStatus) as refused:
            await connect(guarded.url.replace("http", "ws") + path, additional_headers=A, origin="https://evil.test")
        assert refused.value.response.status_code == 403
        with pytest.raises(InvalidStatus) as refused:
            await connect(guarded.url.replace("http", "ws") + path, additional_headers=A)
        assert refused.value.response.status_code in (403, 404)  # inside, there is no such call


async def test_a_call_with_a_token(guarded: LiveServer) -> None:
    peer = Peer(guarded.url)
    peer._http.headers.update(A)
    async with peer:
        await peer.pictures(3, within=60)


def test_a_guest_may_call_and_not_look_around(http: httpx.Client) -> None:
    assert http.get("/avatars", headers=bearer(GUEST)).status_code == 200
    refused = http.get("/metrics", headers=bearer(GUEST))
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_link_opens_the_page_and_leaves_the_address_bar(http: httpx.Client) -> None:
    opened = http.get("/", params={"key": GUEST})
    assert opened.status_code == 303
    assert opened.headers["location"] == "/"
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert http.get("/").status_code == 200  # the client keeps the cookie
    assert http.get("/avatars").status_code == 200
    watched = http.get("/watch.html", params={"key": GUEST})
    assert (watched.status_code, watched.headers["location"]) == (303, "/watch.html")
    secure = http.get("/", params={"key": GUEST}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in secure.headers["set-cookie"]


def test_a_key_that_is_typed_in(http: httpx.Client) -> None:
    html = {"Accept": "text/html"}
    asked = http.get("/", headers=html)
    assert asked.status_code == 401
    assert 'action="/key"' in asked.text
    for part in ("/style.css", "/logo.svg"):
        assert http.get(part).status_code == 200
    assert http.post("/key", data={"key": "wrong"}, headers=html).status_code == 401
    assert http.post("/key", content=b"x" * 10_000, headers=html).status_code == 413
    assert http.post("/key", data={"key": ALICE}).status_code == 303
    assert http.get("/metrics").status_code == 200


def test_pages_of_other_servers_may_do_nothing_unless_named(http: httpx.Client) -> None:
    for origin in ("https://evil.test", "null"):
        refused = http.post("/sessions", headers=A | {"Origin": origin})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    friend = {"Origin": "https://friend.test"}
    assert http.get("/avatars", headers=A | friend).headers["access-control-allow-origin"] == "https://friend.test"
    asked = http.options("/sessions", headers=friend | {"Access-Control-Request-Method": "POST"})
    assert asked.status_code == 200
    assert http.post("/sessions", headers=A | friend).status_code == 415
    assert http.post("/sessions", headers=A | {"Origin": str(http.base_url)}).status_code == 415


def test_without_the_setting_no_page_is_named(server: LiveServer) -> None:
    answer = httpx.get(f"{server.url}/avatars", headers={"Origin": "https://friend.test"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.post(f"{server.url}/avatars", headers={"Origin": "https://friend.test"}).status_code == 403


def test_a_face_is_there_for_whoever_sent_it(http: httpx.Client) -> None:
    sent = http.post("/avatars", files={"photo": ("me.jpg", PORTRAIT.read_bytes(), "image/jpeg")}, headers=A)
    assert sent.status_code == 201, sent.text
    face, picture = sent.headers["location"], sent.json()["picture"]
    seen = http.get(picture, headers=A)
    assert seen.status_code == 200
    assert seen.headers["cache-control"] == "no-store"
    offer = {"Content-Type": "application/sdp"}
    for stranger in (B, bearer(GUEST)):
        assert http.get(picture, headers=stranger).status_code == 404
        assert http.post("/sessions", params={"avatar": sent.json()["id"]}, headers=stranger | offer).status_code == 404
        assert http.delete(face, headers=stranger).status_code == 404
    assert http.post("/sessions", params={"avatar": sent.json()["id"]}, headers=A | offer).status_code == 400
    assert http.delete(face, headers=A).status_code == 204
    assert http.get(picture, headers=A).status_code == 404


async def test_a_photo_is_deleted_when_its_time_is_over(tmp_path: Path) -> None:
    own = start_server(tmp_path, keep_photos=2)
    try:
        async with httpx.AsyncClient(base_url=own.url, timeout=60) as client:
            sent = await client.post("/avatars", files={"photo": ("me.jpg", PORTRAIT.read_bytes(), "image/jpeg")})
            picture = sent.json()["picture"]
            assert (await client.get(picture)).status_code == 200
            async with asyncio.timeout(20):
                while (await client.get(picture)).status_code != 404:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
    finally:
        stop_server(own)


def test_who_asks_too_often_has_to_wait_and_nobody_else(http: httpx.Client) -> None:
    def ask(client: str, credential: str = "wrong") -> httpx.Response:
        return http.get("/avatars", headers=bearer(credential) | {"X-Forwarded-For": client})

    good = ALICE
    assert [ask("198.51.100.1").status_code for _ in range(6)] == [401] * 6
    waiting = ask("198.51.100.1", good)
    assert waiting.status_code == 429, "else guessing would go on"
    assert int(waiting.headers["retry-after"]) > 1
    assert ask("198.51.100.2", good).status_code == 200
    # Who forges the header gets its own address, the last one that the proxy wrote, judged.
    assert ask("198.51.100.9, 198.51.100.1", good).status_code == 429
    for _ in range(6):
        http.post("/sessions", headers=A | {"X-Forwarded-For": "2001:db8::1"})
    assert ask("2001:db8::2", good).status_code == 429


def test_a_header_of_a_proxy_that_nobody_named_is_not_believed(tmp_path: Path) -> None:
    own = start_server(tmp_path, host="0.0.0.0", rate_limit=0.01, rate_burst=2)
    try:
        url = own.url.replace("127.0.0.1", own_address())
        answers = [
            httpx.post(f"{url}/sessions", headers={"X-Forwarded-For": f"198.51.100.{client}"}).status_code
            for client in range(3)
        ]
        assert answers == [415, 415, 429]
        assert httpx.post(f"{own.url}/sessions").status_code == 415  # this machine itself is not limited
        assert "no tokens are set" in own.log.read_text()
    finally:
        stop_server(own)


async def test_a_request_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    own = start_server(tmp_path, body_timeout=1)
    try:
        host, _, port = own.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/sdp\r\nContent-Length: 9\r\n\r\nv=0"
        )
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.readline()
        writer.close()
    finally:
        stop_server(own)


def test_the_command_makes_links_that_open(guarded: LiveServer) -> None:
    def made(*options: str, tokens: str = ALICE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kdtalker", "link", "--url", guarded.url, *options],
            cwd=REPOSITORY,
            env={"KDTALKER_TOKENS": tokens, "PATH": ""},
            capture_output=True,
            text=True,
        )

    link = made("--for", "5m").stdout.strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?key=[\w.-]+", link)
    assert httpx.get(link).status_code == 303
    for wrong in (made("--for", "soon"), made(tokens="")):
        assert wrong.returncode == 1
        assert wrong.stderr.startswith("kdtalker link: ")
        assert "Traceback" not in wrong.stderr


def test_the_page_works_behind_a_key(guarded: LiveServer, tmp_path: Path) -> None:
    with playwright() as driver:
        browser = launch(driver, ALLOW)
        page = browser.new_page()
        page.goto(guarded.url)
        page.fill("#key", ALICE)
        page.click("button")
        page.wait_for_selector("body[data-state=idle]")
        page.click("#call")
        page.wait_for_selector("video.shown", timeout=60_000)
        page.click("#call")
        page.wait_for_selector("body[data-state=idle]")
        guest = browser.new_context().new_page()
        guest.goto(f"{guarded.url}/?key={GUEST}")
        guest.wait_for_selector("body[data-state=idle]")
        assert guest.url == f"{guarded.url}/"
        browser.close()
