"""Where received sound and pictures stand on their sender's clock (RFC 3550, 6.4.1).

aiortc counts each track's time from its own first frame and keeps the reports that relate the two to itself; what is
private there is named here alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket

from client.errors import AvatarError

RATES: Mapping[str, int] = {"audio": 48_000, "video": 90_000}  # RTP clocks: RFC 7587, RFC 7741, RFC 6184


class SenderTimes:
    """The newest sender report of every track of one call."""

    def __init__(self) -> None:
        self._receivers: dict[str, RTCRtpReceiver] = {}
        self._pairs: dict[str, tuple[float, int]] = {}  # NTP seconds, RTP timestamp
        self._whole = asyncio.Event()

    def watch(self, kind: str, receiver: RTCRtpReceiver) -> None:
        """Note the reports that `receiver` gets; before the connection stands."""
        self._receivers[kind] = receiver
        handle = _private(receiver, "_handle_rtcp_packet")

        async def noting(packet: AnyRtcpPacket) -> None:
            if isinstance(packet, RtcpSrPacket):
                self._pairs[kind] = packet.sender_info.ntp_timestamp / 2**32, packet.sender_info.rtp_timestamp
                if len(self._pairs) == len(RATES):
                    self._whole.set()
            await handle(packet)

        setattr(receiver, "_handle_rtcp_packet", noting)  # noqa: B010  # as private as it is, it is replaced

    def end(self) -> None:
        """No report will follow."""
        self._whole.set()

    async def offset(self) -> float:
        """Seconds to add to the time of a picture to have it on the clock of the sound, once both were reported.

        Raises AvatarError where they never were.
        """
        await self._whole.wait()
        if len(self._pairs) < len(RATES):
            raise AvatarError("The call was over before its server said how sound and pictures belong together.")
        return self._zero("video") - self._zero("audio")

    def _zero(self, kind: str) -> float:
        """NTP seconds at which the time of a track's frames began."""
        ntp, timestamp = self._pairs[kind]
        origin = _private(_private(self._receivers[kind], "_RTCRtpReceiver__timestamp_mapper"), "_origin") or 0
        steps = (timestamp - origin + 2**31) % 2**32 - 2**31
        return ntp - steps / RATES[kind]


def _private(owner: object, name: str) -> Any:
    if not hasattr(owner, name):
        raise RuntimeError(f"{type(owner).__name__} of this aiortc has no {name}: see client/timing.py")
    return getattr(owner, name)
