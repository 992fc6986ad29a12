"""The avatar speaks a sound file that is sent by HTTP; nobody needs a microphone.

python examples/play_file.py http://127.0.0.1:8080 speech.wav
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from client import AvatarClient, AvatarError


async def play(url: str, file: Path) -> None:
    """Speak a file to its end."""
    async with AvatarClient(url, mode="speak") as call:
        number = await call.play(file)
        print(f"watch it with WHEP at {url}{call.watch}")
        await call.spoken(number)
        print("spoken")


if __name__ == "__main__":
    try:
        asyncio.run(play(sys.argv[1], Path(sys.argv[2])))
    except (AvatarError, OSError) as error:
        sys.exit(str(error))
