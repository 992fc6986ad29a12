"""Sound files over HTTP: sent to a call, whose avatar speaks them in place of its microphone."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engines.types import TICK_SECONDS, SpeechError
from server.house import House
from server.problems import ProblemError, not_now
from server.signalling import NO_STORE, body, find_session
from server.spoken import TooMuchError


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()
    settings, sounds = house.settings, house.sounds

    @routes.post("/sessions/{name}/speech", status_code=202)
    async def speak(request: Request, name: str) -> JSONResponse:
        find_session(house, name)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith("audio/") and kind != "application/octet-stream":
            raise ProblemError(415, "Content-Type must be audio/wav, audio/flac, audio/mpeg or audio/ogg.")
        try:
            with sounds.place():
                data = await body(request, settings.max_speech, settings.body_timeout)
                speech = await sounds.read(data, settings.speech_seconds)
        except TooMuchError as busy:
            raise not_now("full", str(busy), settings.retry_after) from None
        except SpeechError as error:
            raise ProblemError(422, str(error), reason="unreadable") from None
        session = find_session(house, name)  # it may have ended meanwhile
        try:
            session.spoken.add(speech)
        except TooMuchError as much:
            raise ProblemError(409, str(much)) from None
        content = {"seconds": round(speech.frames * TICK_SECONDS, 2), "seconds_left": round(session.spoken.seconds, 2)}
        return JSONResponse(content, 202, NO_STORE)

    @routes.delete("/sessions/{name}/speech", status_code=204)
    async def hush(name: str) -> Response:
        find_session(house, name).spoken.stop()
        return Response(status_code=204)

    return routes
