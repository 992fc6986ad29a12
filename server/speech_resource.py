"""What an avatar is to say, over HTTP: sound files and texts, spoken in place of whatever feeds it; and the voices."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.types import SpeechError
from server.house import House
from server.modes import ConversationError
from server.problems import ProblemError, not_now
from server.signalling import NO_STORE, body, find_session
from server.spoken import TooMuchError
from server.voices import VoiceError

MAX_REQUEST = 65_536  # bytes of a text with what is around it


class Text(BaseModel):
    """What is to be said, and by which voice: the call's, where none is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    voice: str | None = None


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()
    settings, sounds = house.settings, house.sounds

    @routes.post("/sessions/{name}/speech", status_code=202)
    async def speak(request: Request, name: str) -> JSONResponse:
        find_session(house, name)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return await say(request, name)
        if not kind.startswith("audio/") and kind != "application/octet-stream":
            raise ProblemError(
                415,
                "Content-Type must be audio/wav, audio/flac, audio/mpeg, audio/ogg or application/json.",
            )
        try:
            with sounds.place():
                data = await body(request, settings.max_speech, settings.body_timeout)
                speech = await sounds.read(data, settings.speech_seconds)
        except TooMuchError as busy:
            raise not_now("full", str(busy), settings.retry_after) from None
        except SpeechError as error:
            raise ProblemError(422, str(error), reason="unreadable") from None
        conversation = find_session(house, name).conversation  # it may have ended meanwhile
        try:
            utterance = conversation.play(speech)
        except TooMuchError as much:
            raise ProblemError(409, str(much)) from None
        content = {"id": utterance.id, "seconds": round(utterance.seconds, 2)}
        return JSONResponse(content | {"seconds_left": round(conversation.seconds_left, 2)}, 202, NO_STORE)

    async def say(request: Request, name: str) -> JSONResponse:
        data = await body(request, MAX_REQUEST, settings.body_timeout)
        try:
            asked = Text.model_validate_json(data)
        except ValidationError as error:
            parts = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()]
            raise ProblemError(422, "; ".join(parts)) from None
        try:
            utterance = await find_session(house, name).conversation.speak(asked.text, asked.voice)
        except ConversationError as error:
            raise ProblemError(422, str(error)) from None
        except TooMuchError as much:
            raise ProblemError(409, str(much)) from None
        return JSONResponse({"id": utterance.id}, 202, NO_STORE)

    @routes.delete("/sessions/{name}/speech", status_code=204)
    async def hush(name: str) -> Response:
        find_session(house, name).conversation.interrupt()
        return Response(status_code=204)

    @routes.get("/voices")
    async def voices() -> JSONResponse:
        try:
            listed = [asdict(voice) for voice in await house.services.voices.listed()]
        except VoiceError as error:
            raise not_now("voices", str(error), settings.retry_after) from None
        return JSONResponse({"voices": listed, "default": house.services.voices.default}, headers=NO_STORE)

    return routes
