"""Recordings over HTTP: begun and stopped by whoever has the call's token, fetched by whoever began them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from engines.mark import marked
from server.house import House
from server.problems import ProblemError
from server.recording import STOPPED
from server.recordings import NoRoomError
from server.signalling import NO_STORE, Caller, find_session, require_right

GONE = "There is no such recording; it may have been deleted."
FILE_NAME = "recording.mp4"


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()
    recordings = house.recordings

    @routes.post("/sessions/{name}/recording", status_code=201)
    async def begin(request: Request, name: str, holder: Caller) -> JSONResponse:
        session = find_session(house, name)
        require_right(request, session)
        if session.recording is not None and not session.recording.done:
            raise ProblemError(409, "This call is being recorded already.")
        try:
            still = marked(session.still) if session.controls.mark else session.still
            shelved = recordings.begin(still, holder.name, session.id, session.recording_ended)
        except NoRoomError as full:
            raise ProblemError(507, str(full)) from None
        session.record(shelved.recording)
        return JSONResponse(shelved.recording.stats(), 201, {"Location": f"/recordings/{shelved.name}", **NO_STORE})

    @routes.delete("/sessions/{name}/recording")
    async def stop(request: Request, name: str) -> JSONResponse:
        session = find_session(house, name)
        require_right(request, session)
        if session.recording is None:
            raise ProblemError(404, "This call was not recorded.")
        session.recording.stop(STOPPED)
        await session.recording.closed()
        return JSONResponse(session.recording.stats(), headers=NO_STORE)

    @routes.get("/recordings/{name}")
    async def fetch(name: str, holder: Caller) -> FileResponse:
        shelved = recordings.find(name, holder.name)
        if shelved is None:
            raise ProblemError(404, GONE)
        if not shelved.recording.done:
            raise ProblemError(409, "This recording still runs; stop it first.")
        if not shelved.recording.stats()["seconds"]:
            raise ProblemError(404, f"This recording holds nothing: {shelved.recording.reason}.")
        return FileResponse(shelved.recording.path, media_type="video/mp4", filename=FILE_NAME, headers=NO_STORE)

    @routes.delete("/recordings/{name}", status_code=204)
    async def delete(name: str, holder: Caller) -> Response:
        if not await recordings.remove(name, holder.name):
            raise ProblemError(404, GONE)
        return Response(status_code=204)

    return routes
