"""What a server tells about itself: to probes, to Prometheus, and to whoever runs it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from server.house import House
from server.problems import not_now
from server.reception import FullHouseError
from server.session import Session
from server.signalling import NO_STORE, Caller, open_reception, require_operator

LABEL = 6  # characters of a call's name that tell it from others; the whole of it would be the right to end it


def router(house: House) -> APIRouter:
    """The routes of one server."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @routes.get("/readyz")
    async def readyz() -> PlainTextResponse:
        try:
            open_reception(house).require_room()
        except FullHouseError as full:
            raise not_now(full.reason, str(full), house.settings.retry_after) from None
        return PlainTextResponse("ready\n")

    @routes.get("/metrics")
    async def exposition(holder: Caller) -> Response:
        require_operator(holder)
        return Response(house.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/sessions")
    async def list_sessions(holder: Caller) -> JSONResponse:
        require_operator(holder)
        shipped = {avatar.id for avatar in house.avatars.listed()}
        calls = house.reception.calls if house.reception else []
        content = {
            "capacity": house.settings.max_sessions,
            "viewer_capacity": house.settings.max_viewers,
            "calls": [summary(call, house.settings.prefix, shipped) for call in calls],
        }
        return JSONResponse(content, headers=NO_STORE)

    return routes


def summary(call: Session, prefix: str, shipped: set[str]) -> dict[str, Any]:
    """The figures of a call, without the names that would open it or its photo to others."""
    stats = call.stats()
    del stats["id"], stats["controls"], stats["watch"]
    label = call.id.removeprefix(prefix)[:LABEL]
    return stats | {"label": label, "avatar": call.avatar if call.avatar in shipped else "own photo"}
