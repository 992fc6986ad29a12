"""One request or one WebSocket passed on to another server, unchanged but for what says who asks (RFC 9110, 7.6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

CONNECTING = 1.0  # seconds until a server counts as not there
ANSWERING = 120.0  # seconds: a photo may wait behind others
OPENING = 10.0  # seconds that a WebSocket may take
HOP = {
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
}


class UnreachableError(Exception):
    """Nobody answers there; nothing was asked."""


class BrokenError(Exception):
    """The connection ended before the answer was there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read whole, so that it can be sent more than once. `target`: path and query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def asked(request: Request, body: bytes) -> Asked:
    return Asked(request.method, target_of(request), tuple(_passed_on(request).items()), body)


def target_of(connection: HTTPConnection) -> str:
    path: bytes = connection.scope.get("raw_path") or connection.scope["path"].encode()
    query: bytes = connection.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    timeout = httpx.Timeout(ANSWERING, connect=CONNECTING)
    return httpx.AsyncClient(limits=limits, timeout=timeout, follow_redirects=False, trust_env=False)


async def send(http: httpx.AsyncClient, url: str, what: Asked) -> httpx.Response:
    """The answer of the server at `url`, its body still to be read; raises UnreachableError or BrokenError."""
    request = http.build_request(what.method, url + what.target, headers=what.headers, content=what.body)
    try:
        return await http.send(request, stream=True)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UnreachableError(url) from error
    except httpx.TransportError as error:
        raise BrokenError(url) from error


def handed_on(answer: httpx.Response) -> Response:
    """That answer, byte by byte as it comes."""
    response = StreamingResponse(_bytes(answer), answer.status_code, background=BackgroundTask(answer.aclose))
    kept = HOP - {"content-length"}
    response.raw_headers = [
        (key.lower(), value) for key, value in answer.headers.raw if key.lower().decode() not in kept
    ]
    return response


async def _bytes(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for part in answer.aiter_raw():
        yield part


async def relay(socket: WebSocket, url: str, limit: int) -> None:
    """Connect a WebSocket through to `url` until either end closes it; `limit`: bytes of a message.

    Raises UnreachableError before anything was answered.
    """
    headers = {key: value for key, value in _passed_on(socket).items() if not key.startswith("sec-websocket")}
    # Under the name that it was asked by: a server takes a page's own requests only.
    target = f"ws://{headers.pop('host', 'localhost')}{target_of(socket)}"
    try:
        upstream = await connect(
            target,
            additional_headers=headers,
            host=httpx.URL(url).host,
            port=httpx.URL(url).port,
            max_size=limit,
            open_timeout=OPENING,
            ping_interval=None,
            compression=None,
            user_agent_header=None,
            proxy=None,
        )
    except InvalidStatus as refused:
        await _refuse(socket, refused)
        return
    except (OSError, TimeoutError, WebSocketException) as error:
        raise UnreachableError(url) from error
    async with upstream:
        await socket.accept()
        work = [asyncio.create_task(_up(socket, upstream)), asyncio.create_task(_down(socket, upstream))]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def _up(socket: WebSocket, upstream: ClientConnection) -> None:
    with suppress(WebSocketDisconnect, ConnectionClosed):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            await upstream.send(message["bytes"] if text is None else text)


async def _down(socket: WebSocket, upstream: ClientConnection) -> None:
    code = 1000
    with suppress(WebSocketDisconnect, RuntimeError):  # the client left while it was being told something
        try:
            async for message in upstream:
                await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1012  # the server is gone: come again
        await socket.close(code)


async def _refuse(socket: WebSocket, refused: InvalidStatus) -> None:
    answer = refused.response
    if "websocket.http.response" not in socket.scope.get("extensions", {}):
        await socket.close(1008)
        return
    kind = answer.headers.get("Content-Type", "text/plain")
    await socket.send_denial_response(Response(bytes(answer.body), answer.status_code, {"Content-Type": kind}))


def _passed_on(connection: HTTPConnection) -> Mapping[str, str]:
    """The headers for the next server, with whom and by what scheme this one was asked."""
    given: Headers = connection.headers
    kept = {key: value for key, value in given.items() if key not in HOP}
    if "cookie" in given:
        kept["cookie"] = "; ".join(given.getlist("cookie"))
    peer = connection.client.host if connection.client else ""
    scheme = {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme)
    return kept | {"x-forwarded-for": peer, "x-forwarded-proto": scheme}
