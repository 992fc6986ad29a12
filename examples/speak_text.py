"""The avatar says a text with a voice of the server's.

python examples/speak_text.py http://127.0.0.1:8080 "Good morning. This is your avatar."
"""

from __future__ import annotations

import asyncio
import sys

from client import AvatarClient, AvatarError, Spoken


async def speak(url: str, text: str) -> Spoken:
    """Say a text to its end; what was said of it."""
    async with AvatarClient(url, mode="speak") as call:
        return await call.spoken(await call.speak(text))


if __name__ == "__main__":
    try:
        print(asyncio.run(speak(*sys.argv[1:3])).said)
    except AvatarError as error:
        sys.exit(str(error))
