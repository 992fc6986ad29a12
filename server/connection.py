"""One connection of a call: the peer, its microphone, the two tracks it receives and its picture encoder.

A caller that was lost comes back with a new one; everything a new connection replaces is here, and nothing
that a call keeps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aiortc import MediaStreamTrack, RTCSessionDescription
from av.packet import Packet

from engines.types import ByteArray, KDTalkerError
from server import aiortc_door as door
from server.clock import SessionClock
from server.encode import VideoEncoder
from server.ice import PortsExhaustedError, network
from server.metrics import CallMetrics
from server.settings import Settings
from server.tracks import AvatarAudioTrack, AvatarVideoTrack, MicrophoneReader

TOLERATED = 0.020  # seconds past due that a picture is still worth showing
FROZEN = 0.2  # seconds without a picture after which a late one is better than none
CLOSE_PATIENCE = 5.0

logger = logging.getLogger(__name__)


class OfferError(KDTalkerError):
    """The SDP offer cannot be answered; the text says why."""


class Connection:
    """Made on the event loop; `answer` begins it and `close` ends it. `changed` is called when `up` or `down` may
    be another.

    `clock` is set once the call's time runs; pictures may be shown from then on.
    """

    def __init__(self, name: str, settings: Settings, metrics: CallMetrics, changed: Callable[[], None]) -> None:
        self.clock: SessionClock | None = None
        self.microphone = MicrophoneReader()
        self.voice = AvatarAudioTrack(metrics)
        self._name, self._settings, self._metrics, self._changed = name, settings, metrics, changed
        self._picture = AvatarVideoTrack(metrics)
        self._peer = door.peer_connection(network(settings))
        self._speaking = self._peer.addTransceiver(self.voice, direction="sendrecv")
        self._showing = self._peer.addTransceiver(self._picture, direction="sendonly")
        door.prefer(self._speaking, "opus")
        door.prefer(self._showing, "VP8", "H264")
        self._packets = door.hand_on_at_once(self._speaking.receiver)
        self._peer.on("connectionstatechange", self._changed)
        self._peer.on("track", self._track_added)
        self._reading: asyncio.Task[None] | None = None
        self._encoder: VideoEncoder | None = None
        self._last_picture = self._last_heard = time.monotonic()
        self._received = 0

    async def answer(self, offer: str) -> str:
        """SDP offer -> SDP answer with all candidates; raises OfferError or PortsExhaustedError."""
        offer = door.without_mdns(offer)
        try:
            kinds = [media.kind for media in door.parse_offer(offer).media]
        except ValueError as error:
            raise OfferError(f"The offer cannot be answered: {error}.") from error
        if kinds.count("audio") != 1 or kinds.count("video") != 1:
            raise OfferError("The offer must have one audio and one video section.")
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except PortsExhaustedError:
            raise
        except Exception as error:  # aiortc raises whatever the part of the SDP happens to trip over
            logger.info("session %s: offer refused", self._name, exc_info=True)
            raise OfferError(
                "The offer cannot be answered: it needs Opus for sound, and VP8 or baseline H.264 for pictures."
            ) from error
        codec = door.negotiated_codec(self._showing)
        self._encoder = VideoEncoder(
            codec.name.lower(),
            self._settings.video_bitrate,
            self._settings.min_video_bitrate,
            emit=self._send_picture,
            drop=self._metrics.dropped,
            too_late=self.too_late,
            name=self._name,
        )
        door.hear_feedback(self._showing.sender, codec, self._encoder.request_keyframe, self._encoder.set_bitrate)
        return self._peer.localDescription.sdp

    @property
    def up(self) -> bool:
        return self._peer.connectionState == "connected"

    @property
    def down(self) -> bool:
        """Whether it is over for good."""
        return self._peer.connectionState in ("failed", "closed")

    @property
    def has_microphone(self) -> bool:
        return self._reading is not None

    async def silent_for(self) -> float:
        """Seconds since a look found new datagrams from the peer, of whatever kind; ask about once a second."""
        report = await self._speaking.receiver.getStats()
        received = sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")
        now = time.monotonic()
        if received != self._received:
            self._received, self._last_heard = received, now
        return now - self._last_heard

    def show(self, tick: int, rgb: ByteArray, pixels: int) -> None:
        """Encode a picture u8 (height, width, 3), at most so many pixels wide, and send it at its due."""
        assert self._encoder is not None, "answer first"
        self._encoder.pixels = pixels
        self._encoder.put(tick, rgb)

    def too_late(self, tick: int, newest: bool = True) -> bool:
        """Whether a picture is past its moment; if nothing was seen for long, the newest one never is.

        Asked on the event loop and on the encoder's thread.
        """
        assert self.clock is not None
        frozen = self.clock.now() - self._last_picture > FROZEN
        return self.clock.late(tick) > TOLERATED and not (newest and frozen)

    def stats(self) -> dict[str, Any]:
        """What the microphone's line is like."""
        playout = self.microphone.playout
        return {
            "connected": self.has_microphone,
            "frames": self.microphone.frames,
            "delay_ms": round(1000 * playout.delay, 1),
            "lost": self._packets.lost,
            "reordered": self._packets.dropped,
            "samples": dict(playout.counts),
        }

    async def close(self) -> None:
        """Leave nothing: no socket, task or thread. May be called twice."""
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._peer.close()
        except TimeoutError:
            logger.warning("session %s: the peer connection did not close in time", self._name)
        except Exception:  # what is left must be closed all the same
            logger.exception("session %s: the peer connection did not close", self._name)
        self.voice.stop()
        self._picture.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._encoder is not None:
            await self._encoder.close()

    def _send_picture(self, tick: int, packet: Packet[Any]) -> None:
        assert self.clock is not None
        self._last_picture = self.clock.now()
        self._picture.put(self.clock.due(tick), packet)

    def _track_added(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._reading is None:
            self._reading = asyncio.create_task(self.microphone.read(track), name=f"{self._name} microphone")
