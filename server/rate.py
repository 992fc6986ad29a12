"""How many bits a second one receiver is sent, by what it reports. No asyncio and no clock: times are arguments."""

from __future__ import annotations

HIGH_LOSS, LOW_LOSS = 0.1, 0.02  # shares of packets lost above which the rate falls, and below which it rises
RISE = 1.08  # a second
FALL_PAUSE = 0.3  # seconds between falls: a report that was on its way tells of the rate before


class ReceiverRate:
    """The smaller of what a receiver estimates (REMB) and what its losses allow, between `smallest` and `largest`.

    Losses: the loss-based controller of draft-ietf-rmcat-gcc-02, section 6. Not every receiver sends estimates, and
    those that do judge delay and not loss.
    """

    def __init__(self, largest: int, smallest: int) -> None:
        self._largest, self._smallest = largest, min(smallest, largest)
        self._estimate = self._allowed = float(largest)
        self._changed = float("-inf")

    @property
    def bitrate(self) -> int:
        return round(max(self._smallest, min(self._estimate, self._allowed)))

    def estimated(self, bitrate: float) -> None:
        """The receiver believes that so many bits a second can arrive."""
        self._estimate = min(bitrate, self._largest)

    def lost(self, share: float, now: float) -> None:
        """A receiver report: `share` of the packets since the one before was lost; `now` in seconds."""
        since = now - self._changed
        if share > HIGH_LOSS and since >= FALL_PAUSE:
            self._allowed = max(self._smallest, self.bitrate * (1 - share / 2))
        elif share < LOW_LOSS:
            self._allowed = min(self._largest, self._allowed * RISE ** min(since, 1.0))
        else:
            return
        self._changed = now
