"""The control channel of a call: a WebSocket beside its sound and pictures.

Every text frame is one JSON object whose `type` says what it is; docs/server.md lists them. What cannot be
understood or done is answered by an `error` event, and the call goes on.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from engines.controls import ControlError
from server.house import House
from server.session import Session
from server.signalling import find_session

MAX_MESSAGE = 4096  # characters; the longest sensible message has a tenth of it
MAX_FRAME = 65_536  # bytes; a longer one closes the channel (RFC 6455, 1009)


class MessageError(Exception):
    """A message cannot be understood or done; the text says why."""


def router(house: House) -> APIRouter:
    """The channels of one server."""
    routes = APIRouter()

    @routes.websocket("/sessions/{name}/audio")
    async def channel(socket: WebSocket, name: str) -> None:
        session = find_session(house, name)
        await socket.accept()
        await _Channel(socket, session).run()

    return routes


class _Channel:
    """One open channel. Ends when its client leaves or the call is over; the call does not end with it."""

    def __init__(self, socket: WebSocket, session: Session) -> None:
        self._socket, self._session = socket, session

    async def run(self) -> None:
        offer = self._session.offer
        about = {"controls": self._session.controls.as_dict(), "emotions": offer.emotions, "gazes": offer.gazes}
        listening = asyncio.create_task(self._listen(), name=f"{self._session.id} control")
        ending = asyncio.create_task(self._session.closed(), name=f"{self._session.id} control end")
        try:
            await self._send("state", state=self._session.state, **about)
            await asyncio.wait((listening, ending), return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await self._send("state", state=self._session.state, reason=self._session.reason)
                await self._socket.close()
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left while it was being told something
        finally:
            listening.cancel()
            ending.cancel()
            await asyncio.gather(listening, ending, return_exceptions=True)

    async def _listen(self) -> None:
        """Answer every message until the client leaves."""
        while True:
            frame = await self._socket.receive()
            if frame["type"] == "websocket.disconnect":
                return
            try:
                answer = self._pose(_message(frame.get("text")))
            except (MessageError, ControlError) as error:
                await self._send("error", detail=str(error))
            else:
                await self._send("pose", **answer)

    def _pose(self, message: dict[str, Any]) -> dict[str, Any]:
        """Set what the message names; all controls as they are now."""
        kind = message.pop("type", None)
        if kind != "pose":
            raise MessageError(f"There is no message of type {json.dumps(kind)[:40]}; there is 'pose'.")
        self._session.control(**message)
        return self._session.controls.as_dict()

    async def _send(self, kind: str, **members: Any) -> None:
        await self._socket.send_json({"type": kind, **members})


def _message(text: str | None) -> dict[str, Any]:
    """A text frame -> a JSON object; raises MessageError."""
    if text is None:
        raise MessageError("This channel takes text; sound comes over the call's audio track.")
    if len(text) > MAX_MESSAGE:
        raise MessageError(f"A message may have {MAX_MESSAGE} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError("That is no JSON.") from error
    if not isinstance(message, dict):
        raise MessageError("A message is a JSON object with a 'type'.")
    return message
