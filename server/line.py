"""One peer connection, whatever runs over it: offer in, answer out, candidates that come later, and whether the
far end is there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from aiortc import RTCIceCandidate, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from engines.types import KDTalkerError
from server import aiortc_door as door
from server.ice import PortsExhaustedError, network
from server.settings import Settings

CLOSE_PATIENCE = 5.0  # seconds
CANDIDATES = 64  # that a peer may send after its offer; a machine with many addresses has a dozen

logger = logging.getLogger(__name__)


class OfferError(KDTalkerError):
    """The SDP offer, or a piece of one, cannot be used; the text says why."""


class RestartError(KDTalkerError):
    """An ICE restart was asked for, which aiortc cannot do; the line goes on as it is."""


@dataclass(frozen=True, slots=True)
class Section:
    """One media section of an offer: its kind and the direction as the peer sees it."""

    kind: str
    direction: str


@dataclass(frozen=True, slots=True)
class Offer:
    """An SDP offer that was read; `credentials`: ICE user fragments and passwords of its sections."""

    sdp: str
    sections: tuple[Section, ...]
    credentials: frozenset[tuple[str, str]]

    def find(self, kind: str) -> Section | None:
        return next((section for section in self.sections if section.kind == kind), None)

    def count(self, kind: str) -> int:
        return sum(section.kind == kind for section in self.sections)


def read(sdp: str) -> Offer:
    """Raises OfferError for what cannot be answered by anyone."""
    sdp = door.without_mdns(sdp)
    try:
        media = door.parse_offer(sdp).media
    except ValueError as error:
        raise OfferError(f"The offer cannot be answered: {error}.") from error
    return Offer(
        sdp,
        tuple(Section(section.kind, section.direction or "sendrecv") for section in media),
        frozenset((str(ice.usernameFragment), str(ice.password)) for ice in (section.ice for section in media) if ice),
    )


class Line:
    """Made on the event loop; add transceivers to `peer`, then `answer`; `close` ends it. `changed` is called when
    `up` or `down` may be another. `tag` names it to whoever sends candidates later.
    """

    def __init__(self, name: str, settings: Settings, changed: Callable[[], None]) -> None:
        self.tag = secrets.token_urlsafe(9)
        self.peer = door.peer_connection(network(settings))
        self.peer.on("connectionstatechange", changed)
        self._name = name
        self._offer: Offer | None = None
        self._room = CANDIDATES
        self._last_heard = time.monotonic()
        self._received = 0

    async def answer(self, offer: Offer) -> str:
        """The SDP answer, with all candidates of this end; raises OfferError or PortsExhaustedError."""
        try:
            await self.peer.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            await self.peer.setLocalDescription(await self.peer.createAnswer())
        except PortsExhaustedError:
            raise
        except Exception as error:  # aiortc raises whatever the part of the SDP happens to trip over
            logger.info("%s: offer refused", self._name, exc_info=True)
            raise OfferError(
                "The offer cannot be answered: it needs Opus for sound, and VP8 or baseline H.264 for pictures."
            ) from error
        self._offer = offer
        return self.peer.localDescription.sdp

    async def trickle(self, fragment: str) -> None:
        """Add the candidates of an SDP fragment (RFC 8840, 9); raises OfferError or RestartError.

        `.local` names are passed over, as those of an offer are; so is what comes after `a=end-of-candidates`.
        """
        assert self._offer is not None, "answer first"
        try:
            credentials, candidates, ended = _fragment(fragment)
        except Exception as error:  # aiortc's parser asserts, indexes and converts without guarding
            raise OfferError("The fragment cannot be used: it is not readable as SDP.") from error
        if not credentials:
            raise OfferError("The fragment cannot be used: it has no ice-ufrag and ice-pwd.")
        if not credentials <= self._offer.credentials:
            raise RestartError("An ICE restart is not possible here; send a new offer.")
        if len(candidates) > self._room:
            raise OfferError("The fragment cannot be used: those are too many candidates.")
        self._room -= len(candidates)
        try:
            for candidate in candidates:
                await self.peer.addIceCandidate(candidate)
            if ended:
                await self.peer.addIceCandidate(None)
        except Exception as error:
            raise OfferError("The fragment cannot be used: one of its candidates makes no sense.") from error

    @property
    def up(self) -> bool:
        return self.peer.connectionState == "connected"

    @property
    def down(self) -> bool:
        """Whether it is over for good."""
        return self.peer.connectionState in ("failed", "closed")

    async def silent_for(self) -> float:
        """Seconds since a look found new datagrams from the peer, of whatever kind; ask about once a second."""
        received = 0
        for transceiver in islice(self.peer.getTransceivers(), 1):
            report = await transceiver.receiver.getStats()
            received = sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")
        now = time.monotonic()
        if received != self._received:
            self._received, self._last_heard = received, now
        return now - self._last_heard

    async def close(self) -> None:
        """Leave no socket and no task; may be called twice."""
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self.peer.close()
        except TimeoutError:
            logger.warning("%s: the peer connection did not close in time", self._name)
        except Exception:  # what is left must be closed all the same
            logger.exception("%s: the peer connection did not close", self._name)


def _fragment(text: str) -> tuple[frozenset[tuple[str, str]], list[RTCIceCandidate], bool]:
    """ICE credentials, candidates, and whether there will be no more."""
    users, passwords = [], []
    candidates: list[RTCIceCandidate] = []
    mid: str | None = None
    ended = False
    for line in text.splitlines():
        name, _, value = line.strip().partition(":")
        match name:
            case "a=ice-ufrag":
                users.append(value)
            case "a=ice-pwd":
                passwords.append(value)
            case "a=mid":
                mid = value
            case "a=end-of-candidates":
                ended = True
            case "a=candidate" if " udp " in value.lower() and ".local " not in value:
                candidate = candidate_from_sdp(value)
                candidate.sdpMid = mid
                candidate.sdpMLineIndex = 0 if mid is None else None  # what has no name belongs to the bundle's first
                candidates.append(candidate)
    return frozenset(zip(users, passwords, strict=True)), candidates, ended
