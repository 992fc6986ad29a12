"""The ASGI application and the process around it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.types import KDTalkerError
from server import control, logs, openapi, problems, recording_resource, sight, signalling, speech_resource, tls, whip
from server.auth import Keys
from server.guard import Guard
from server.house import House
from server.limits import Buckets
from server.settings import Settings
from server.shelf import Shelf

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob: mediastream:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Permissions-Policy": "microphone=(self), camera=(self), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE = Path(__file__).resolve().parent.parent / "web_client"  # beside this folder, installed or not
DRAIN = 5  # seconds that requests have to finish at shutdown

logger = logging.getLogger(__name__)


class SecurityHeaders:
    """Adds the headers above to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def create_app(settings: Settings, shelf: Shelf | None = None) -> FastAPI:
    """The application of one server; `app.state.house` holds what runs in it. `shelf`: of photos, its own without."""
    house = House(settings, shelf)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with house.open():
            yield

    # The interactive documentation pages load scripts from elsewhere, which this server never makes a browser do.
    app = FastAPI(title="KDTalker Live", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.house = house
    # The last one added is met first: what follows are the headers, then other pages' questions, then the door.
    app.add_middleware(
        Guard,
        keys=Keys(token.get_secret_value() for token in settings.tokens),
        buckets=Buckets(settings.rate_limit, settings.rate_burst),
        origins=settings.cors_origins,
        page=PAGE / "key.html",
        metrics=house.metrics,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "Session-Token"],
            expose_headers=["Location", "Retry-After", "ETag", "Link", "Session-Token", "Watch-Location"],
        )
    app.add_middleware(SecurityHeaders)
    problems.install(app, house.metrics, settings.retry_after)
    app.include_router(signalling.router(house))
    app.include_router(whip.router(house))
    app.include_router(control.router(house))
    app.include_router(recording_resource.router(house))
    app.include_router(speech_resource.router(house))
    app.include_router(sight.router(house))
    openapi.describe(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def _certificate(settings: Settings) -> dict[str, Any]:
    """uvicorn's options for HTTPS, none without; raises KDTalkerError for files that cannot be used."""
    chain, key = settings.tls_cert, settings.tls_key
    if settings.self_signed:
        made = tls.self_made(
            settings.cache / "tls", tls.own_names(settings.host, str(settings.advertise) if settings.advertise else "")
        )
        logger.info("self-made certificate, SHA-256 fingerprint %s", made.fingerprint)
        chain, key = made.chain, made.key
    if chain is None or key is None:
        return {}
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(chain, key)
    except OSError as error:  # an SSLError is one
        raise KDTalkerError(f"{chain} and {key} are no certificate and its key: {error}") from error
    return {"ssl_certfile": chain, "ssl_keyfile": key}


def warn_of_open_door(settings: Settings) -> None:
    if not settings.tokens and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no tokens are set: whoever reaches %s:%d may call", settings.host, settings.port)


class Server(uvicorn.Server):
    """Stops at once on SIGINT. On SIGTERM it goes on answering while the running calls finish, then stops."""

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house = house
        self._draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self._draining:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        self._loop.call_soon_threadsafe(self._drain)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _drain(self) -> None:
        self._house.drain(partial(super().handle_exit, signal.SIGTERM, None))


def serve(settings: Settings) -> None:
    """Serve until SIGINT, or SIGTERM and the end of the running calls; raises what kept the engines from opening."""
    logs.configure(settings.log_level, settings.log_format)
    warn_of_open_door(settings)
    certificate = _certificate(settings)
    app = create_app(settings)
    house: House = app.state.house
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",  # aiortc_door knows its transports
        http="h11",  # whatever else is installed
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        ws_max_size=control.MAX_FRAME,
        **certificate,
        timeout_graceful_shutdown=DRAIN,
    )
    server = Server(config, house)

    def ready() -> None:
        logger.info("ready: %s://%s:%d", "https" if certificate else "http", settings.host, settings.port)

    def give_up() -> None:
        server.should_exit = True

    house.on_ready, house.on_failure = ready, give_up
    with suppress(KeyboardInterrupt):  # uvicorn raises it once more, after everything is over
        server.run()
    if house.failure is not None:
        raise house.failure
