"""Every touch of aiortc's private parts (1.16), in one place and each with a test.

Each function refuses loudly where the attribute it needs is gone, so that an upgrade of aiortc fails in a
test and not in a call. What lives elsewhere uses aiortc's public interface only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, get_host_addresses, server_reflexive_candidate
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc import (
    InvalidStateError,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.codecs import get_encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecCapability, RTCRtpCodecParameters
from aiortc.rtp import AnyRtcpPacket, RtcpRrPacket, RtcpSrPacket, RtpPacket
from aiortc.sdp import SessionDescription
from aiortc.utils import uint16_add
from av.packet import Packet

from server.ice import Network, PortRange, facing

# Once for all tracks: what two readings of the clocks differ by on a full machine would be skew.
MONOTONIC_TO_NTP = time.time() - time.monotonic() + 2_208_988_800  # seconds; NTP counts from 1900
LARGEST_DATAGRAM = 65_535  # bytes
RESTART = 1000  # packets: a sequence number this far behind is a new stream, not a late packet


class _PeerConnection(RTCPeerConnection):
    """Binds and names its candidates as `network` says; raises PortsExhaustedError from `setLocalDescription`.

    Closed while it connects it is closed in silence: aiortc's own goes on to the next transceiver of the bundle and
    leaves an InvalidStateError in a task that nobody asks.
    """

    def __init__(self, network: Network) -> None:
        servers = [RTCIceServer(server.urls, server.username, server.credential) for server in network.servers]
        policy = RTCIceTransportPolicy.RELAY if network.relay_only else RTCIceTransportPolicy.ALL
        # aiortc reads `iceServers=None` as "ask a public STUN server"; an empty list is what asks nobody.
        super().__init__(RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))
        _attribute(self, "_RTCPeerConnection__connect")
        self._network = network

    async def _RTCPeerConnection__connect(self) -> None:  # noqa: N802  # overrides
        try:
            await super()._RTCPeerConnection__connect()  # type: ignore[misc]
        except InvalidStateError:
            if not _attribute(self, "_RTCPeerConnection__isClosed"):
                raise

    async def setLocalDescription(  # noqa: N802  # overrides
        self,
        sessionDescription: RTCSessionDescription | None = None,  # noqa: N803
    ) -> None:
        ports = None if self._network.relay_only else self._network.ports
        gatherings: list[_Gathering] = []
        try:
            # By now transports that a bundle makes needless are gone. All sockets or none are bound, before aiortc
            # gathers for all transports at once.
            for transport in _attribute(self, "_RTCPeerConnection__iceTransports"):
                if transport.iceGatherer.state == "new":
                    connection = _attribute(transport.iceGatherer, "_connection")
                    gatherings.append(_Gathering(connection, ports, self._network.advertise))
            await super().setLocalDescription(sessionDescription)
        finally:
            for gathering in gatherings:
                gathering.close()


def peer_connection(network: Network) -> RTCPeerConnection:
    """A peer connection that asks only the servers named in `network`, and binds where it says."""
    return _PeerConnection(network)


class _Gathering:
    """Stands where an aioice connection gathers: host sockets in a range of ports, and the advertised address.

    aioice itself binds port 0 and knows no 1:1 NAT.
    """

    def __init__(self, connection: Connection, ports: PortRange | None, advertise: str | None) -> None:
        self._connection = connection
        self._by_aioice = _attribute(connection, "get_component_candidates")
        self._advertise = advertise
        self._sockets: list[socket.socket] | None = None
        if ports is not None:
            addresses = get_host_addresses(_attribute(connection, "_use_ipv4"), _attribute(connection, "_use_ipv6"))
            self._sockets = ports.bind(addresses)
        _replace(connection, "get_component_candidates", self._gather)

    def close(self) -> None:
        """Give back the sockets that no gathering took."""
        for unused in self._sockets or ():
            unused.close()
        self._sockets = None

    async def _gather(self, component: int, addresses: list[str], patience: int = 5) -> list[Candidate]:
        """What `Connection.get_component_candidates` does, on sockets that are bound already."""
        if self._sockets is None:
            candidates: list[Candidate] = await self._by_aioice(component, addresses, patience)
        else:
            hosts = [await self._host(component, self._sockets.pop()) for _ in addresses if self._sockets]
            _attribute(self._connection, "_protocols").extend(hosts)
            reflexive, relayed = await asyncio.gather(
                self._reflexive(hosts, patience), self._by_aioice(component, [], patience)
            )
            candidates = [host.local_candidate for host in hosts] + reflexive + relayed
        for protocol in _attribute(self._connection, "_protocols"):
            # asyncio makes room for 256 KiB before each datagram, and so takes four times as long to receive it.
            if hasattr(protocol.transport, "max_size"):
                protocol.transport.max_size = LARGEST_DATAGRAM
        return candidates + self._advertised(candidates)

    async def _host(self, component: int, bound: socket.socket) -> StunProtocol:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: StunProtocol(self._connection), sock=bound)
        address, port = bound.getsockname()[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", address),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=address,
            port=port,
            type="host",
        )
        return protocol

    async def _reflexive(self, hosts: list[StunProtocol], patience: int) -> list[Candidate]:
        server = _attribute(self._connection, "stun_server")
        if server is None:
            return []
        asked = [
            asyncio.wait_for(server_reflexive_candidate(host, server), patience)
            for host in hosts
            if ipaddress.ip_address(host.local_candidate.host).version == 4
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer[0] for answer in answers if not isinstance(answer, BaseException)]

    def _advertised(self, candidates: list[Candidate]) -> list[Candidate]:
        """The advertised address, on the socket that faces it, as a STUN server beyond the NAT would have told it."""
        if self._advertise is None:
            return []
        hosts = {candidate.host: candidate for candidate in candidates if candidate.type == "host"}
        base = hosts.get(facing(self._advertise, hosts) or "")
        if base is None:
            return []
        return [
            Candidate(
                foundation=candidate_foundation("srflx", "udp", base.host),
                component=base.component,
                transport="udp",
                priority=candidate_priority(base.component, "srflx"),
                host=self._advertise,
                port=base.port,
                type="srflx",
                related_address=base.host,
                related_port=base.port,
            )
        ]


def prefer(transceiver: RTCRtpTransceiver, *names: str) -> None:
    """Allow only the codecs called `names` ("VP8", "H264" ...), best first, whatever order an offer has.

    aiortc answers in the offer's order unless the preference is set before the offer is.
    """
    capabilities = RTCRtpSender.getCapabilities(transceiver.kind).codecs
    chosen: list[RTCRtpCodecCapability] = []
    for name in (*names, "rtx"):
        chosen += [codec for codec in capabilities if codec.name.lower() == name.lower()]
    transceiver.setCodecPreferences(chosen)


def negotiated_codec(transceiver: RTCRtpTransceiver) -> RTCRtpCodecParameters:
    """The codec this side will send with, once the offer is set."""
    codecs = _attribute(transceiver, "_codecs")
    codec: RTCRtpCodecParameters = codecs[0]
    return codec


class PacketsInOrder:
    """Stands where the audio receiver's jitter buffer stands: each packet is handed on at once.

    aiortc's own buffer holds 80 ms, 280 ms for ever after one loss. Order is kept by dropping what comes
    later than its successor; waiting is the business of `server.playout`, which knows the time.
    `dropped` counts what was not handed on, `lost` the numbers that were skipped.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.lost = 0
        self._newest: int | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        if self._newest is not None:
            ahead = uint16_add(packet.sequence_number, -self._newest)
            behind = uint16_add(self._newest, -packet.sequence_number)
            if behind < RESTART:
                self.dropped += 1
                return False, None
            if ahead < RESTART:
                self.lost += ahead - 1
        self._newest = packet.sequence_number
        data: bytes = packet._data  # type: ignore[attr-defined]  # set by the receiver just before
        if not data:
            return False, None  # padding only: bandwidth probes carry no sound
        return False, JitterFrame(data=data, timestamp=packet.timestamp)


