"""Who watches a call: each viewer on a line of its own, all on encoders that they share.

The call's sound is encoded once and its pictures once for every size that somebody is on. A viewer changes its size,
and comes back after it fell behind, at a key frame and without a trace for the others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from av.packet import Packet

from server import aiortc_door as door
from server.clock import SessionClock
from server.line import Line, OfferError, read
from server.metrics import CallMetrics
from server.renditions import Key, Renditions, shared
from server.rungs import Choice, rate, sizes
from server.settings import Settings
from server.stream import PictureStream
from server.tracks import AvatarAudioTrack, AvatarVideoTrack

LOOK = 1.0  # seconds between looks at the viewers
SILENT = 10.0  # seconds without any packet after which a viewer is gone; browsers report on sound alone every five
BEHIND = 0.5  # seconds that a picture may wait for its viewer's sender

logger = logging.getLogger(__name__)


class Viewer:
    """One line out. `answer` begins it and `close` ends it; `asked(viewer)` is called when it needs a key frame,
    `changed(viewer)` when it may be up, or gone.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[Viewer, str, float, float | None], None],
        changed: Callable[[Viewer], None],
        asked: Callable[[Viewer], None],
        drop: Callable[[str, int], None],
    ) -> None:
        self.name = settings.prefix + secrets.token_urlsafe(12)
        self.line = Line("viewer", settings, lambda: changed(self))
        self.current: Key | None = None  # the rendition that its pictures come from
        self.wanted: Key | None = None  # the one that they are to come from, from its next key frame on
        self.since = time.monotonic()
        self.codec: str | None = None  # of its pictures, where it takes any
        self._settings, self._report, self._asked, self._drop = settings, report, asked, drop
        self._voice, self._picture = AvatarAudioTrack(self), AvatarVideoTrack(self)
        self._sizes = sizes(settings.video_size)
        rates = [rate(settings.video_bitrate, pixels, settings.video_size) for pixels in self._sizes]
        self._choice = Choice(rates, self.since)
        self._carried: float | None = None
        self._lost = 0.0

    async def answer(self, sdp: str) -> str:
        """SDP offer (recvonly) -> SDP answer with all candidates; raises OfferError or PortsExhaustedError."""
        offer = read(sdp)
        kinds = [section.kind for section in offer.sections]
        if not kinds or set(kinds) - {"audio", "video"} or len(set(kinds)) < len(kinds):
            raise OfferError("The offer must have one audio section, one video section, or one of each.")
        if any(section.direction not in ("recvonly", "sendrecv") for section in offer.sections):
            raise OfferError("The offer's sections must be recvonly: this is the way out.")
        showing = None
        for kind in kinds:
            track = self._voice if kind == "audio" else self._picture
            transceiver = self.line.peer.addTransceiver(track, direction="sendonly")
            door.report_when_due(transceiver.sender, partial(getattr, track, "due"))
            if kind == "audio":
                door.prefer(transceiver, "opus")
            else:
                door.prefer(transceiver, *self._settings.picture_codecs)
                showing = transceiver
        answer = await self.line.answer(offer)
        if showing is not None:
            codec = door.negotiated_codec(showing)
            self.codec = codec.name.lower()
            door.hear_feedback(showing.sender, codec, lambda: self._asked(self), self._estimated, self._has_lost)
        return answer

    @property
    def size(self) -> int:
        """Pixels of the pictures that its line carries."""
        return self._sizes[self._choice.rung]

    async def look(self, sent: float) -> bool:
        """Once a second, with the bits a second that are `sent`: whether it is still there."""
        now = time.monotonic()
        if not self.line.up:
            return not self.line.down and now - self.since < self._settings.connect_timeout
        if self.codec is not None:
            self._choice.look(now, self._lost, self._carried, sent)
        return await self.line.silent_for() < SILENT

    def speak(self, due: float, packets: tuple[Packet[Any], Packet[Any]]) -> None:
        self._voice.put(due, packets)

    def show(self, key: Key, due: float, packet: Packet[Any]) -> None:
        """Take a picture of a rendition, if it is one for this viewer."""
        if key == self.wanted and key != self.current and packet.is_keyframe:
            if self._picture.give_up(due):
                self.current = key
            else:
                self._asked(self)  # a newer picture has left: the next key frame will do
        if key != self.current:
            return
        waiting = self._picture.next_due
        if waiting is not None and time.monotonic() - waiting > BEHIND:
            self._picture.give_up(float("-inf"))
            self.dropped("viewer_behind")
            self.current = None
            self._asked(self)
            return
        self._picture.put(due, packet)

    async def close(self) -> None:
        """Leave no socket and no task; may be called twice."""
        await self.line.close()
        self._voice.stop()
        self._picture.stop()

    # What its tracks report

    def released(self, kind: str, late: float, latency: float | None = None) -> None:
        self._report(self, kind, late, latency)

    def dropped(self, cause: str, count: int = 1) -> None:
        self._drop(cause, count)

    def _estimated(self, bitrate: int) -> None:
        self._carried = bitrate

    def _has_lost(self, share: float) -> None:
        self._lost = share


