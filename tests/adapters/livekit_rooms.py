"""Two ends of a LiveKit room without its server: RPC, byte streams and publications, in memory.

It stands where `livekit.rtc.Room` would be connected; everything that talks through it is LiveKit's own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from livekit import rtc


class Room(rtc.EventEmitter):
    """One participant's view; `joined` makes the two ends of one room."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self.local_participant = Participant(identity)
        self.remote_participants: dict[str, Participant] = {}
        self.byte_streams: dict[str, Callable[[Any, str], None]] = {}

    def isconnected(self) -> bool:
        return True

    def register_byte_stream_handler(self, topic: str, handler: Callable[[Any, str], None]) -> None:
        self.byte_streams[topic] = handler


def joined(one: str, other: str) -> tuple[Room, Room]:
    rooms = Room(one), Room(other)
    for room, peer in (rooms, rooms[::-1]):
        room.remote_participants[peer.local_participant.identity] = peer.local_participant
        room.local_participant.peer = peer
    return rooms


class Participant:
    """`calls`: the RPCs it made, by name and payload; `tracks`: sound and pictures once both are `published`;
    `streams`: topics it wrote to.
    """

    state = rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.peer: Room | None = None
        self.calls: list[tuple[str, str]] = []
        self.tracks: list[Any] = []
        self.published = asyncio.Event()
        self.streams: list[str] = []
        self._rpc_handlers: dict[str, Callable[[rtc.RpcInvocationData], Any]] = {}

    def register_rpc_method(self, name: str, handler: Callable[[rtc.RpcInvocationData], Any]) -> None:
        self._rpc_handlers[name] = handler

    async def perform_rpc(self, *, destination_identity: str, method: str, payload: str) -> str:
        assert self.peer is not None
        assert destination_identity == self.peer.local_participant.identity
        await asyncio.sleep(0)
        self.calls.append((method, payload))
        handler = self.peer.local_participant._rpc_handlers.get(method)
        if handler is None:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD, "unsupported")
        answer = handler(
            rtc.RpcInvocationData(
                request_id="1", caller_identity=self.identity, payload=payload, response_timeout=10.0, method=method
            )
        )
        return await answer if inspect.isawaitable(answer) else answer

    async def stream_bytes(self, name: str, *, topic: str, attributes: dict[str, str], **_: Any) -> _Stream:
        assert self.peer is not None
        self.streams.append(topic)
        stream = _Stream(SimpleNamespace(attributes=attributes, stream_id=name))
        self.peer.byte_streams[topic](stream, self.identity)
        return stream

    async def publish_track(self, track: Any, options: rtc.TrackPublishOptions) -> Any:
        self.tracks.append(track)
        if len(self.tracks) == 2:
            self.published.set()

        async def subscribed() -> None: ...

        return SimpleNamespace(wait_for_subscription=subscribed, sid=f"TR_{len(self.tracks)}")

    async def unpublish_track(self, sid: str) -> None: ...


class _Stream:
    """A byte stream's writer and reader in one."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def write(self, data: bytes) -> None:
        await self._queue.put(data)

    async def aclose(self) -> None:
        await self._queue.put(None)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        if (data := await self._queue.get()) is None:
            raise StopAsyncIteration
        return data
