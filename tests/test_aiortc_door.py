"""Each private part of aiortc that is touched, tried with two real peers."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, RtcpReceiverInfo, RtcpRrPacket, RtpPacket, pack_remb_fci

from benchmarks.peer import Voice, connect
from server import aiortc_door as door
from server.encode import SpeechEncoder, VideoEncoder
from server.ice import Network
from server.metrics import CallMetrics, Metrics
from server.tracks import AvatarAudioTrack, AvatarVideoTrack


@pytest.fixture
async def peers() -> AsyncIterator[tuple[RTCPeerConnection, RTCPeerConnection]]:
    """(a browser's end, the server's end), closed afterwards."""
    ends = RTCPeerConnection(RTCConfiguration(iceServers=[])), door.peer_connection(Network())
    yield ends
    for end in ends:
        await end.close()


async def until(condition: Callable[[], bool], within: float = 5, often: float = 0.01) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # what is waited for is deep inside aiortc
            await asyncio.sleep(often)


async def test_no_foreign_server_is_asked() -> None:
    ours, default = door.peer_connection(Network()), RTCPeerConnection()
    try:
        for connection in (ours, default):
            connection.addTransceiver("audio")
        asked = [end.getTransceivers()[0].receiver.transport.transport._connection for end in (ours, default)]
        assert asked[0].stun_server is None
        assert asked[1].stun_server is not None, "aiortc no longer asks by itself: the rule can go"
        await ours.setLocalDescription(await ours.createOffer())
        assert "typ host" in ours.localDescription.sdp
        assert "typ srflx" not in ours.localDescription.sdp
    finally:
        await ours.close()
        await default.close()


async def test_closed_while_it_connects_nothing_is_left_unasked() -> None:
    complaints: dict[bool, list[object]] = {True: [], False: []}
    for ours, heard in complaints.items():
        asyncio.get_running_loop().set_exception_handler(lambda _, told, heard=heard: heard.append(told))
        for moment in range(12):
            browser, server = (
                door.peer_connection(Network()) if ours else RTCPeerConnection(RTCConfiguration(iceServers=[]))
                for _ in range(2)
            )
            for kind in ("audio", "video"):
                browser.addTransceiver(kind)
            await browser.setLocalDescription(await browser.createOffer())
            await server.setRemoteDescription(browser.localDescription)
            await server.setLocalDescription(await server.createAnswer())
            await browser.setRemoteDescription(server.localDescription)
            transport = server.getTransceivers()[0].receiver.transport
            await until(lambda transport=transport: transport.state == "connecting", often=0)
            await asyncio.sleep(moment / 2000)
            await server.close()
            await browser.close()
            await asyncio.sleep(0.01)
            gc.collect()
    assert complaints[False], "aiortc no longer leaves an error in a task: the rule can go"
    assert not complaints[True]


def packet(number: int, data: bytes = b"sound") -> RtpPacket:
    made = RtpPacket(sequence_number=number % 65536, timestamp=number * 960)
    made._data = data
    return made


def test_packets_are_handed_on_at_once_and_in_order() -> None:
    buffer = door.PacketsInOrder()
    passed = [number for number in (65534, 65535, 65537, 65536, 65537, 65538) if buffer.add(packet(number))[1]]
    assert passed == [65534, 65535, 65537, 65538]
    assert (buffer.dropped, buffer.lost) == (2, 1)


def test_padding_is_no_sound_and_a_new_stream_is_no_late_packet() -> None:
    buffer = door.PacketsInOrder()
    assert buffer.add(packet(30_000))[1] is not None
    assert buffer.add(packet(30_001, b""))[1] is None
    assert buffer.add(packet(5_000))[1] is not None
    assert (buffer.dropped, buffer.lost) == (0, 0)


async def test_sound_is_not_held_back_even_after_a_loss(peers: tuple[RTCPeerConnection, RTCPeerConnection]) -> None:
    browser, server = peers
    voice = Voice(np.zeros(0, np.int16))
    browser.addTransceiver(voice, direction="sendonly")
    receiving = server.addTransceiver("audio", direction="recvonly")
    buffer = door.hand_on_at_once(receiving.receiver)
    handle, seen = receiving.receiver._handle_rtp_packet, 0

    async def lossy(packet: RtpPacket, arrival_time_ms: int) -> None:
        nonlocal seen
        seen += 1
        if seen != 20:
            await handle(packet, arrival_time_ms)

    receiving.receiver._handle_rtp_packet = lossy  # type: ignore[method-assign]
    await connect(browser, server)
    decoded = 0
    backlog = []
    while decoded < 60:
        frame = await receiving.receiver.track.recv()
        decoded += 1
        backlog.append(seen - 1 - frame.pts // 960)  # packets that came and are not decoded yet
    assert buffer.lost == 1
    assert sorted(backlog)[30] <= 1, "aiortc's own buffer holds four, and fourteen after the loss"


async def test_what_the_receiver_asks_for_reaches_the_encoder(
    peers: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    browser, server = peers
    browser.addTransceiver("video", direction="recvonly")
    track = AvatarVideoTrack(CallMetrics(Metrics()))
    sending = server.addTransceiver(track, direction="sendonly")
    door.prefer(sending, "VP8", "H264")
    keyframes: list[bool] = []
    bitrates: list[int] = []
    await browser.setLocalDescription(await browser.createOffer())
    await server.setRemoteDescription(browser.localDescription)
    codec = door.negotiated_codec(sending)
    assert codec.name == "VP8"
    losses: list[float] = []
    door.hear_feedback(sending.sender, codec, lambda: keyframes.append(True), bitrates.append, losses.append)
    await server.setLocalDescription(await server.createAnswer())
    await browser.setRemoteDescription(server.localDescription)
    await until(lambda: server.connectionState == "connected" and browser.connectionState == "connected")

    receiver = browser.getReceivers()[0]
    ssrc = sending.sender._ssrc
    await receiver._send_rtcp_pli(ssrc)
    await until(lambda: bool(keyframes))
    remb = RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=pack_remb_fci(640_000, [ssrc]))
    await receiver._send_rtcp(remb)
    await until(lambda: bool(bitrates))
    assert bitrates[0] == pytest.approx(640_000, rel=0.01)
    counts = {"packets_lost": 9, "highest_sequence": 20, "jitter": 0, "lsr": 0, "dlsr": 0}
    reports = [RtcpReceiverInfo(ssrc=of, fraction_lost=lost, **counts) for of, lost in ((ssrc, 64), (ssrc + 1, 128))]
    await receiver._send_rtcp(RtcpRrPacket(ssrc=1, reports=reports))
    await until(lambda: 0.25 in losses)
    assert 0.5 not in losses, "what others lost is not this receiver's"


@pytest.mark.parametrize(
    ("offered", "expected"), [(("VP8", "H264"), "VP8"), (("H264", "VP8"), "VP8"), (("H264",), "H264")]
)
async def test_vp8_is_answered_first_whatever_the_offers_order(
    peers: tuple[RTCPeerConnection, RTCPeerConnection], offered: tuple[str, ...], expected: str
) -> None:
    browser, server = peers
    codecs = RTCRtpSender.getCapabilities("video").codecs
    wanted = [codec for name in (*offered, "rtx") for codec in codecs if codec.name == name]
    browser.addTransceiver("video", direction="recvonly").setCodecPreferences(wanted)
    sending = server.addTransceiver("video", direction="sendonly")
    door.prefer(sending, "VP8", "H264")
    await browser.setLocalDescription(await browser.createOffer())
    await server.setRemoteDescription(browser.localDescription)
    assert door.negotiated_codec(sending).name == expected
    answer = (await server.createAnswer()).sdp
    first = next(line for line in answer.splitlines() if line.startswith("m=video")).split()[3]
    assert f"a=rtpmap:{first} {expected}/90000" in answer


async def test_nothing_of_ours_runs_in_the_default_executor(
    peers: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    browser, server = peers
    for kind in ("audio", "video"):
        browser.addTransceiver(kind, direction="recvonly")
    metrics = CallMetrics(Metrics())
    voice, picture = AvatarAudioTrack(metrics), AvatarVideoTrack(metrics)
    server.addTransceiver(voice, direction="sendrecv")
    server.addTransceiver(picture, direction="sendonly")
    speech = SpeechEncoder(48_000)
    pictures = VideoEncoder(
        "vp8",
        500_000,
        100_000,
        emit=lambda tick, packet: picture.put(0.0, packet),
        drop=metrics.dropped,
        too_late=lambda tick: False,
        name="test",
    )
    await connect(browser, server)
    for tick in range(10):
        voice.put(0.0, speech.encode(tick, np.zeros(1920, np.int16)))
        pictures.put(tick, np.zeros((64, 64, 3), np.uint8))
        await asyncio.sleep(0.02)
    receivers = browser.getReceivers()
    for receiver in receivers:
        await asyncio.wait_for(receiver.track.recv(), 5)
    await pictures.close()
    assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]


def test_candidates_with_local_names_are_left_out() -> None:
    kept = "a=candidate:1 1 udp 2122260223 192.0.2.7 50000 typ host\r\n"
    hidden = "a=candidate:2 1 udp 2122260223 3f8a9c1e.local 50001 typ host\r\n"
    assert door.without_mdns(f"v=0\r\n{kept}{hidden}a=end-of-candidates\r\n") == f"v=0\r\n{kept}a=end-of-candidates\r\n"


async def test_any_text_is_an_offer_or_a_value_error() -> None:
    connection = door.peer_connection(Network())
    connection.addTransceiver("audio")
    connection.addTransceiver("video")
    await connection.setLocalDescription(await connection.createOffer())
    good = connection.localDescription.sdp
    await connection.close()
    assert [media.kind for media in door.parse_offer(good).media] == ["audio", "video"]

    chance = random.Random(4)
    refused = 0
    for _ in range(300):
        text = list(good)
        for _ in range(chance.randint(1, 30)):
            place = chance.randrange(len(text))
            text[place : place + chance.randint(0, 8)] = chance.choice(["", "\n", "=", "a", "99999999999", "é", "\0"])
        try:
            door.parse_offer("".join(text))
        except ValueError:
            refused += 1
    assert refused > 30


def test_a_part_that_is_gone_is_named() -> None:
    with pytest.raises(RuntimeError, match="has no _RTCRtpReceiver__jitter_buffer"):
        door.hand_on_at_once(object())  # type: ignore[arg-type]
