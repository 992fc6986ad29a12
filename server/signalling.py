"""The resources of the HTTP interface: sessions, avatars, ICE servers.

A call is made by one exchange: SDP offer in, 201 with the SDP answer and the call's own address out.
Its name cannot be guessed, so knowing the address is the right to end it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.types import Message

from server import ice
from server.auth import Holder
from server.house import House
from server.modes import ConversationError, Mode
from server.problems import ProblemError, not_now
from server.reception import Reception
from server.session import EndedError, Session
from server.shelf import Avatar

SDP = "application/sdp"
NO_STORE = {"Cache-Control": "no-store"}
TOKEN = "Session-Token"  # header: the right to give a session a new connection
WATCH = "Watch-Location"  # header: where others may watch the call
GONE = "There is no such session; it may have ended."
STARTING = 2  # seconds until a server that starts is worth asking again


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()
    settings, metrics, avatars = house.settings, house.metrics, house.avatars

    @routes.post("/sessions", status_code=201)
    async def open_session(
        request: Request, holder: Caller, avatar: str | None = None, mode: Mode = Mode.MIRROR
    ) -> Response:
        require_type(request, SDP)
        require_mode(house, mode)
        reception = open_reception(house)
        chosen = await find_avatar(house, avatar or avatars.default, holder)
        offer = (await body(request, settings.max_offer, settings.body_timeout)).decode("utf-8", "replace")
        session, answer = await reception.admit(offer, chosen.id, chosen.identity, mode=mode)
        headers = {"Location": f"/sessions/{session.id}", TOKEN: session.token, WATCH: f"/whep/{session.room.name}"}
        return Response(answer, 201, headers | NO_STORE, media_type=SDP)

    @routes.post("/sessions/{name}")
    async def reconnect(request: Request, name: str) -> Response:
        require_type(request, SDP)
        session = find_session(house, name)
        require_right(request, session)
        offer = (await body(request, settings.max_offer, settings.body_timeout)).decode("utf-8", "replace")
        try:
            answer = await session.connect(offer)
        except EndedError:
            raise ProblemError(404, GONE, reason="ended") from None
        return Response(answer, 200, NO_STORE, media_type=SDP)

    @routes.delete("/sessions/{name}", status_code=204)
    async def end_session(name: str) -> Response:
        session = find_session(house, name)
        session.end("deleted")
        await session.closed()
        return Response(status_code=204)

    @routes.get("/sessions/{name}/stats")
    async def session_stats(name: str) -> JSONResponse:
        return JSONResponse(find_session(house, name).stats(), headers=NO_STORE)

    @routes.get("/ice-servers")
    async def ice_servers() -> JSONResponse:
        servers = [server.model_dump(exclude_none=True) for server in ice.ice_servers(settings)]
        return JSONResponse({"iceServers": servers}, headers=NO_STORE)

    @routes.get("/avatars")
    async def list_avatars() -> JSONResponse:
        listed = [described(avatar) for avatar in avatars.listed()]
        return JSONResponse({"avatars": listed, "default": avatars.default}, headers=NO_STORE)

    @routes.get("/avatars/{name}/picture")
    async def avatar_picture(name: str, holder: Caller) -> Response:
        found = await find_avatar(house, name, holder)
        # A photo that was sent leaves no copy on the way.
        headers = NO_STORE if found.owner is not None else {"Cache-Control": "private, max-age=3600"}
        return Response(found.picture, headers=headers, media_type="image/jpeg")

    @routes.post("/avatars", status_code=201)
    async def add_avatar(request: Request, holder: Caller) -> JSONResponse:
        require_type(request, "multipart/form-data")
        open_reception(house)
        photo = await sent_file(request, settings.max_photo, settings.body_timeout)
        with metrics.stage("enrol"):
            avatar = await avatars.add(photo, holder.name)
        content = described(avatar) | {"report": {name: round(value, 4) for name, value in avatar.report.items()}}
        return JSONResponse(content, 201, {"Location": f"/avatars/{avatar.id}", **NO_STORE})

    @routes.delete("/avatars/{name}", status_code=204)
    async def delete_avatar(name: str, holder: Caller) -> Response:
        if not await avatars.remove(name, holder.name):
            raise ProblemError(404, f"You sent no avatar '{name}'.")
        return Response(status_code=204)

    return routes


def caller(request: Request) -> Holder:
    """Whoever the guard let in."""
    holder: Holder = request.state.holder
    return holder


Caller = Annotated[Holder, Depends(caller)]


def require_operator(holder: Holder) -> None:
    if not holder.operator:
        raise ProblemError(403, "This needs a token; a link is for calls only.")


def described(avatar: Avatar) -> dict[str, Any]:
    return {"id": avatar.id, "title": avatar.title, "picture": f"/avatars/{avatar.id}/picture"}


def open_reception(house: House) -> Reception:
    if house.failure is not None:
        raise ProblemError(503, f"The server cannot take calls: {house.failure}")
    if house.reception is None:
        raise not_now("starting", "The server is starting.", STARTING)
    return house.reception


async def find_avatar(house: House, name: str, holder: Holder) -> Avatar:
    avatar = await house.avatars.find(name, holder.name)
    if avatar is None:
        raise ProblemError(404, f"There is no avatar '{name}'.")
    return avatar


def find_session(house: House, name: str) -> Session:
    session = house.reception.find(name) if house.reception else None
    if session is None:
        raise gone(house, name)
    return session


def gone(house: House, name: str) -> ProblemError:
    """404; its `reason` is `ended` where the call is over, and none where this server never had it."""
    ended = house.reception is not None and house.reception.ended(name)
    return ProblemError(404, GONE, reason="ended") if ended else ProblemError(404, GONE)


def require_mode(house: House, mode: Mode) -> None:
    try:
        house.services.require(mode)
    except ConversationError as error:
        raise ProblemError(422, str(error), reason="mode") from None


def require_right(request: Request, session: Session) -> None:
    if not secrets.compare_digest(request.headers.get(TOKEN, "").encode(), session.token.encode()):
        raise ProblemError(403, f"Send the token of this session, from its first answer, as '{TOKEN}'.")


def require_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise ProblemError(415, f"Content-Type must be {wanted}.")


async def body(request: Request, limit: int, patience: float) -> bytes:
    return await limited(request, limit, patience).body()


async def sent_file(request: Request, limit: int, patience: float) -> bytes:
    """The first file of a form, under whatever name it comes."""
    async with limited(request, limit, patience).form(max_files=1, max_fields=8) as form:
        for _, part in form.multi_items():
            if isinstance(part, UploadFile):
                return await part.read()
    raise ProblemError(422, "The form has no file; send one image.", reason="unreadable")


def limited(request: Request, limit: int, patience: float) -> Request:
    """The request, refusing with 413 to take more than `limit` bytes, and with 408 to wait longer than `patience`."""
    taken = 0
    deadline = asyncio.get_running_loop().time() + patience

    async def receive() -> Message:
        nonlocal taken
        try:
            async with asyncio.timeout_at(deadline):
                message = await request.receive()
        except TimeoutError:
            raise ProblemError(408, "The request did not arrive whole in time.") from None
        taken += len(message.get("body", b""))
        if taken > limit:
            raise ProblemError(413, f"That is too large; the limit is {limit // 1024} KiB.")
        return message

    return Request(request.scope, receive)
