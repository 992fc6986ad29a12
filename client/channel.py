"""The WebSocket beside a call: controls and sound to the server, events from it."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from client.errors import AvatarError
from client.events import Event, Refused, Speech, Spoken, State, event_of
from client.http import refusal
from client.stream import Stream

KEPT = 1000  # events that wait for a reader
BROKEN = "the connection to the server broke"


class Channel:
    """One open channel; `events` end with the call. `reason` says why it is over, "" while it is not."""

    def __init__(self, socket: ClientConnection) -> None:
        self.events: Stream[Event] = Stream(KEPT)
        self.reason = ""
        self.mode = ""
        self._socket = socket
        self._asking = asyncio.Lock()
        self._wanted = ""  # type of the event that answers what is asked
        self._answer: Event | None = None
        self._spoken: dict[int, Spoken] = {}  # by number of the text
        self._stopped: dict[int, bool] = {}  # by number of what is over: whether it was interrupted
        self._news = asyncio.Event()  # another one after each event

    @classmethod
    async def open(cls, url: str, headers: dict[str, str], tls: ssl.SSLContext | None) -> Channel:
        """A channel at `url` (http or https) that has been told how things stand; raises AvatarError."""
        try:
            context = tls if url.startswith("https") else None
            channel = cls(await connect(url.replace("http", "ws", 1), additional_headers=headers, ssl=context))
            channel._take(event_of(json.loads(await channel._socket.recv())))
            return channel
        except InvalidStatus as error:
            answer = error.response
            raise refusal(answer.status_code, bytes(answer.body or b""), answer.headers) from None
        except (OSError, InvalidHandshake, ConnectionClosed) as error:
            raise AvatarError(f"The call's channel cannot be opened: {error}") from error

    async def run(self) -> None:
        """Pass on what the server tells, until the channel is closed."""
        try:
            async for text in self._socket:
                self._take(event_of(json.loads(text)))
        except ConnectionClosed:
            pass
        finally:
            self.reason = self.reason or "the connection to the server broke"
            self.events.end()
            self._news.set()

    async def ask(self, message: dict[str, Any], answered_by: str) -> Event:
        """Send a message and wait for the event of that type that answers it; raises AvatarError."""
        async with self._asking:
            self._wanted, self._answer = answered_by, None
            try:
                await self.send(message)
                while self._answer is None:
                    await self._next()
            finally:
                self._wanted = ""
        if isinstance(self._answer, Refused):
            raise AvatarError(self._answer.detail)
        return self._answer

    async def spoken(self, number: int, words: bool) -> Spoken:
        """Wait until the text, or what has no `words`, of that number is said or interrupted; raises AvatarError."""
        while number not in (self._spoken if words else self._stopped):
            await self._next()
        return self._spoken[number] if words else Spoken(id=number, interrupted=self._stopped[number])

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """A message, or sound; raises AvatarError where the call is over."""
        try:
            await self._socket.send(message if isinstance(message, bytes) else json.dumps(message))
        except ConnectionClosed:
            await self._next()

    async def close(self) -> None:
        self.reason = self.reason or "left"
        await self._socket.close()

    async def _next(self) -> None:
        """Wait for the next event; raises AvatarError where none will come."""
        if not self.reason:
            await self._news.wait()
        if self.reason:
            raise AvatarError(f"The call is over: {self.reason}.")

    def _take(self, event: Event) -> None:
        answers = self._wanted and self._answer is None and event.type in (self._wanted, Refused.kind)
        if answers:
            self._answer = event
        self.mode = event.members.get("mode", self.mode)
        match event:
            case Spoken():
                self._spoken[event.id] = event
            case Speech(state="ended" | "stopped", id=int(number)):
                self._stopped[number] = event.state == "stopped"
            case State(state="ended"):
                self.reason = event.reason or "the server ended it"
        if not (answers and isinstance(event, Refused)):
            self.events.put(event)
        self._news.set()
        self._news = asyncio.Event()
