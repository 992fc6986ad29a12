"""The avatar speaks a sound file that is sent by HTTP; nobody needs a microphone.

python examples/play_file.py http://127.0.0.1:8080 speech.wav
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from client import AvatarClient, AvatarError, Speech


async def play(url: str, file: Path) -> list[str]:
    """Speak a file to its end; what became of it, in order."""
    told = []
    async with AvatarClient(url) as call:
        print(f"{await call.play(file):.1f} s; watch it with WHEP at {url}{call.watch}")
        async for event in call.events:
            if isinstance(event, Speech):
                print(event.state)
                told.append(event.state)
                if event.state != "begun":
                    break
    return told


if __name__ == "__main__":
    try:
        asyncio.run(play(sys.argv[1], Path(sys.argv[2])))
    except (AvatarError, OSError) as error:
        sys.exit(str(error))