def hand_on_at_once(receiver: RTCRtpReceiver) -> PacketsInOrder:
    """Replace the jitter buffer of an audio receiver that has not started; returns what took its place."""
    buffer = PacketsInOrder()
    _replace(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)
    return buffer


class _Packer:
    """Stands where the sender's encoder stands; cuts packets into RTP payloads and hears of bitrates."""

    def __init__(self, codec: RTCRtpCodecParameters, on_bitrate: Callable[[int], None]) -> None:
        self._encoder = get_encoder(codec)
        self._on_bitrate = on_bitrate
        self._target = 0

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        return self._encoder.pack(packet)

    @property
    def target_bitrate(self) -> int:
        return self._target

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._target = bitrate
        self._on_bitrate(bitrate)


def hear_feedback(
    sender: RTCRtpSender,
    codec: RTCRtpCodecParameters,
    on_keyframe: Callable[[], None],
    on_bitrate: Callable[[int], None],
    on_loss: Callable[[float], None] = lambda share: None,
) -> None:
    """Tell an outside encoder what the receiver asks for.

    Picture loss and full intra requests (RFC 4585, RFC 5104) set a flag that only aiortc's own encoders
    read, and the receiver's estimated bandwidth (REMB) is stored in the encoder object: both are taken
    here. So is the share of packets that each receiver report says was lost (RFC 3550, 6.4.1), which aiortc counts and
    nobody uses. Call it after the offer is set and before the connection stands.
    """
    _replace(sender, "_send_keyframe", on_keyframe)
    _replace(sender, "_RTCRtpSender__encoder", _Packer(codec, on_bitrate))
    handle, own = _attribute(sender, "_handle_rtcp_packet"), _attribute(sender, "_ssrc")

    async def hear_reports(packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == own:
                    on_loss(report.fraction_lost / 256)
        await handle(packet)

    _replace(sender, "_handle_rtcp_packet", hear_reports)


def report_when_due(sender: RTCRtpSender, due: Callable[[], float]) -> None:
    """Let sender reports pair RTP time with the moment it was due, by one clock for all tracks (RFC 3550, 6.4.1).

    aiortc pairs it with the moment the newest packet happened to be sent, a little or, on a full machine, much later.
    Receivers align sound and pictures by these pairs, and one late picture would move all of them. `due`: when the
    packet was due that the track handed over last, in monotonic seconds.
    """
    fetch, send = _attribute(sender, "_next_encoded_frame"), _attribute(sender, "_send_rtcp")
    _attribute(sender, "_RTCRtpSender__lsr")
    stamp: Callable[[], int] = partial(_attribute, sender, "_RTCRtpSender__rtp_timestamp")
    stamp()
    sent: tuple[int, float] | None = None  # RTP timestamp of the frame whose packets have all left, and its due
    newest: float | None = None

    async def fetched(codec: RTCRtpCodecParameters) -> Any:
        nonlocal sent, newest
        if newest is not None:
            sent = stamp(), newest
        frame = await fetch(codec)
        if frame is not None:
            newest = due()
        return frame

    async def corrected(packets: list[AnyRtcpPacket]) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp and newest is not None:
                moment = newest
                if sent is not None and sent[0] == packet.sender_info.rtp_timestamp:  # the newest is on its way
                    moment = sent[1]
                packet.sender_info.ntp_timestamp = round((MONOTONIC_TO_NTP + moment) * 2**32)
                lsr = packet.sender_info.ntp_timestamp >> 16 & 0xFFFFFFFF
                setattr(sender, "_RTCRtpSender__lsr", lsr)  # noqa: B010  # receivers name the report they answer by it
        await send(packets)

    _replace(sender, "_next_encoded_frame", fetched)
    _replace(sender, "_send_rtcp", corrected)


def parse_offer(sdp: str) -> SessionDescription:
    """The offer as aiortc understands it; raises ValueError for anything it does not."""
    try:
        description = SessionDescription.parse(sdp)
    except Exception as error:  # the parser asserts, indexes and converts without guarding
        raise ValueError("it is not readable as SDP") from error
    for media in description.media:
        if media.dtls is None or not media.dtls.fingerprints:
            raise ValueError("a media section has no DTLS fingerprint")
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            raise ValueError("a media section has no ICE credentials")
    names = [media.rtp.muxId for media in description.media]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("its media sections have no names of their own")
    for group in description.group:
        # A bundle led by a section that is not there leaves aiortc with a connection it cannot even close.
        if group.semantic == "BUNDLE" and not set(group.items) <= set(names):
            raise ValueError("its bundle names a media section that is not there")
    return description


def without_mdns(sdp: str) -> str:
    """The offer without candidates whose address is a `.local` name.

    Browsers write them until the microphone is allowed. Resolving one costs aioice a second and a
    multicast socket; the browser's own checks reach us anyway and teach us its address.
    """
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not (line.startswith("a=candidate:") and ".local " in line))


def _attribute(owner: object, name: str) -> Any:
    if not hasattr(owner, name):
        raise RuntimeError(f"{type(owner).__name__} of this aiortc has no {name}: see aiortc_door.py")
    return getattr(owner, name)


def _replace(owner: object, name: str, value: object) -> None:
    _attribute(owner, name)
    setattr(owner, name, value)
