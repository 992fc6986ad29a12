"""The channel of a call: a WebSocket beside its sound and pictures, for controls and, with a `rate`, for sound.

Every text frame is one JSON object whose `type` says what it is; docs/server.md lists them. Binary frames are PCM.
What cannot be understood or done is answered by an `error` event, and the call goes on.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from engines.controls import ControlError
from server.house import House
from server.ingest import RATES, PushedSound
from server.modes import ConversationError, Mode
from server.problems import ProblemError
from server.session import Session
from server.signalling import find_session
from server.sources import SourceTakenError
from server.spoken import TooMuchError

MAX_MESSAGE = 30_000  # characters: a text to be spoken, every letter of it escaped
Events = asyncio.Queue[tuple[str, dict[str, Any]] | None]  # what a call tells, None at its end
MAX_FRAME = 65_536  # bytes; a longer one closes the channel (RFC 6455, 1009)
KINDS = ("pose", "speak", "interrupt", "end", "mode", "voice")


class MessageError(Exception):
    """A message cannot be understood or done; the text says why."""


def router(house: House) -> APIRouter:
    """The channels of one server."""
    routes = APIRouter()

    @routes.websocket("/sessions/{name}/audio")
    async def channel(socket: WebSocket, name: str, rate: str | None = None) -> None:
        session = find_session(house, name)
        sound = None if rate is None else _sound(rate)
        with ExitStack() as stack:
            if sound is not None:
                try:
                    stack.enter_context(session.sources.fed_by(sound))
                except SourceTakenError as taken:
                    raise ProblemError(409, str(taken)) from None
            await socket.accept()
            await _Channel(socket, session, sound).run()

    return routes


class _Channel:
    """One open channel. Ends when its client leaves or the call is over; the call does not end with it."""

    def __init__(self, socket: WebSocket, session: Session, sound: PushedSound | None) -> None:
        self._socket, self._session, self._sound = socket, session, sound

    async def run(self) -> None:
        offer = self._session.offer
        about = {"controls": self._session.controls.as_dict(), **asdict(offer), **self._session.conversation.stats()}
        events: Events = asyncio.Queue()
        ending = asyncio.create_task(self._session.closed(), name=f"{self._session.id} control end")
        ending.add_done_callback(lambda _: events.put_nowait(None))
        work = [ending]
        try:
            with self._session.told(lambda kind, members: events.put_nowait((kind, members))):
                await self._send("state", state=self._session.state, **about)
                for part in (self._listen(), self._tell(events)):
                    work.append(asyncio.create_task(part, name=f"{self._session.id} control"))
                await asyncio.wait(work[1:], return_when=asyncio.FIRST_COMPLETED)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left while it was being told something
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _tell(self, events: Events) -> None:
        """Pass on what happens in the call, until it is over."""
        while (event := await events.get()) is not None:
            await self._send(event[0], **event[1])
        await self._send("state", state=self._session.state, reason=self._session.reason)
        await self._socket.close()

    async def _listen(self) -> None:
        """Answer every message until the client leaves."""
        while True:
            frame = await self._socket.receive()
            if frame["type"] == "websocket.disconnect":
                return
            try:
                if (pcm := frame.get("bytes")) is not None:
                    self._hear(pcm)
                else:
                    await self._follow(_message(frame["text"]))
            except (MessageError, ControlError, ConversationError, SourceTakenError, TooMuchError) as error:
                await self._send("error", detail=str(error))

    def _hear(self, pcm: bytes) -> None:
        if self._sound is None:
            raise MessageError("This channel was opened without sound; say its rate in the address, as ?rate=16000.")
        if len(pcm) % 2:
            raise MessageError("That is half a sample too much or too little; sound is mono PCM of 16 bits.")
        self._session.sources.feed(pcm)

    async def _follow(self, message: dict[str, Any]) -> None:
        """Do what the message says."""
        conversation = self._session.conversation
        match kind := message.pop("type", None):
            case "pose":
                self._session.control(**message)
                await self._send("pose", **self._session.controls.as_dict())
            case "speak":
                text, voice = _words(message, "text"), _words(message, "voice") if message.get("voice") else None
                utterance = await conversation.speak(text, voice)
                await self._send("speech", state="queued", id=utterance.id)
            case "interrupt":
                conversation.interrupt()
            case "end":
                conversation.end_push()
            case "mode":
                self._session.sources.change_mode(_mode(_words(message, "mode")))
            case "voice":
                await conversation.choose_voice(_words(message, "voice"))
            case _:
                raise MessageError(
                    f"There is no message of type {json.dumps(kind)[:40]}; there are {', '.join(KINDS)}."
                )

    async def _send(self, kind: str, **members: Any) -> None:
        # escaped to ASCII: what a client wrote may come back in words, half a surrogate pair included
        await self._socket.send_text(json.dumps({"type": kind, **members}))


def _sound(rate: str) -> PushedSound:
    if rate not in map(str, RATES):
        raise ProblemError(422, f"rate must be one of {', '.join(map(str, RATES))}.")
    return PushedSound(int(rate))


def _words(message: dict[str, Any], name: str) -> str:
    words = message.get(name)
    if not isinstance(words, str):
        raise MessageError(f"'{name}' must be text.")
    return words


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError:
        raise MessageError(f"There is no mode {json.dumps(name)[:40]}; there are {', '.join(Mode)}.") from None


def _message(text: str) -> dict[str, Any]:
    """A text frame -> a JSON object; raises MessageError."""
    if len(text) > MAX_MESSAGE:
        raise MessageError(f"A message may have {MAX_MESSAGE} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError("That is no JSON.") from error
    if not isinstance(message, dict):
        raise MessageError("A message is a JSON object with a 'type'.")
    return message
