"""A sound file into a room by WHIP, the avatar out of it by WHEP: nothing but the two standards, as others speak them.

python examples/whip_whep.py http://127.0.0.1:8080 lobby speech.wav
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urljoin

import httpx
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from client import AvatarError, open_sound


async def exchange(http: httpx.AsyncClient, endpoint: str, peer: RTCPeerConnection) -> str:
    """Offer and answer (RFC 9725); the address whose DELETE ends it."""
    await peer.setLocalDescription(await peer.createOffer())
    headers = {"Content-Type": "application/sdp"}
    answer = await http.post(endpoint, content=peer.localDescription.sdp, headers=headers)
    if not answer.is_success:
        raise ConnectionError(f"{endpoint} answered {answer.status_code}: {answer.text}")
    await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    return urljoin(endpoint, answer.headers["Location"])


async def publish_and_watch(url: str, room: str, speech: str) -> int:
    """Speak a file and watch; the pictures that were seen."""
    publisher, viewer = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    voice = open_sound(speech)
    publisher.addTransceiver(voice, direction="sendonly")
    tracks: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
    viewer.on("track", lambda track: tracks.put_nowait(track) if track.kind == "video" else None)
    for kind in ("audio", "video"):
        viewer.addTransceiver(kind, direction="recvonly")
    pictures, made = 0, []
    async with httpx.AsyncClient(timeout=30) as http:
        try:
            made.append(await exchange(http, f"{url}/whip/{room}", publisher))
            made.append(await exchange(http, f"{url}/whep/{room}", viewer))
            track = await tracks.get()
            while voice.readyState == "live":
                await track.recv()
                pictures += 1
        finally:
            for location in reversed(made):
                await http.delete(location)
            for peer in (publisher, viewer):
                await peer.close()
    return pictures


if __name__ == "__main__":
    try:
        print(f"{asyncio.run(publish_and_watch(*sys.argv[1:4]))} pictures")
    except (AvatarError, OSError, httpx.HTTPError) as error:
        sys.exit(str(error))
