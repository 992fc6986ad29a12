"""What the avatar makes of a sound file, as an MP4 file made here with PyAV.

python examples/save_mp4.py http://127.0.0.1:8080 speech.wav out.mp4
"""

from __future__ import annotations

import asyncio
import sys
from fractions import Fraction

import av

from client import AvatarClient, AvatarError, open_sound

SIDE = 512  # pixels; pictures that the server makes smaller for a while are scaled


async def save(url: str, speech: str, path: str) -> int:
    """Speak a file and keep what comes back; the pictures that were kept."""
    voice = open_sound(speech)
    pictures, rest = 0, 25  # a second more: the avatar speaks a little later
    async with AvatarClient(url, microphone=voice) as call:
        with av.open(path, "w") as file:
            audio = file.add_stream("aac", rate=48_000, layout="stereo")
            video = file.add_stream("libx264", rate=25, width=SIDE, height=SIDE, pix_fmt="yuv420p")
            video.options = {"preset": "veryfast"}
            video.codec_context.time_base = Fraction(1, 90_000)

            async def hear() -> None:
                async for sound in call.audio:
                    file.mux(audio.encode(sound))

            hearing = asyncio.create_task(hear())
            offset = await call.picture_offset()  # takes a second or two, and the sound goes on
            async for picture in call.video:
                shown = picture.reformat(SIDE, SIDE, "yuv420p")
                shown.time_base, shown.pts = Fraction(1, 90_000), round(90_000 * (picture.time + offset))
                if shown.pts >= 0:
                    file.mux(video.encode(shown))
                    pictures += 1
                rest -= voice.readyState == "ended"
                if not rest:
                    break
            hearing.cancel()
            for stream in (audio, video):
                file.mux(stream.encode(None))
    return pictures


if __name__ == "__main__":
    try:
        print(f"{asyncio.run(save(*sys.argv[1:4]))} pictures")
    except (AvatarError, OSError) as error:
        sys.exit(str(error))
