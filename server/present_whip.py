"""Pictures and sound to a WHIP endpoint (RFC 9725): Opus, and VP8 or H.264, by aiortc and the encoders of calls."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import httpx
from aiortc import RTCSessionDescription
from av.packet import Packet

from engines.types import ByteArray, IntArray
from server import aiortc_door as door
from server.clock import SessionClock
from server.encode import SpeechEncoder, VideoEncoder
from server.line import Line
from server.present_outlet import OutletError
from server.settings import Settings
from server.tracks import AvatarAudioTrack, AvatarVideoTrack

KEYFRAME_SECONDS = 2.0  # not every endpoint passes on that somebody who begins to watch asks for one
PATIENCE = 10.0  # seconds for each answer of the endpoint, and for the connection to stand
SILENT = 6.0  # seconds without a packet, receiver reports included, after which the endpoint is gone
LOOK = 0.5  # seconds between looks at the line
TOO_LATE = 0.1  # seconds past its moment at which a picture is not encoded any more
ASKED = "it does not look like a WHIP endpoint"


class WhipOutlet:
    """One session at the endpoint. `token` is shown as a bearer token; `side`: pixels of a picture's longer side."""

    def __init__(self, url: str, token: str | None, settings: Settings, side: int, bitrate: int) -> None:
        self.failure: str | None = None
        self.left_out = 0
        self._url, self._settings, self._side, self._bitrate = url, settings, side, bitrate
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=PATIENCE,
            follow_redirects=True,  # 307 and 308 keep the method; another host is not shown the token (RFC 9725, 4.5)
        )
        self._line = Line("presenter", settings, lambda: None)
        self._voice, self._picture = AvatarAudioTrack(self), AvatarVideoTrack(self)
        self._speech = SpeechEncoder(settings.audio_bitrate)
        self._pictures: VideoEncoder | None = None
        self._clock: SessionClock | None = None
        self._resource: str | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Offer, answer and connection; raises OutletError."""
        peer = self._line.peer
        speaking = peer.addTransceiver(self._voice, direction="sendonly")
        showing = peer.addTransceiver(self._picture, direction="sendonly")
        door.prefer(speaking, "opus")
        door.prefer(showing, *self._settings.picture_codecs)
        door.report_when_due(speaking.sender, lambda: self._voice.due)
        door.report_when_due(showing.sender, lambda: self._picture.due)
        await peer.setLocalDescription(await peer.createOffer())
        answer = await self._post(peer.localDescription.sdp)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            codec = door.negotiated_codec(showing)
        except Exception as error:  # aiortc raises whatever the part of the SDP happens to trip over
            raise OutletError(f"the endpoint's answer cannot be used ({error})") from error
        self._pictures = encoder = VideoEncoder(
            codec.name.lower(),
            self._bitrate,
            min(self._bitrate, self._settings.min_video_bitrate),
            emit=self._emit,
            drop=self.dropped,
            too_late=self._too_late,
            name="presenter",
            side=self._side,
            keyframe_seconds=KEYFRAME_SECONDS,
        )
        door.hear_feedback(showing.sender, codec, encoder.request_keyframe, encoder.set_bitrate, encoder.report_loss)
        await self._connected()
        self._watching = asyncio.create_task(self._watch(), name="presenter's line")

    def begin(self, clock: SessionClock) -> None:
        self._clock = clock

    def put(self, tick: int, playback: IntArray, rgb: ByteArray | None) -> None:
        assert self._clock is not None, "begin first"
        assert self._pictures is not None, "open first"
        self._voice.put(self._clock.due(tick), self._speech.encode(tick, playback))
        if rgb is not None:
            self._pictures.put(tick, rgb)

    async def close(self) -> None:
        if self._clock is not None and self.failure is None:
            await asyncio.sleep(max(0.0, self._clock.delay))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._resource is not None:
            with suppress(httpx.HTTPError):  # it is gone, or notices by itself that we are
                await self._http.delete(self._resource)
        await self._http.aclose()
        await self._line.close()
        self._voice.stop()
        self._picture.stop()
        if self._pictures is not None:
            await self._pictures.close()

    async def _post(self, offer: str) -> str:
        try:
            answer = await self._http.post(self._url, content=offer, headers={"Content-Type": "application/sdp"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OutletError(f"it does not answer ({error or type(error).__name__})") from error
        if answer.status_code in (401, 403):
            raise OutletError(f"it answers {answer.status_code}: the token is missing or wrong")
        if answer.status_code != 201:
            raise OutletError(f"it answers {answer.status_code} {answer.reason_phrase}{_detail(answer)}")
        if "location" not in answer.headers or "sdp" not in answer.headers.get("content-type", ""):
            raise OutletError(ASKED)
        self._resource = str(answer.url.join(answer.headers["location"]))
        return answer.text

    async def _connected(self) -> None:
        patience = time.monotonic() + PATIENCE
        while not self._line.up:
            if self._line.down or time.monotonic() > patience:
                raise OutletError("it answers, but no packets pass between it and this machine")
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        while self.failure is None:
            await asyncio.sleep(LOOK)
            if not self._line.up or await self._line.silent_for() > SILENT:
                self.failure = "the endpoint is gone"

    def _emit(self, tick: int, packet: Packet[Any]) -> None:
        assert self._clock is not None
        self._picture.put(self._clock.showing(tick), packet)

    def _too_late(self, tick: int) -> bool:
        return self._clock is None or self._clock.late(tick) > TOO_LATE

    # What the tracks and the encoder report

    def released(self, kind: str, late: float, latency: float | None = None) -> None:
        pass

    def dropped(self, cause: str, count: int = 1) -> None:
        if cause != "sound_unsent":
            self.left_out += count


def _detail(answer: httpx.Response) -> str:
    """The sentence of a problem document (RFC 9457), or the first line of whatever came."""
    try:
        told = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        told = answer.text.partition("\n")[0]
    told = str(told).strip()[:200]
    return f": {told}" if told else ""
