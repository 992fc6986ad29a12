"""The avatar speaks with a microphone's voice, or a sound file's, over WebRTC.

python examples/mirror.py http://127.0.0.1:8080 speech.wav
python examples/mirror.py http://127.0.0.1:8080 default      # the microphone of that name, by ALSA
"""

from __future__ import annotations

import asyncio
import sys

from client import AvatarClient, AvatarError, open_sound


async def mirror(url: str, source: str) -> int:
    """Speak until the sound ends; the pictures that came back."""
    voice = open_sound(source)
    pictures, rest = 0, 25  # a second more: the avatar speaks a little later
    async with AvatarClient(url, microphone=voice) as call:
        async for picture in call.video:
            pictures += 1
            if pictures % 25 == 0:
                print(f"{pictures} pictures, the last one {picture.width} x {picture.height}")
            rest -= voice.readyState == "ended"
            if not rest:
                break
    return pictures


if __name__ == "__main__":
    try:
        asyncio.run(mirror(*sys.argv[1:3]))
    except (AvatarError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
