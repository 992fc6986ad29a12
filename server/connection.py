"""One connection of a call: the line to its caller, the microphone, and what the caller receives.

A caller that was lost comes back with a new one; everything a new connection replaces is here, and nothing
that a call keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiortc import MediaStreamTrack
from av.packet import Packet

from server import aiortc_door as door
from server.clock import SessionClock
from server.line import Line, Offer, OfferError, read
from server.metrics import CallMetrics
from server.settings import Settings
from server.stream import PictureStream
from server.tracks import AvatarAudioTrack, AvatarVideoTrack, MicrophoneReader


class Connection:
    """Made on the event loop; `answer` begins it and `close` ends it. `changed` is called when `up` or `down` may
    be another. A connection that is `publishing` brings a microphone and receives nothing.
    """

    def __init__(
        self, name: str, settings: Settings, metrics: CallMetrics, changed: Callable[[], None], publishing: bool = False
    ) -> None:
        self.microphone = MicrophoneReader()
        self.line = Line(f"session {name}", settings, changed)
        self._name, self._settings, self._metrics, self._publishing = name, settings, metrics, publishing
        self._voice = AvatarAudioTrack(metrics)
        self._picture = AvatarVideoTrack(metrics, metrics.traces)
        self._packets: door.PacketsInOrder | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stream: PictureStream | None = None

    async def answer(self, sdp: str) -> str:
        """SDP offer -> SDP answer with all candidates; raises OfferError or PortsExhaustedError."""
        offer = read(sdp)
        peer = self.line.peer
        peer.on("track", self._track_added)
        if self._publishing:
            _require_microphone(offer)
            speaking = peer.addTransceiver("audio", direction="recvonly")
            for _ in range(offer.count("video")):
                peer.addTransceiver("video", direction="inactive")
        else:
            if offer.count("audio") != 1 or offer.count("video") != 1:
                raise OfferError("The offer must have one audio and one video section.")
            speaking = peer.addTransceiver(self._voice, direction="sendrecv")
            showing = peer.addTransceiver(self._picture, direction="sendonly")
            door.report_when_due(speaking.sender, lambda: self._voice.due)
            door.report_when_due(showing.sender, lambda: self._picture.due)
            door.prefer(showing, *self._settings.picture_codecs)
        door.prefer(speaking, "opus")
        self._packets = door.hand_on_at_once(speaking.receiver)
        answer = await self.line.answer(offer)
        if not self._publishing:
            codec = door.negotiated_codec(showing)
            self._stream = PictureStream(
                self._name, codec.name.lower(), self._settings, self._metrics, self._picture.put
            )
            stream = self._stream
            door.hear_feedback(showing.sender, codec, stream.request_keyframe, stream.follow, stream.report_loss)
        return answer

    def begin(self, clock: SessionClock) -> None:
        """The call's time runs; pictures may be shown from now on."""
        if self._stream is not None:
            self._stream.clock = clock

    @property
    def up(self) -> bool:
        return self.line.up

    @property
    def has_microphone(self) -> bool:
        return self._reading is not None

    @property
    def pictures(self) -> PictureStream | None:
        """Where the caller's pictures go, while somebody is there to see them."""
        return self._stream if self.line.up else None

    def speak(self, due: float, packets: tuple[Packet[Any], Packet[Any]], arrival: float | None) -> None:
        """Send a tick of the avatar's voice at its due; see `AvatarAudioTrack.put`."""
        if self.line.up and not self._publishing:
            self._voice.put(due, packets, arrival)

    def stats(self) -> dict[str, Any]:
        """What the microphone's line is like."""
        playout = self.microphone.playout
        return {
            "connected": self.has_microphone,
            "frames": self.microphone.frames,
            "delay_ms": round(1000 * playout.delay, 1),
            "lost": self._packets.lost if self._packets else 0,
            "reordered": self._packets.dropped if self._packets else 0,
            "samples": dict(playout.counts),
        }

    async def close(self) -> None:
        """Leave nothing: no socket, task or thread. May be called twice."""
        await self.line.close()
        self._voice.stop()
        self._picture.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._stream is not None:
            await self._stream.close()

    def _track_added(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._reading is None:
            self._reading = asyncio.create_task(self.microphone.read(track), name=f"{self._name} microphone")


def _require_microphone(offer: Offer) -> None:
    """Pictures beside the sound are answered `inactive`: the avatar's are shown, not the publisher's."""
    kinds = {section.kind for section in offer.sections}
    sound = offer.find("audio")
    if sound is None or offer.count("audio") != 1 or not kinds <= {"audio", "video"}:
        raise OfferError("The offer must have one audio section, and beside it pictures at the most.")
    if sound.direction not in ("sendonly", "sendrecv"):
        raise OfferError("The offer's audio section must be sendonly: the avatar speaks with the publisher's voice.")