class Audience:
    """The viewers of one call. `run` is its only task; `close` ends them all."""

    def __init__(self, name: str, settings: Settings, metrics: CallMetrics) -> None:
        self._name, self._settings, self._metrics = name, settings, metrics
        self._viewers: dict[str, Viewer] = {}
        self._renditions: Renditions | None = None  # once the call's time runs
        self._most: int = settings.video_size  # pixels that anybody gets
        self.unseen = False  # whether the call's own caller sees no pictures

    def __len__(self) -> int:
        return len(self._viewers)

    def begin(self, clock: SessionClock) -> None:
        """The call's time runs; pictures may be shown from now on."""
        self._renditions = Renditions(self._name, self._settings, self._metrics, clock, self._send)

    async def admit(self, offer: str) -> tuple[Viewer, str]:
        """A new viewer and the SDP answer for it; raises OfferError or PortsExhaustedError."""
        viewer = Viewer(self._settings, self._report, lambda _: self._place(), self._ask, self._metrics.dropped)
        self._viewers[viewer.name] = viewer
        self._metrics.process.viewers.inc()
        try:
            return viewer, await viewer.answer(offer)
        except BaseException:
            await asyncio.shield(self.leave(viewer))
            raise

    def find(self, name: str) -> Viewer | None:
        return self._viewers.get(name)

    async def leave(self, viewer: Viewer) -> None:
        """Let a viewer go; may be called twice."""
        await viewer.close()
        if self._viewers.pop(viewer.name, None) is not None:
            self._metrics.process.viewers.dec()

    def speak(self, due: float, packets: tuple[Packet[Any], Packet[Any]]) -> None:
        """Send a tick of the avatar's voice to all."""
        for viewer in self._viewers.values():
            if viewer.line.up:
                viewer.speak(due, packets)

    def streams(self, most: int) -> list[tuple[PictureStream, int]]:
        """Where a picture goes, and how large it is to be there, at `most` so many pixels."""
        if self._renditions is None or not self._viewers:
            return []
        if most != self._most:
            self._most = most
            self._place()
        return [(self._renditions.get(key).stream, min(key.pixels, most)) for key in self._keys()]

    @property
    def watching(self) -> bool:
        """Whether anybody sees the pictures."""
        return any(viewer.wanted is not None and viewer.line.up for viewer in self._viewers.values())

    def stats(self) -> dict[str, Any]:
        """What `viewers` says in a call's figures."""
        opened = self._renditions.open if self._renditions else {}
        on = Counter(viewer.current for viewer in self._viewers.values())
        return {
            "count": len(self._viewers),
            "renditions": [
                {
                    "codec": key.codec,
                    "pixels": key.pixels,
                    "viewers": on[key],
                    "pictures": rendition.pictures,
                    "keyframes": rendition.keyframes,
                    "bitrate": round(rendition.rate),
                }
                for key, rendition in sorted(opened.items(), key=lambda item: (item[0].codec, -item[0].pixels))
            ],
        }

    async def run(self) -> None:
        """Follow the viewers: let the lost ones go and put each of the others on what its line carries."""
        assert self._renditions is not None, "begin first"
        leaving: set[str] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                for viewer in [viewer for name, viewer in self._viewers.items() if name not in leaving]:
                    sent = self._renditions.open.get(viewer.current) if viewer.current else None
                    if not await viewer.look(sent.rate if sent else 0.0):
                        logger.info("session %s: a viewer is gone", self._name)
                        leaving.add(viewer.name)
                        group.create_task(self.leave(viewer), name=f"{self._name} viewer")
                self._place()
                await self._renditions.keep(self._keys())
                await asyncio.sleep(LOOK)

    async def close(self) -> None:
        """Leave nothing; may be called twice."""
        await asyncio.gather(*(self.leave(viewer) for viewer in list(self._viewers.values())))
        if self._renditions is not None:
            await self._renditions.keep(())

    def _keys(self) -> set[Key]:
        """Renditions that somebody gets or waits for."""
        return {
            key
            for viewer in self._viewers.values()
            if viewer.line.up
            for key in (viewer.current, viewer.wanted)
            if key is not None
        }

    def _place(self) -> None:
        """Put everybody on the rendition that their line and the machine carry, as far as there may be one."""
        if self._renditions is None:
            return
        wanted = {
            viewer: Key(viewer.codec, min(viewer.size, self._most))
            for viewer in self._viewers.values()
            if viewer.codec is not None and viewer.line.up
        }
        stands = shared(Counter(wanted.values()))
        for viewer, key in wanted.items():
            if stands[key] != viewer.wanted:
                viewer.wanted = stands[key]
                self._metrics.process.events.labels(f"viewer: {viewer.wanted.pixels} pixels").inc()
                self._ask(viewer)

    def _ask(self, viewer: Viewer) -> None:
        """A viewer needs a key frame of what it is on, or is to be on."""
        if self._renditions is not None and viewer.wanted is not None:
            self._renditions.get(viewer.wanted).stream.request_keyframe()

    def _send(self, key: Key, due: float, packet: Packet[Any]) -> None:
        for viewer in self._viewers.values():
            viewer.show(key, due, packet)

    def _report(self, viewer: Viewer, kind: str, late: float, latency: float | None) -> None:
        """Where the caller sees nothing, the oldest viewer speaks for the call."""
        if self.unseen and viewer is next(iter(self._viewers.values()), None):
            self._metrics.released(kind, late, latency)
        else:
            self._metrics.process.frames.labels(kind).inc()
