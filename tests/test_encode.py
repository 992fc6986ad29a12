"""The encoders: what comes out decodes, carries its tick's pts, and obeys the receiver."""

from __future__ import annotations

import asyncio
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from av.packet import Packet

from server.encode import SpeechEncoder, VideoEncoder

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

    def __init__(self, codec: str = "vp8", bitrate: int = 600_000) -> None:
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
        )

    async def show(self, ticks: range, size: int = 128) -> None:
        """Moving pictures, one at a time."""
        for tick in ticks:
            known = self.settled
            self.encoder.put(tick, picture(tick, size))
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
        await stream.show(range(1, 76), size=256)
        await stream.encoder.close()
        return 8 * sum(packet.size for _, packet in stream.packets[25:])

    low, high, beyond = await bits(200_000), await bits(1_000_000), await bits(9_000_000)
    assert low < 0.6 * high
    assert beyond < 2 * 2 * 1_500_000, "never above the stream's own limit: two seconds of it"


async def test_closing_leaves_no_thread_and_may_be_repeated() -> None:
    stream = Stream()
    await stream.show(range(2))
    await asyncio.gather(stream.encoder.close(), stream.encoder.close())
    await asyncio.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "encoder-test"]
