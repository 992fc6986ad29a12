"""Speech in by WHIP (RFC 9725) and avatars out by WHEP (draft-ietf-wish-whep).

A room is where the two meet: a publisher's call has the room that it named, any other call one that cannot be
guessed. A room ends with its call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from server import ice
from server.house import House
from server.line import Line, RestartError
from server.problems import ProblemError
from server.reception import RoomTakenError
from server.session import EndedError, Room, Session
from server.settings import IceServer
from server.signalling import (
    NO_STORE,
    SDP,
    Caller,
    body,
    find_avatar,
    find_session,
    open_reception,
    require_type,
)
from server.viewers import Viewer

FRAGMENT = "application/trickle-ice-sdpfrag"
MAX_FRAGMENT = 16_384  # bytes
ENDPOINT = {"Allow": "OPTIONS, POST", "Accept-Post": SDP}
RESOURCE = {"Allow": "OPTIONS, PATCH, DELETE", "Accept-Patch": FRAGMENT}
NOBODY = "Nobody is in this room; the call may have ended."
RESERVED = ["GET", "HEAD", "PUT"]

RoomName = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()
    settings = house.settings

    @routes.post("/whip/{room}", status_code=201)
    async def publish(request: Request, room: RoomName, holder: Caller, avatar: str | None = None) -> Response:
        _require_sdp(request)
        reception = open_reception(house)
        chosen = await find_avatar(house, avatar or house.avatars.default, holder)
        offer = (await body(request, settings.max_offer, settings.body_timeout)).decode("utf-8", "replace")
        place = Room(room, holder.name)
        session = reception.call_in(room)
        try:
            if session is not None and session.takes(place, chosen.id):
                answer = await session.connect(offer)
            else:
                session, answer = await reception.admit(offer, chosen.id, chosen.identity, place)
        except (RoomTakenError, EndedError):
            raise ProblemError(409, f"There is a call in room '{room}' already.") from None
        return _created(answer, f"/whip/{room}/{session.id}", session.line, ice.ice_servers(settings))

    @routes.patch("/whip/{room}/{name}", status_code=204)
    async def publisher_candidates(request: Request, room: RoomName, name: str) -> Response:
        return await _trickle(request, _published(house, room, name).line, settings.body_timeout)

    @routes.delete("/whip/{room}/{name}", status_code=204)
    async def end_publishing(room: RoomName, name: str) -> Response:
        session = _published(house, room, name)
        session.end("deleted")
        await session.closed()
        return Response(status_code=204)

    @routes.post("/whep/{room}", status_code=201)
    async def watch(request: Request, room: RoomName) -> Response:
        _require_sdp(request)
        reception = open_reception(house)
        session = reception.call_in(room)
        if session is None:
            raise ProblemError(404, NOBODY)
        offer = (await body(request, settings.max_offer, settings.body_timeout)).decode("utf-8", "replace")
        try:
            reception.require_seat()
            viewer, answer = await session.join(offer)
        except EndedError:
            raise ProblemError(404, NOBODY) from None
        return _created(answer, f"/whep/{room}/{viewer.name}", viewer.line, ice.ice_servers(settings))

    @routes.patch("/whep/{room}/{name}", status_code=204)
    async def viewer_candidates(request: Request, room: RoomName, name: str) -> Response:
        return await _trickle(request, _watching(house, room, name)[1].line, settings.body_timeout)

    @routes.delete("/whep/{room}/{name}", status_code=204)
    async def end_watching(room: RoomName, name: str) -> Response:
        session, viewer = _watching(house, room, name)
        await asyncio.shield(session.audience.leave(viewer))
        return Response(status_code=204)

    @routes.options("/whip/{room}", status_code=204)
    @routes.options("/whep/{room}", status_code=204)
    async def endpoint_options(room: RoomName) -> Response:
        return Response(status_code=204, headers=ENDPOINT)

    @routes.options("/whip/{room}/{name}", status_code=204)
    @routes.options("/whep/{room}/{name}", status_code=204)
    async def resource_options(room: RoomName, name: str) -> Response:
        return Response(status_code=204, headers=RESOURCE)

    # Methods that RFC 9725 (4.1) keeps for later; without these the page's files would be searched for them.
    @routes.api_route("/whip/{room}", methods=RESERVED, include_in_schema=False)
    @routes.api_route("/whep/{room}", methods=RESERVED, include_in_schema=False)
    async def endpoint_reserved(room: str) -> Response:
        raise ProblemError(405, "POST an SDP offer here.", ENDPOINT)

    @routes.api_route("/whip/{room}/{name}", methods=[*RESERVED, "POST"], include_in_schema=False)
    @routes.api_route("/whep/{room}/{name}", methods=[*RESERVED, "POST"], include_in_schema=False)
    async def resource_reserved(room: str, name: str) -> Response:
        raise ProblemError(405, "PATCH candidates here, or DELETE what this is the address of.", RESOURCE)

    return routes


def _published(house: House, room: str, name: str) -> Session:
    session = find_session(house, name)
    if session.room.name != room or not session.publishing:
        raise ProblemError(404, "There is no such call in this room; it may have ended.")
    return session


def _watching(house: House, room: str, name: str) -> tuple[Session, Viewer]:
    session = house.reception.call_in(room) if house.reception else None
    viewer = session.audience.find(name) if session else None
    if session is None or viewer is None:
        raise ProblemError(404, "There is no such viewer in this room; it may have left.")
    return session, viewer


def _require_sdp(request: Request) -> None:
    require_type(request, SDP)
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    if not {SDP, "application/*", "*/*"} & set(accepted):
        raise ProblemError(406, f"The answer is {SDP}.")


def _created(answer: str, location: str, line: Line, servers: Iterable[IceServer]) -> Response:
    response = Response(answer, 201, {"Location": location, "ETag": f'"{line.tag}"', **NO_STORE}, media_type=SDP)
    response.headers["Accept-Patch"] = FRAGMENT
    for link in _links(servers):
        response.headers.append("Link", link)
    return response


def _links(servers: Iterable[IceServer]) -> list[str]:
    """ICE servers as RFC 9725 (4.6) writes them."""
    links = []
    for server in servers:
        login = ""
        if server.username is not None and server.credential is not None:
            quoted = [text.replace("\\", r"\\").replace('"', r"\"") for text in (server.username, server.credential)]
            login = f'; username="{quoted[0]}"; credential="{quoted[1]}"; credential-type="password"'
        links += [f'<{url}>; rel="ice-server"{login}' for url in server.urls]
    return links


async def _trickle(request: Request, line: Line, patience: float) -> Response:
    require_type(request, FRAGMENT)
    given = request.headers.get("if-match")
    if given is None:
        raise ProblemError(428, "Send the ETag of the answer as If-Match.")
    if given.strip() != "*" and f'"{line.tag}"' not in [tag.strip() for tag in given.split(",")]:
        raise ProblemError(412, "That is the ETag of another connection.")
    fragment = (await body(request, MAX_FRAGMENT, patience)).decode("utf-8", "replace")
    try:
        await asyncio.shield(line.trickle(fragment))
    except RestartError as error:
        raise ProblemError(422, str(error)) from None
    return Response(status_code=204)
