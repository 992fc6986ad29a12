"""A local stand-in for an OpenAI-compatible server: what it is asked is kept, what it answers is a script."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.conftest import free_port


@dataclass
class OpenAIStub:
    """`heard`: texts that are recognised, one a turn, the last one again and again. `answer`: what the model writes, a
    piece at a time; before each but the first it waits for `more`.

    `fault`: "slow", "error", "nonsense", "silent" or "".
    """

    url: str
    heard: list[str] = field(default_factory=lambda: ["Hello."])
    answer: list[str] = field(default_factory=lambda: ["Yes."])
    fault: str = ""
    more: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[str, Any]] = field(default_factory=list)  # path, and the request or the seconds of its sound

    def __post_init__(self) -> None:
        self.more.set()

    def prompts(self) -> list[list[dict[str, str]]]:
        return [request["messages"] for path, request in self.asked if path == "chat"]

    async def transcriptions(self, request: Request) -> Response:
        async with request.form() as form:
            with wave.open(io.BytesIO(await form["file"].read())) as sound:  # type: ignore[union-attr]
                assert (sound.getframerate(), sound.getnchannels()) == (16_000, 1)
                self.asked.append(("stt", sound.getnframes() / 16_000))
        if (wrong := await self._wrong()) is not None:
            return wrong
        return JSONResponse({"text": self.heard.pop(0) if len(self.heard) > 1 else self.heard[0]})

    async def completions(self, request: Request) -> Response:
        self.asked.append(("chat", await request.json()))
        if (wrong := await self._wrong()) is not None:
            return wrong
        return StreamingResponse(self._written(), media_type="text/event-stream")

    async def speech(self, request: Request) -> Response:
        self.asked.append(("tts", await request.json()))
        if (wrong := await self._wrong()) is not None:
            return wrong
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(24_000)
            out.writeframes((9000 * np.sin(np.arange(24_000) * 2 * np.pi * 500 / 24_000)).astype("<i2").tobytes())
        return Response(file.getvalue(), media_type="audio/wav")

    async def _written(self) -> AsyncIterator[str]:
        yield 'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
        for number, piece in enumerate(self.answer):
            if number:
                await self.more.wait()
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': piece}}]})}\n\n"
        yield 'data: {"choices": []}\n\ndata: [DONE]\n\n'

    async def _wrong(self) -> Response | None:
        match self.fault:
            case "slow":
                await asyncio.sleep(20)
            case "error":
                return JSONResponse({"error": {"message": "no such model"}}, 404)
            case "nonsense":
                return Response("<html>hello</html>", media_type="text/html")
            case "silent":
                return JSONResponse({"text": "", "choices": [{"message": {"content": None}}]})
        return None


@asynccontextmanager
async def openai_stub() -> AsyncIterator[OpenAIStub]:
    """A running one; `url` is its base address."""
    port = free_port()
    stub = OpenAIStub(f"http://127.0.0.1:{port}/v1")
    routes = [
        Route("/v1/audio/transcriptions", stub.transcriptions, methods=["POST"]),
        Route("/v1/chat/completions", stub.completions, methods=["POST"]),
        Route("/v1/audio/speech", stub.speech, methods=["POST"]),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    try:
        yield stub
    finally:
        server.should_exit = True
        await serving
