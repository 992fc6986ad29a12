"""The door of the HTTP interface: rate limits, foreign pages, credentials. Everything passes it, WebSockets too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth import COOKIE, Holder, Keys
from server.limits import Buckets, client_of
from server.metrics import Metrics
from server.problems import ProblemError, response

FREE = {"/healthz", "/readyz"}  # probes
SIGN_IN = "/key"
PUBLIC = {SIGN_IN, "/style.css", "/logo.svg"}  # what the page that asks for a key is made of
# What an avatar in a page of another server is made of: it brings its key itself.
EMBEDDED = {"/embed.js", "/session.js", "/ask.js", "/peer.js", "/words.js"}
PAGES = {"/", "/watch.html"}
READING = {"GET", "HEAD", "OPTIONS"}
MAX_FORM = 8192


class Guard:
    """Lets requests in, with whoever sends them as `request.state.holder`; answers the others itself."""

    def __init__(
        self, app: ASGIApp, keys: Keys, buckets: Buckets, origins: tuple[str, ...], page: Path, metrics: Metrics
    ) -> None:
        self._app, self._keys, self._buckets, self._origins, self._metrics = app, keys, buckets, origins, metrics
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in FREE:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._judge(scope, receive)
        except ProblemError as problem:
            self._metrics.refused.labels(str(problem.status)).inc()
            answer = response(problem)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def _judge(self, scope: Scope, receive: Receive) -> Response | None:
        """None to let the request in, an answer of our own, or ProblemError."""
        headers = Headers(scope=scope)
        reading = scope["type"] == "http" and scope["method"] in READING
        client = client_of(scope["client"][0] if scope.get("client") else None)
        if client is not None:
            if wait := self._buckets.wait(client):
                seconds = str(math.ceil(wait))
                raise ProblemError(429, "You ask too often; wait a little.", {"Retry-After": seconds})
            if not reading:
                self._buckets.take(client)
        if not reading and not self._ours(headers):
            raise ProblemError(403, "Pages of other servers may not do this; see the setting cors_origins.")
        if self._keys.required and scope["type"] == "http" and scope["path"] == SIGN_IN and scope["method"] == "POST":
            return await self._sign_in(Request(scope, receive), client)
        if (invited := self._invitation(scope)) is not None:
            return invited
        holder = self._holder(headers)
        if holder is None and reading and scope["path"] in PUBLIC | EMBEDDED:
            return None
        if holder is None:
            return self._refuse(scope, headers, client)
        scope.setdefault("state", {})["holder"] = holder
        return None

    def _ours(self, headers: Headers) -> bool:
        """Whether a request that changes something comes from a page of this server, or from no page at all."""
        origin = headers.get("origin")
        return origin is None or origin in self._origins or urlsplit(origin).netloc == headers.get("host", "")

    def _holder(self, headers: Headers) -> Holder | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._keys.holder(bearer.strip())
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            morsel = None
        return self._keys.holder(morsel.value if morsel else None)

    def _invitation(self, scope: Scope) -> Response | None:
        """A page opened by a link, `/?key=...`: from here on the cookie says it, and the address bar no more."""
        asked = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in PAGES
        if not self._keys.required or not asked:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        return self._welcome(given, scope["scheme"], scope["path"])

    def _welcome(self, credential: str, scheme: str, path: str = "/") -> Response | None:
        kept = self._keys.cookie(credential)
        if kept is None:
            return None
        answer = RedirectResponse(path, 303, {"Cache-Control": "no-store"})
        value, seconds = kept
        # Lax, not Strict: a link in a message is opened from another site, and must arrive signed in.
        answer.set_cookie(COOKIE, value, seconds, httponly=True, samesite="lax", secure=scheme == "https")
        return answer

    async def _sign_in(self, request: Request, client: str | None) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM:
                raise ProblemError(413, "That is too large.")
        given = parse_qs(body.decode("latin-1")).get("key", [""])[0]
        return self._welcome(given.strip(), request.url.scheme) or self._refuse(request.scope, request.headers, client)

    def _refuse(self, scope: Scope, headers: Mapping[str, str], client: str | None) -> Response:
        """401: to a person the page that asks for a key, to a program a problem. A guess costs as much as a request."""
        self._metrics.refused.labels("401").inc()
        if client is not None:
            self._buckets.take(client)
        challenge = {"WWW-Authenticate": 'Bearer realm="kdtalker"', "Cache-Control": "no-store"}
        if scope["type"] == "http" and scope["path"] in PAGES | {SIGN_IN} and "text/html" in headers.get("accept", ""):
            return HTMLResponse(self._page.read_text("utf-8"), 401, challenge)
        return response(ProblemError(401, "Send a bearer token, or open a link that is still good.", challenge))
