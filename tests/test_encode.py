"""The encoders: what comes out decodes, carries its tick's pts, and obeys the receiver."""

from __future__ import annotations

import asyncio
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from av.packet import Packet

from server import encode
from server.encode import SpeechEncoder, VideoEncoder
from server.rate import ReceiverRate

TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(1920 * 50) / 48_000)).astype(np.int16)


def test_a_tick_of_sound_is_two_packets_of_20_ms_without_a_gap() -> None:
    encoder = SpeechEncoder(48_000)
    packets = [packet for tick in range(50) for packet in encoder.encode(tick, TONE[tick * 1920 : (tick + 1) * 1920])]
    assert [packet.pts for packet in packets] == [960 * number for number in range(100)]
    assert {packet.time_base for packet in packets} == {Fraction(1, 48_000)}

    decoder = av.CodecContext.create("libopus", "r")
    sound = np.concatenate([frame.to_ndarray().reshape(-1) for packet in packets for frame in decoder.decode(packet)])
    assert sound.size >= 96_000
    mono = sound.reshape(-1, sound.size // 96_000)[48_000:, 0].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(mono))
    assert np.argmax(spectrum) * 48_000 / len(mono) == pytest.approx(440, abs=2)


class Stream:
    """An encoder and everything it said."""

    def __init__(self, codec: str = "vp8", bitrate: int = 600_000, **how: float) -> None:
        self.packets: list[tuple[int, Packet]] = []
        self.drops: list[str] = []
        self.late: set[int] = set()
        self._news = asyncio.Event()
        self.encoder = VideoEncoder(
            codec,
            bitrate,
            100_000,
            emit=self._emit,
            drop=self._drop,
            too_late=self.late.__contains__,
            name="test",
            **how,  # type: ignore[arg-type]
        )

    async def show(self, ticks: range, size: int = 128, grain: int = 0) -> None:
        """Moving pictures, one at a time; with `grain` they take all the bits there are."""
        for tick in ticks:
            known = self.settled
            shown = picture(tick, size)
            shown[..., 2] += np.random.default_rng(tick).integers(0, grain + 1, (size, size), np.uint8)
            self.encoder.put(tick, shown)
            await self.until(known + 1)

    async def until(self, count: int) -> None:
        """Wait until `count` pictures were encoded or dropped."""
        async with asyncio.timeout(5):
            while self.settled < count:
                self._news.clear()
                await self._news.wait()

    @property
    def settled(self) -> int:
        return len(self.packets) + len(self.drops)

    def _emit(self, tick: int, packet: Packet) -> None:
        self.packets.append((tick, packet))
        self._news.set()

    def _drop(self, cause: str) -> None:
        self.drops.append(cause)
        self._news.set()

    @property
    def keyframes(self) -> list[int]:
        return [tick for tick, packet in self.packets if packet.is_keyframe]


def picture(tick: int, size: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    red = (x + 2 * tick) % 256
    return np.stack([red, (y + tick) % 256, np.full_like(x, 90)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("codec", "decoder"), [("vp8", "libvpx"), ("h264", "h264")])
async def test_pictures_decode_and_carry_their_ticks_pts(codec: str, decoder: str) -> None:
    stream = Stream(codec, bitrate=2_000_000)
    await stream.show(range(5, 15))
    await stream.encoder.close()
    assert [packet.pts for _, packet in stream.packets] == [3600 * tick for tick in range(5, 15)]
    assert {packet.time_base for _, packet in stream.packets} == {Fraction(1, 90_000)}
    assert stream.keyframes == [5]
    context = av.CodecContext.create(decoder, "r")
    shown = [frame for _, packet in stream.packets for frame in context.decode(packet)] + context.decode(None)
    assert len(shown) == 10
    assert np.abs(shown[-1].to_ndarray(format="rgb24").astype(int) - picture(14, 128))[:, 8:100].mean() < 12


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_lost_picture_is_answered_with_one_key_frame(codec: str) -> None:
    stream = Stream(codec)
    await stream.show(range(3))
    await asyncio.sleep(0.55)
    stream.encoder.request_keyframe()
    stream.encoder.request_keyframe()
    await stream.show(range(3, 8))
    stream.encoder.request_keyframe()
    await stream.show(range(8, 10))
    await stream.encoder.close()
    assert stream.keyframes == [0, 3], "a request within the pause waits"


async def test_a_picture_that_is_too_late_is_not_encoded() -> None:
    stream = Stream()
    stream.late |= {1, 2}
    await stream.show(range(5))
    await stream.encoder.close()
    assert [tick for tick, _ in stream.packets] == [0, 3, 4]
    assert stream.drops == ["late_before_encoding"] * 2


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_picture_takes_no_more_bits_than_anyone_sees(codec: str) -> None:
    stream = Stream(codec, bitrate=2_000_000)
    await stream.show(range(50), size=256, grain=20)
    await stream.encoder.close()
    assert 8 * sum(packet.size for _, packet in stream.packets[25:]) < 1_000_000


async def test_a_full_queue_keeps_the_latest() -> None:
    stream = Stream()
    pictures = [picture(tick, 512) for tick in range(20)]
    for tick, shown in enumerate(pictures):
        stream.encoder.put(tick, shown)
    await stream.until(20)
    await stream.encoder.close()
    assert stream.packets[-1][0] == 19
    assert set(stream.drops) == {"encoder_busy"}


async def test_the_receivers_estimate_sets_the_rate() -> None:
    async def bits(estimate: int) -> int:
        stream = Stream(bitrate=1_500_000)
        stream.encoder.set_bitrate(estimate)
        await stream.show(range(1, 76), size=256, grain=60)
        await stream.encoder.close()
        return 8 * sum(packet.size for _, packet in stream.packets[25:])

    low, high, beyond = await bits(200_000), await bits(1_000_000), await bits(9_000_000)
    assert low < 0.6 * high
    assert beyond < 2 * 2 * 1_500_000, "never above the stream's own limit: two seconds of it"


def sides(stream: Stream, decoder: str = "libvpx") -> list[tuple[int, int]]:
    """Width and height of every picture sent."""
    context = av.CodecContext.create(decoder, "r")
    frames = [frame for _, packet in stream.packets for frame in context.decode(packet)] + context.decode(None)
    return [(frame.width, frame.height) for frame in frames]


async def test_pictures_shrink_with_the_bitrate_and_grow_with_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BITRATE_DOWN", 0.05)
    monkeypatch.setattr(encode, "BITRATE_UP", 0.05)
    stream, tick = Stream(), 0
    for estimate in (600_000, 150_000, 100_000, 150_000, 600_000):
        stream.encoder.set_bitrate(estimate)
        await asyncio.sleep(0.06)
        await stream.show(range(tick, tick + 2), size=512)
        tick += 2
    await stream.encoder.close()
    assert [size for size, _ in sides(stream)] == [512] * 2 + [384] * 2 + [256] * 2 + [384] * 2 + [512] * 2


async def test_losses_lower_the_rate_of_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BITRATE_DOWN", 0.05)
    stream = Stream()
    await stream.show(range(2), size=512)
    for _ in range(4):
        stream.encoder.report_loss(0.9)
        await asyncio.sleep(0.32)
    await stream.show(range(2, 4), size=512)
    await stream.encoder.close()
    assert [size for size, _ in sides(stream)] == [512] * 2 + [256] * 2


@pytest.mark.parametrize(("codec", "decoder"), [("vp8", "libvpx"), ("h264", "h264")])
async def test_size_and_key_frames_are_as_configured(codec: str, decoder: str) -> None:
    stream = Stream(codec, side=256, keyframe_seconds=0.2)
    await stream.show(range(12), size=512)
    await stream.encoder.close()
    assert stream.keyframes == [0, 5, 10]
    assert set(sides(stream, decoder)) == {(256, 256)}


async def test_pictures_that_are_not_square_keep_their_shape() -> None:
    stream = Stream(side=384)
    stream.encoder.put(0, picture(0, 512)[:289])
    await stream.until(1)
    await stream.encoder.close()
    assert sides(stream) == [(384, 216)]


def test_an_encoder_in_hardware_is_chosen_by_trying_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "server.encode")
    encode.in_hardware.cache_clear()
    assert encode.in_hardware(encode.h264), "what opens and encodes is taken"
    works = encode.in_hardware()
    assert [make.__name__ for make in encode.makers("h264")] == (["nvenc", "h264"] if works else ["h264"])
    assert encode.makers("vp8") == [encode.vp8]
    said = [record.message for record in caplog.records]
    assert len(said) == 2, "once for each that was tried, however often it is asked"
    if not works:
        assert "libx264; nvenc cannot be used here" in said[1]


async def test_an_encoder_in_hardware_that_refuses_a_stream_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    if encode.in_hardware():
        pytest.skip("this GPU encodes H.264, so it does not refuse")
    monkeypatch.setattr(encode, "makers", lambda codec: [encode.nvenc, encode.h264])  # as on a GPU that is full
    stream = Stream("h264")
    await stream.show(range(4))
    await stream.encoder.close()
    assert stream.drops == ["encoder_error"]
    assert [tick for tick, _ in stream.packets] == [1, 2, 3]
    assert stream.keyframes == [1]


def test_the_rate_falls_with_losses_and_comes_back() -> None:
    rate, now = ReceiverRate(1_000_000, 100_000), 0.0
    assert rate.bitrate == 1_000_000
    rate.lost(0.05, now)
    assert rate.bitrate == 1_000_000, "few losses change nothing"
    fallen = []
    for _ in range(5):
        now += 1
        rate.lost(0.2, now)
        fallen.append(rate.bitrate)
    assert fallen == [pytest.approx(1_000_000 * 0.9**count, rel=0.01) for count in range(1, 6)]
    rate.lost(0.2, now + 0.1)
    assert rate.bitrate == fallen[-1], "a second report of the same trouble does not count"
    back = []
    while rate.bitrate < 1_000_000:
        now += 1
        rate.lost(0.0, now)
        back.append(rate.bitrate)
    assert back == sorted(back)
    assert 5 < len(back) < 12


def test_the_estimate_and_the_losses_both_limit_the_rate() -> None:
    rate = ReceiverRate(1_000_000, 100_000)
    rate.estimated(400_000)
    assert rate.bitrate == 400_000
    rate.lost(0.5, 1.0)
    assert rate.bitrate == 300_000, "of what was sent, not of what was allowed"
    rate.estimated(20_000)
    assert rate.bitrate == 100_000
    rate.estimated(9_000_000)
    assert rate.bitrate == 300_000


async def test_closing_leaves_no_thread_and_may_be_repeated() -> None:
    stream = Stream()
    await stream.show(range(2))
    await asyncio.gather(stream.encoder.close(), stream.encoder.close())
    await asyncio.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "encoder-test"]
