"""The encoders that the viewers of one call share: one for each format and size that somebody is on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from av.packet import Packet

from server.clock import SessionClock
from server.metrics import CallMetrics
from server.rungs import rate
from server.settings import Settings
from server.stream import PictureStream

MOST = 3  # renditions of a call
KEYFRAME_PAUSE = 1.0  # seconds: viewers that ask, or join, within it are answered by one key frame
MEASURED = 2.0  # seconds that a rendition's rate is taken over


@dataclass(frozen=True, slots=True)
class Key:
    """What tells renditions apart: the codec ("vp8", "h264") and the pixels of a picture's side."""

    codec: str
    pixels: int


def shared(wanted: Counter[Key]) -> dict[Key, Key]:
    """What stands for each rendition that so many viewers want, where there are to be MOST at most, of two codecs.

    The one with fewest viewers gives way to the next smaller one of its codec, which all of them can carry.
    """
    kept, stands = wanted.copy(), {key: key for key in wanted}
    while len(kept) > MOST:
        smaller = {
            key: [other for other in kept if other.codec == key.codec and other.pixels < key.pixels] for key in kept
        }
        gone = min((key for key in kept if smaller[key]), key=lambda key: (kept[key], key.pixels))
        heir = max(smaller[gone], key=lambda key: key.pixels)
        kept[heir] += kept.pop(gone)
        stands = {key: heir if one == gone else one for key, one in stands.items()}
    return stands


class Rendition:
    """One encoder, and what it sends."""

    def __init__(self, stream: PictureStream) -> None:
        self.stream = stream
        self.pictures = self.keyframes = 0
        self._sizes: deque[tuple[float, int]] = deque()  # (due, bits)

    def count(self, due: float, packet: Packet[Any]) -> None:
        self.pictures += 1
        self.keyframes += packet.is_keyframe
        self._sizes.append((due, 8 * packet.size))
        while due - self._sizes[0][0] > MEASURED:
            self._sizes.popleft()

    @property
    def rate(self) -> float:
        """Bits a second of the last two."""
        if len(self._sizes) < 2:
            return 0.0
        span = self._sizes[-1][0] - self._sizes[0][0]
        return sum(bits for _, bits in self._sizes) / span if span else 0.0


class Renditions:
    """Made and used on the event loop; `send(key, due, packet)` is called there for every encoded picture."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        metrics: CallMetrics,
        clock: SessionClock,
        send: Callable[[Key, float, Packet[Any]], None],
    ) -> None:
        self._name, self._settings, self._metrics, self._clock, self._send = name, settings, metrics, clock, send
        self.open: dict[Key, Rendition] = {}

    def get(self, key: Key) -> Rendition:
        """The rendition, made where there is none yet; its first picture is a key frame."""
        if key not in self.open:
            stream = PictureStream(
                f"{self._name} {key.codec} {key.pixels}",
                key.codec,
                self._settings,
                self._metrics,
                lambda due, packet: self._sent(key, due, packet),
                bitrate=rate(self._settings.video_bitrate, key.pixels, self._settings.video_size),
                keyframe_pause=KEYFRAME_PAUSE,
            )
            stream.clock = self._clock
            self.open[key] = Rendition(stream)
            self._metrics.process.renditions.inc()
        return self.open[key]

    async def keep(self, keys: Collection[Key]) -> None:
        """End those that nobody is on."""
        for key in [key for key in self.open if key not in keys]:
            rendition = self.open.pop(key)
            self._metrics.process.renditions.dec()
            await rendition.stream.close()

    def _sent(self, key: Key, due: float, packet: Packet[Any]) -> None:
        if (rendition := self.open.get(key)) is not None:
            rendition.count(due, packet)
            self._send(key, due, packet)
