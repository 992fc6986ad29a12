"""One call to an avatar server."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from numpy.typing import NDArray

from client.channel import Channel
from client.errors import AvatarError
from client.events import Event, Spoken
from client.http import Http
from client.stream import Stream
from client.timing import SenderTimes

Mode = Literal["mirror", "agent", "speak", "push"]
PUSHED_RATE = 24_000  # Hz, of pushed sound where none is named
PACKET = 0.02  # seconds of pushed sound that are sent together
KEPT = {"audio": 100, "video": 50}  # frames that wait for a reader: two seconds
CONNECTING = 20.0  # seconds until a connection that does not come up counts as blocked
SETTLING = 2.0  # seconds that a connection has to come up before it is given up


class AvatarClient:
    """`async with AvatarClient(url, ...) as call:` is one call; leaving the block ends it and leaves nothing behind.

    `avatar`: a name of `GET /avatars`, the server's default where it is None. `mode`: who speaks, see
    docs/conversation.md. `token`: a bearer token, or the key of a link. `microphone`: a track that the server hears,
    stopped at the end of the call; `open_sound` makes one of a file or a device. `rate` (16000, 24000, 44100 or 48000
    Hz): of the sound that `push` sends. `tls`: for certificates of your own.

    Entering and every method raise AvatarError, in the server's words where it gave any.

    video: pictures as they come, `av.VideoFrame`; 512 x 512 and 25 a second, smaller where line or machine are slow.
    audio: sound as it comes, `av.AudioFrame` of 20 ms, s16 at 48 kHz; each track's `time` counts from its first frame.
    events: what happens in the call, records of client/events.py.
    All three end with the call; `reason` then says why.
    """

    def __init__(
        self,
        url: str,
        *,
        avatar: str | None = None,
        mode: Mode = "mirror",
        token: str | None = None,
        microphone: MediaStreamTrack | None = None,
        rate: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.video: Stream[av.VideoFrame] = Stream(KEPT["video"])
        self.audio: Stream[av.AudioFrame] = Stream(KEPT["audio"])
        self.location = ""  # the call's address on the server, once there is one
        self.watch = ""  # where others may watch it by WHEP
        self._query = {"mode": str(mode)} | ({"avatar": avatar} if avatar else {})
        self._rate = PUSHED_RATE if rate is None and mode == "push" else rate
        self._url, self._token, self._tls, self._microphone = url, token, tls, microphone
        self._times = SenderTimes()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._due = 0.0  # loop time of the next pushed packet
        self._interruptions = 0
        self._files: set[int] = set()  # numbers of what is said without words

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._microphone is not None:
                stack.callback(self._microphone.stop)
            self._http = Http(self._url, self._token, self._tls)
            stack.push_async_callback(self._http.close)
            self._peer = await self._new_peer()
            stack.push_async_callback(self._hang_up)
            stack.push_async_callback(self._delete)
            await self._call()
            await self._connected()
            rate = "" if self._rate is None else f"?rate={self._rate}"
            channel = f"{self._http.url}{self.location}/audio{rate}"
            self._channel = await Channel.open(channel, self._http.headers, self._tls)
            stack.push_async_callback(self._channel.close)
            self._tasks.append(asyncio.create_task(self._attend(), name="avatar client channel"))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def events(self) -> Stream[Event]:
        return self._channel.events

    @property
    def reason(self) -> str:
        """Why the call is over; empty while it goes on."""
        return self._channel.reason

    async def speak(self, text: str, *, voice: str | None = None) -> int:
        """Let the avatar say a text when all before it is said; the number that `spoken` and events know it by."""
        body = {"text": text} | ({"voice": voice} if voice else {})
        answer = await self._http.ask("POST", f"{self.location}/speech", json=body)
        return int(answer.json()["id"])

    async def play(self, sound: bytes | Path) -> int:
        """Let the avatar say a sound file (WAV, FLAC, MP3 or Ogg) when all before it is said; its number, as above."""
        data = await asyncio.to_thread(sound.read_bytes) if isinstance(sound, Path) else sound
        headers = {"Content-Type": "application/octet-stream"}
        answer = await self._http.ask("POST", f"{self.location}/speech", content=data, headers=headers)
        number = int(answer.json()["id"])
        self._files.add(number)
        return number

    async def spoken(self, number: int) -> Spoken:
        """Wait until a text or file is said, or interrupted; what was said of a text."""
        return await self._channel.spoken(number, words=number not in self._files)

    async def push(self, pcm: bytes | NDArray[np.int16]) -> float:
        """Give the avatar mono sound, 16 bits little-endian at the call's `rate`; the seconds of it that were sent.

        In mode push it says what comes, which may come faster than it is spoken. In other modes the sound stands where
        a microphone would; this then takes as long as the sound. `interrupt` makes it return early.
        """
        if self._rate is None:
            raise AvatarError("This call takes no pushed sound: give AvatarClient mode='push', or a rate.")
        data = pcm if isinstance(pcm, bytes) else pcm.astype("<i2").tobytes()
        whole = 2 * round(PACKET * self._rate)
        clock, interruptions, sent = asyncio.get_running_loop().time, self._interruptions, 0
        while sent < len(data) and interruptions == self._interruptions:
            if self.mode != "push":
                self._due = max(self._due, clock() - PACKET)
                await asyncio.sleep(max(0.0, self._due - clock()))
                self._due += PACKET
            packet = data[sent : sent + whole]
            await self._channel.send(packet)
            sent += len(packet)
        return sent / 2 / self._rate

    async def end_push(self) -> None:
        """In mode push: what was pushed is whole, say it to its end; a pause of half a second means the same."""
        await self._channel.send({"type": "end"})

    async def interrupt(self) -> None:
        """Let the avatar be silent: what it says and what waits to be said is given up."""
        self._interruptions += 1
        await self._http.ask("DELETE", f"{self.location}/speech")
        if self.mode == "push":
            await self.end_push()  # what is pushed from now on is to be said again

    @property
    def mode(self) -> str:
        """Whose voice the avatar has now."""
        return self._channel.mode

    async def change_mode(self, mode: Mode) -> None:
        """Let something else speak from now on; what is being said is stopped."""
        if mode != self.mode:
            await self._channel.ask({"type": "mode", "mode": mode}, "mode")

    async def voices(self) -> list[dict[str, str]]:
        """The server's voices: `name`, `language` and `description` of each."""
        listed: list[dict[str, str]] = (await self._http.ask("GET", "/voices")).json()["voices"]
        return listed

    async def choose_voice(self, name: str) -> None:
        """For texts from now on."""
        await self._channel.ask({"type": "voice", "voice": name}, "voice")

    async def control(self, **controls: Any) -> dict[str, Any]:
        """Set controls of the face (docs/server.md), as `emotion="happy"`; all of them as they are then."""
        return dict((await self._channel.ask({"type": "pose", **controls}, "pose")).members)

    async def stats(self) -> dict[str, Any]:
        """The server's figures of this call."""
        figures: dict[str, Any] = (await self._http.ask("GET", f"{self.location}/stats")).json()
        return figures

    async def picture_offset(self) -> float:
        """Seconds to add to a picture's `time` to have it on the sound's clock; known after a second or two.

        Both count from their own first frame, which need not be of the same moment.
        """
        return await self._times.offset()

    async def _new_peer(self) -> RTCPeerConnection:
        servers = (await self._http.ask("GET", "/ice-servers")).json()["iceServers"]
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[RTCIceServer(**server) for server in servers]))
        if self._microphone is None:
            peer.addTransceiver("audio", direction="recvonly")
        else:
            peer.addTransceiver(self._microphone, direction="sendrecv")
        peer.addTransceiver("video", direction="recvonly")
        peer.on("track", self._receive)
        for transceiver in peer.getTransceivers():
            self._times.watch(transceiver.kind, transceiver.receiver)
        return peer

    async def _call(self) -> None:
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await self._http.ask(
            "POST",
            "/sessions",
            params=self._query,
            content=self._peer.localDescription.sdp,
            headers={"Content-Type": "application/sdp"},
        )
        self.location = answer.headers["Location"]
        self.watch = answer.headers.get("Watch-Location", "")
        await self._peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    async def _settled(self, seconds: float) -> None:
        """Wait until the connection stands or will never do, for so long at the most."""
        changed = asyncio.Event()
        self._peer.on("connectionstatechange", changed.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._peer.connectionState in ("new", "connecting"):
                    await changed.wait()
                    changed.clear()

    async def _connected(self) -> None:
        await self._settled(CONNECTING)
        if self._peer.connectionState != "connected":
            raise AvatarError(
                f"{self._http.url} answered, but sound and pictures do not get through; a firewall may block UDP."
            )

    def _receive(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.create_task(self._read(track), name=f"avatar client {track.kind}"))

    async def _read(self, track: MediaStreamTrack) -> None:
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, av.VideoFrame):
                    self.video.put(frame)
                elif isinstance(frame, av.AudioFrame):
                    self.audio.put(frame)

    async def _attend(self) -> None:
        """Listen to the channel; when it ends, so does what is seen and heard."""
        try:
            await self._channel.run()
        finally:
            self.video.end()
            self.audio.end()
            self._times.end()

    async def _delete(self) -> None:
        if self.location:
            with suppress(AvatarError):  # it is over already
                await self._http.ask("DELETE", self.location)

    async def _hang_up(self) -> None:
        if self._peer.connectionState == "connecting":
            await self._settled(SETTLING)  # closed on the point of connecting, aioice would go on with its checks
        await self._peer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
