"""The avatar speaks PCM that another program makes, sent by WebSocket as fast as it is made.

ffmpeg -loglevel error -i speech.mp3 -f s16le -ac 1 -ar 24000 - | python examples/push_pcm.py http://127.0.0.1:8080
"""

from __future__ import annotations

import asyncio
import sys
from typing import BinaryIO

from client import AvatarClient, AvatarError, Speech

RATE = 24_000
PIECE = 4800  # bytes: a tenth of a second


async def push(url: str, source: BinaryIO) -> float | None:
    """Say mono PCM of 16 bits until it ends; the seconds that were said."""
    async with AvatarClient(url, mode="push", rate=RATE) as call:
        while pcm := await asyncio.to_thread(source.read, PIECE):
            await call.push(pcm)
        await call.end_push()
        async for event in call.events:
            if isinstance(event, Speech) and event.state == "ended":
                return event.seconds
        raise AvatarError(f"The call is over: {call.reason}.")


if __name__ == "__main__":
    try:
        print(f"{asyncio.run(push(sys.argv[1], sys.stdin.buffer))} s")
    except AvatarError as error:
        sys.exit(str(error))
