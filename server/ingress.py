"""The front of a cluster: every new call goes to the worker with most headroom, every later word of it there too.

The names of calls, viewers and recordings begin with their worker's, so that any ingress finds it by itself. An
ingress holds nothing that another one would miss.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from server import proxy
from server.app import SecurityHeaders
from server.control import MAX_FRAME
from server.exposition import CONTENT_TYPE, merged
from server.placement import Phase, WorkerState
from server.problems import ProblemError, not_now, response
from server.roster import SOONEST, Registry, Roster
from server.settings import Settings
from server.signalling import GONE, STARTING, limited
from server.whip import NOBODY

TRIES = 4  # workers that a new call is offered to
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def owner_of(path: str) -> str | None:
    """The name of the call, viewer or recording that a request is about; None where it is about none."""
    parts = path.strip("/").split("/")
    if len(parts) >= 2 and parts[0] in ("sessions", "recordings"):
        return parts[1]
    return parts[2] if len(parts) == 3 and parts[0] in ("whip", "whep") else None


def worker_of(name: str) -> str:
    """The worker in the name of something that it has."""
    return name.partition("-")[0]


class Ingress:
    """Passes requests on. `open` it first: while it is open it follows the registry."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._settings = settings
        self._roster = Roster(registry)
        self._directory = self._roster.directory
        self._http = proxy.client()
        self._limit = max(settings.max_photo, settings.max_speech, settings.max_offer) + 65_536  # a form's own bytes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self._roster.open():
            try:
                yield
            finally:
                await self._http.aclose()

    async def http(self, request: Request) -> Response:
        """Answer a request, or pass on a worker's answer."""
        try:
            body = await limited(request, self._limit, self._settings.body_timeout).body()
            return await self._answer(proxy.asked(request, body), request.url.path)
        except ProblemError as problem:
            return response(problem)

    async def websocket(self, socket: WebSocket) -> None:
        try:
            worker = await self._keeper(owner_of(socket.url.path) or "")
            await proxy.relay(socket, worker.url, MAX_FRAME)
        except (ProblemError, proxy.UnreachableError) as error:
            problem = error if isinstance(error, ProblemError) else ProblemError(404, GONE)
            if "websocket.http.response" in socket.scope.get("extensions", {}):
                await socket.send_denial_response(response(problem))
            else:
                await socket.close(1008)

    async def ready(self, request: Request) -> Response:
        await self._roster.look()
        if self._directory.best() is not None:
            return PlainTextResponse("ready\n")
        return response(self._nobody())

    async def sessions(self, request: Request) -> Response:
        """The calls of all workers, as one server lists its own."""
        answers = await self._everywhere(request)
        if isinstance(answers, Response):
            return answers
        listed = [json.loads(body) for _, body in answers]
        content = {
            "capacity": sum(each["capacity"] for each in listed),
            "viewer_capacity": sum(each["viewer_capacity"] for each in listed),
            "calls": [call for each in listed for call in each["calls"]],
            "workers": len(listed),
        }
        return JSONResponse(content, headers={"Cache-Control": "no-store"})

    async def metrics(self, request: Request) -> Response:
        """The figures of all workers, each with the label `worker`."""
        answers = await self._everywhere(request)
        if isinstance(answers, Response):
            return answers
        return Response(merged({name: body.decode() for name, body in answers}), media_type=CONTENT_TYPE)

    async def _answer(self, asked: proxy.Asked, path: str) -> Response:
        if asked.method == "POST" and path == "/sessions":
            return await self._place(asked)
        if (name := owner_of(path)) is not None:
            return await self._at(await self._keeper(name), asked)
        top, _, room = path.strip("/").partition("/")
        if asked.method == "POST" and top == "whip":
            return await self._publish(asked, room)
        if asked.method == "POST" and top == "whep":
            return await self._at(await self._in_room(room), asked)
        return await self._anywhere(asked)

    async def _place(self, asked: proxy.Asked) -> Response:
        """Offer a new call to one worker after another, those with most headroom first."""
        tried: set[str] = set()
        if self._directory.best() is None:
            await self._roster.look()
        for _ in range(TRIES):
            worker = self._directory.best(tried)
            if worker is None:
                break
            tried.add(worker.name)
            answer = await self._offer(worker, asked)
            if answer is not None:
                return answer
        raise self._nobody()

    async def _offer(self, worker: WorkerState, asked: proxy.Asked) -> Response | None:
        """A worker's answer to a new call; None where it has no place, or is gone."""
        try:
            answer = await self._send(worker, asked)
        except proxy.UnreachableError:
            self._directory.drop(worker.name)
            return None
        except proxy.BrokenError:
            raise not_now("gone", "The worker that was to take this call is gone; try again.", 1) from None
        now = self._directory.find(worker.name) or worker
        if answer.status_code == 503:
            await answer.aclose()
            self._directory.put(replace(now, places=0))
            return None
        if answer.status_code == 201:
            self._directory.put(replace(now, calls=now.calls + 1, places=max(0, now.places - 1)))
        return proxy.handed_on(answer)

    async def _publish(self, asked: proxy.Asked, room: str) -> Response:
        """A room has one call: whoever publishes into it comes to that worker."""
        if self._directory.best() is None:
            await self._roster.look()
        worker = self._directory.in_room(room) or self._directory.best()
        if worker is None:
            raise self._nobody()
        name = await self._roster.claim(room, worker.name)
        try:
            return await self._at(await self._named(name), asked)
        except ProblemError:
            raise not_now("gone", "The worker that had this room is gone; try again.", 1) from None

    async def _in_room(self, room: str) -> WorkerState:
        """The worker of the call that is watched there; a room without a name of its own is called as its worker is."""
        for fresh in (False, True):
            if fresh:
                await self._roster.look()
            worker = self._directory.find(worker_of(room)) or self._directory.in_room(room)
            if worker is not None and worker.url:
                return worker
        raise ProblemError(404, NOBODY)

    async def _keeper(self, name: str) -> WorkerState:
        """The worker that has what is called so."""
        return await self._named(worker_of(name))

    async def _named(self, name: str) -> WorkerState:
        """ProblemError where there is none, or where it began anew and has forgotten everything."""
        if self._directory.find(name) is None:
            await self._roster.look()
        worker = self._roster.living(name)
        if worker is None:
            raise ProblemError(404, GONE)
        return worker

    async def _at(self, worker: WorkerState, asked: proxy.Asked) -> Response:
        """The answer of the one worker that has it."""
        try:
            return proxy.handed_on(await self._send(worker, asked))
        except proxy.UnreachableError:
            raise ProblemError(404, GONE) from None  # nobody is there any more: its calls are gone
        except proxy.BrokenError:
            raise not_now("gone", "The worker that has this call does not answer; try again.", 1) from None

    async def _send(self, worker: WorkerState, asked: proxy.Asked) -> httpx.Response:
        """As `proxy.send`, for as long as the worker is known to live: a machine that is dead refuses nothing."""
        answer = asyncio.create_task(proxy.send(self._http, worker.url, asked))
        try:
            while not (await asyncio.wait({answer}, timeout=SOONEST))[0]:
                if self._roster.living(worker.name) is None:
                    raise proxy.UnreachableError(worker.url)
            return answer.result()
        finally:
            answer.cancel()

    async def _anywhere(self, asked: proxy.Asked) -> Response:
        """What any worker knows: the page, the avatars, the voices."""
        tried: set[str] = set()
        for worker in self._preferred():
            tried.add(worker.name)
            try:
                return proxy.handed_on(await self._send(worker, asked))
            except proxy.UnreachableError:
                continue
            except proxy.BrokenError:
                if asked.method not in ("GET", "HEAD", "OPTIONS"):
                    break
        raise not_now("starting", "No worker answers yet; try again soon.", STARTING)

    async def _everywhere(self, request: Request) -> list[tuple[str, bytes]] | Response:
        """The same question to every worker: (name, body) of each that answers, or the first refusal."""
        question = proxy.asked(request, b"")

        async def ask(worker: WorkerState) -> tuple[WorkerState, Response | bytes | None]:
            try:
                answer = await self._send(worker, question)
            except (proxy.UnreachableError, proxy.BrokenError):
                return worker, None
            body = await answer.aread()
            if answer.status_code == 200:
                return worker, body
            return worker, Response(body, answer.status_code, media_type=answer.headers.get("Content-Type"))

        answers = await asyncio.gather(*map(ask, self._preferred()))
        refusals = [answer for _, answer in answers if isinstance(answer, Response)]
        bodies = [(worker.name, answer) for worker, answer in answers if isinstance(answer, bytes)]
        if refusals:
            return refusals[0]
        return bodies or response(not_now("starting", "No worker answers yet; try again soon.", STARTING))

    def _preferred(self) -> list[WorkerState]:
        able = [worker for worker in self._directory if worker.phase is not Phase.STARTING and worker.url]
        return sorted(able, key=lambda worker: (worker.phase is Phase.DRAINING, -worker.places, worker.name))

    def _nobody(self) -> ProblemError:
        phases = {worker.phase for worker in self._directory}
        if phases and Phase.OPEN not in phases:
            return not_now("starting", "The cluster is starting.", STARTING)
        return not_now("full", "All places are taken; try again soon.", self._settings.retry_after)


def create_ingress(registry: Callable[[], Registry], settings: Settings) -> ASGIApp:
    """The application of one ingress; `registry` is called once, in the process and the loop that it runs in."""
    opened: list[Ingress] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ingress = Ingress(registry(), settings)
        async with ingress.open():
            opened.append(ingress)
            yield

    async def alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        return await opened[0].ready(request)

    async def sessions(request: Request) -> Response:
        return await opened[0].sessions(request)

    async def metrics(request: Request) -> Response:
        return await opened[0].metrics(request)

    async def anything(request: Request) -> Response:
        return await opened[0].http(request)

    async def channel(socket: WebSocket) -> None:
        await opened[0].websocket(socket)

    routes = [
        Route("/healthz", alive),
        Route("/readyz", ready),
        Route("/metrics", metrics),
        Route("/sessions", sessions, methods=["GET"]),
        Route("/{path:path}", anything, methods=METHODS),
        WebSocketRoute("/{path:path}", channel),
    ]
    app = SecurityHeaders(Starlette(routes=routes, lifespan=lifespan))
    return ProxyHeadersMiddleware(app, list(settings.trusted_proxies)) if settings.trusted_proxies else app  # type: ignore[arg-type, return-value]
