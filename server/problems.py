"""Errors as HTTP says them: one place that turns an exception into a status and `application/problem+json`.

RFC 9457. A person reads `detail`; a program reads `status` and, for photos, `reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engines.types import KDTalkerError, PortraitError
from server.ice import PortsExhaustedError
from server.line import OfferError
from server.metrics import Metrics
from server.reception import FullHouseError
from server.shelf import EnrolmentBusyError


class ProblemError(Exception):
    """A refusal with a status, a sentence and, where it helps, headers and more members."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, headers, members


def not_now(reason: str, detail: str, retry_after: int) -> ProblemError:
    """`reason` is for programs: `starting`, `full`, `busy` (the machine cannot carry more) or `draining`."""
    return ProblemError(503, detail, {"Retry-After": str(retry_after)}, reason=reason)


def response(problem: ProblemError) -> JSONResponse:
    """The answer to a refused request."""
    body = {"title": HTTPStatus(problem.status).phrase, "status": problem.status, "detail": problem.detail}
    return JSONResponse(body | problem.members, problem.status, problem.headers, media_type="application/problem+json")


def install(app: FastAPI, metrics: Metrics, retry_after: int) -> None:
    """Answer every error of `app` in this form, and count it; who finds no room may ask again after `retry_after` s."""

    def answer(problem: ProblemError) -> JSONResponse:
        metrics.refused.labels(str(problem.status)).inc()
        return response(problem)

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(ProblemError(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        parts = [f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors()]
        return answer(ProblemError(422, "; ".join(parts)))

    @app.exception_handler(OfferError)
    async def offer(request: Request, error: OfferError) -> JSONResponse:
        return answer(ProblemError(400, str(error)))

    @app.exception_handler(FullHouseError)
    async def full(request: Request, error: FullHouseError) -> JSONResponse:
        return answer(not_now(error.reason, str(error), retry_after))

    @app.exception_handler(EnrolmentBusyError)
    async def photos(request: Request, error: EnrolmentBusyError) -> JSONResponse:
        return answer(not_now("full", "Too many photos are waiting; try again soon.", retry_after))

    @app.exception_handler(PortsExhaustedError)
    async def ports(request: Request, error: PortsExhaustedError) -> JSONResponse:
        return answer(not_now("full", "All of the server's UDP ports are in use; try again soon.", retry_after))

    @app.exception_handler(PortraitError)
    async def portrait(request: Request, error: PortraitError) -> JSONResponse:
        return answer(ProblemError(422, str(error), reason=error.reason))

    @app.exception_handler(KDTalkerError)
    async def known(request: Request, error: KDTalkerError) -> JSONResponse:
        return answer(ProblemError(500, str(error)))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error once more after this answer is sent, which is how it reaches the log.
        return answer(ProblemError(500, "The server failed at this; its log says why."))
