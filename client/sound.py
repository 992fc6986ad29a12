"""Sound for a call to hear."""

from __future__ import annotations

import sys
from pathlib import Path

import av
from aiortc import MediaStreamTrack
from aiortc.contrib.media import MediaPlayer

from client.errors import AvatarError

DEVICES = {"linux": "alsa", "darwin": "avfoundation", "win32": "dshow"}


def open_sound(source: str | Path) -> MediaStreamTrack:
    """A sound file played once at its own pace, or else the microphone of that name, as FFmpeg names it.

    Linux: "default" or "hw:0" (ALSA); macOS: ":0"; Windows: "audio=NAME". Raises AvatarError. The track's `readyState`
    is "ended" once the file is played; end one that no call was given to with `stop()`.
    """
    device = None if Path(source).exists() else DEVICES.get(sys.platform)
    try:
        track = MediaPlayer(str(source), format=device).audio
    except (av.FFmpegError, ValueError, OSError) as error:
        raise AvatarError(f"'{source}' is neither a readable file nor a microphone: {error}") from error
    if track is None:
        raise AvatarError(f"'{source}' has no sound.")
    return track
