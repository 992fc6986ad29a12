"""One call: its peer connection, its tasks, its lease on the engines, its encoder and its clock.

A `Session` is an async context manager; leaving the block is the only way to end it, and leaves nothing
behind. Whoever wants it to end calls `end(reason)`; `closed()` waits until it is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCSessionDescription
from av.packet import Packet

from engines.types import Identity, KDTalkerError
from server import aiortc_door as door
from server.batcher import Batcher
from server.clock import SessionClock
from server.encode import SpeechEncoder, VideoEncoder
from server.ice import PortsExhaustedError, network
from server.metrics import CallMetrics, Metrics
from server.settings import Settings
from server.tracks import AvatarAudioTrack, AvatarVideoTrack, MicrophoneReader, UnheardSound

TOLERATED = 0.020  # seconds past due that a picture is still worth showing
FROZEN = 0.2  # seconds without a picture after which a late one is better than none
VOICE = 0.01  # level (RMS) that counts as somebody speaking
FIRST_SOUND = 0.3  # seconds that a call's beginning waits for its microphone
CLOSE_PATIENCE = 5.0

logger = logging.getLogger(__name__)


class OfferError(KDTalkerError):
    """The SDP offer cannot be answered; the text says why."""


class State(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    ENDED = "ended"


class Session:
    """A caller's voice in, an avatar's voice and pictures out (mirror mode)."""

    def __init__(
        self, name: str, avatar: str, identity: Identity, batcher: Batcher, settings: Settings, metrics: Metrics
    ) -> None:
        self.id = name
        self.avatar = avatar
        self.state = State.CONNECTING
        self.reason: str | None = None
        self.metrics = CallMetrics(metrics)
        self._settings = settings
        self._batcher = batcher
        self._lease = batcher.lease(identity)
        self._delay = batcher.talker.profile.delay + settings.compute_allowance
        self._connected = asyncio.Event()
        self._ending = asyncio.Event()
        self._over = asyncio.Event()
        self._encoder: VideoEncoder | None = None
        self._clock: SessionClock | None = None
        self._remote: MediaStreamTrack | None = None
        self._unheard = UnheardSound()
        self._last_voice = self._last_picture = time.monotonic()

    async def __aenter__(self) -> Session:
        self._peer = door.peer_connection(network(self._settings))
        self._microphone = MicrophoneReader()
        self._voice = AvatarAudioTrack(self.metrics)
        self._picture = AvatarVideoTrack(self.metrics)
        self._speaking = self._peer.addTransceiver(self._voice, direction="sendrecv")
        self._showing = self._peer.addTransceiver(self._picture, direction="sendonly")
        door.prefer(self._speaking, "opus")
        door.prefer(self._showing, "VP8", "H264")
        self._packets = door.hand_on_at_once(self._speaking.receiver)
        self._peer.on("connectionstatechange", self._connection_changed)
        self._peer.on("track", self._track_added)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end("offer refused" if isinstance(error, OfferError) else "left" if error is None else "failed")
        self.state = State.ENDED
        try:
            await asyncio.shield(self._release())
        finally:
            self._over.set()
            logger.info("session %s over: %s", self.id, self.reason)

    async def accept(self, offer: str) -> str:
        """SDP offer -> SDP answer with all candidates; raises OfferError."""
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
            logger.info("session %s: offer refused", self.id, exc_info=True)
            raise OfferError(
                "The offer cannot be answered: it needs Opus for sound, and VP8 or baseline H.264 for pictures."
            ) from error
        codec = door.negotiated_codec(self._showing)
        self._encoder = VideoEncoder(
            codec.name.lower(),
            self._settings.video_bitrate,
            self._settings.min_video_bitrate,
            emit=self._send_picture,
            drop=self.metrics.dropped,
            too_late=self._too_late,
            name=self.id,
        )
        door.hear_feedback(self._showing.sender, codec, self._encoder.request_keyframe, self._encoder.set_bitrate)
        return self._peer.localDescription.sdp

    async def run(self) -> None:
        """The call, from the answer to its end; call `accept` first."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._live(group), name=f"{self.id} live")]
            if self._remote is not None:
                tasks.append(group.create_task(self._microphone.read(self._remote), name=f"{self.id} microphone"))
            await self._ending.wait()
            for task in tasks:
                task.cancel()

    def end(self, reason: str) -> None:
        """Ask the call to end; the first reason given is the one that is kept."""
        if self.reason is None:
            self.reason = reason
        self._ending.set()

    async def closed(self) -> None:
        """Wait until nothing of the call is left; any number may wait."""
        await self._over.wait()

    def stats(self) -> dict[str, Any]:
        """What `/sessions/{id}/stats` answers."""
        playout = self._microphone.playout
        return {
            "id": self.id,
            "state": self.state,
            "reason": self.reason,
            "avatar": self.avatar,
            **self.metrics.snapshot(),
            "microphone": {
                "connected": self._remote is not None,
                "frames": self._microphone.frames,
                "delay_ms": round(1000 * playout.delay, 1),
                "lost": self._packets.lost,
                "reordered": self._packets.dropped,
                "samples": dict(playout.counts),
            },
        }

    async def _release(self) -> None:
        self._lease.release()
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._peer.close()
        except TimeoutError:
            logger.warning("session %s: the peer connection did not close in time", self.id)
        except Exception:  # what is left must be closed all the same
            logger.exception("session %s: the peer connection did not close", self.id)
        if self._encoder is not None:
            await self._encoder.close()

    async def _live(self, group: asyncio.TaskGroup) -> None:
        """Wait for the connection, start the clock, then watch over the call."""
        now = time.monotonic()
        await self._lease.begin(_seed(self.id), deadline=now + 1)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._connected.wait()
        except TimeoutError:
            self.end("never connected")
            return
        self._clock = clock = SessionClock(await self._origin(), self._delay)
        self.state = State.LIVE
        self.metrics.begin()
        workers = [
            group.create_task(self._hear(clock), name=f"{self.id} hear"),
            group.create_task(self._animate(clock), name=f"{self.id} animate"),
        ]
        try:
            await self._watch()
        finally:
            for worker in workers:
                worker.cancel()

    async def _origin(self) -> float:
        """When to begin: now, or where cuts come just after the microphone's packets if there are some soon."""
        if self._remote is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SOUND):
                    return await self._microphone.best_cut()
        return time.monotonic()

    async def _hear(self, clock: SessionClock) -> None:
        """Cut the sound into ticks: back to the listener, and on to the engines."""
        encoder = SpeechEncoder(self._settings.audio_bitrate)
        tick = 0
        while True:
            await clock.until(clock.cut(tick))
            speech, arrival = self._microphone.take(tick, clock.cut(tick))
            self._voice.put(clock.due(tick), encoder.encode(tick, speech.playback), arrival)
            if self._unheard.put(speech.pcm):
                self.metrics.dropped("sound_unheard")
            if math.sqrt(float(np.mean(speech.pcm**2))) > VOICE:
                self._last_voice = clock.now()
            tick += 1

    async def _animate(self, clock: SessionClock) -> None:
        """Sound to pictures. One that is too late is skipped, so that the next one is of the present again."""
        while True:
            pcm = await self._unheard.take()
            deadline = clock.now() + self._settings.compute_allowance / 2
            ready = await self._lease.listen(pcm, deadline)
            for motion in ready:
                if self._too_late(motion.tick, newest=motion is ready[-1]):
                    self.metrics.dropped("late_before_rendering")
                    continue
                try:
                    picture = await self._lease.render(motion.motion, clock.due(motion.tick))
                except Exception:
                    logger.exception("session %s: a picture could not be rendered", self.id)
                    self.metrics.dropped("render_error")
                    continue
                assert self._encoder is not None
                self._encoder.put(motion.tick, picture)

    async def _watch(self) -> None:
        """End the call when its peer is gone, nobody speaks, or its time is up."""
        limits = self._settings
        begun = heard = time.monotonic()
        received = -1
        while not self._ending.is_set():
            await asyncio.sleep(1)
            now = time.monotonic()
            count = await self._received()
            if count != received:
                received, heard = count, now
            if now - heard > limits.lost_after:
                self.end("peer lost")
            elif now - max(begun, self._last_voice) > limits.idle_after:
                self.end("nobody spoke")
            elif now - begun > limits.session_limit:
                self.end("time is up")

    async def _received(self) -> int:
        """Datagrams that came from the peer, of whatever kind."""
        report = await self._speaking.receiver.getStats()
        return sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")

    def _too_late(self, tick: int, newest: bool = True) -> bool:
        """Whether a picture is past its moment; if nothing was seen for long, the newest one never is.

        Asked on the event loop and on the encoder's thread.
        """
        assert self._clock is not None
        frozen = self._clock.now() - self._last_picture > FROZEN
        return self._clock.late(tick) > TOLERATED and not (newest and frozen)

    def _send_picture(self, tick: int, packet: Packet[Any]) -> None:
        assert self._clock is not None
        self._last_picture = self._clock.now()
        self._picture.put(self._clock.due(tick), packet)

    def _connection_changed(self) -> None:
        match self._peer.connectionState:
            case "connected":
                self._connected.set()
            case "failed":
                self.end("connection failed")
            case "closed":
                self.end("peer closed")

    def _track_added(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._remote = track


def _seed(name: str) -> int:
    """A seed of the call's own, so that two calls with one avatar do not move alike."""
    return int.from_bytes(name.encode()[:8], "little")
