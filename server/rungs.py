"""Which size of picture a viewer's line carries, by what its receiver reports. No asyncio and no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

SIZES = (512, 384, 256)  # pixels of a picture's side, best first
PAUSE = 5.0  # seconds between changes
POOR, GOOD = 0.10, 0.02  # shares of packets lost that ask for less, and that allow more
SHORT, AMPLE = 0.9, 1.2  # of what is sent: an estimate below asks for less, one above allows more
PATIENCE, LONGEST_PATIENCE = 10.0, 160.0  # seconds of a good line before a step up; doubled when that was too soon
SMOOTHING = 0.3  # weight of a new report of loss


def sizes(largest: int) -> tuple[int, ...]:
    """What viewers can have of a call whose pictures are `largest` pixels wide."""
    return (largest, *(size for size in SIZES if size < largest))


def rate(bitrate: int, pixels: int, largest: int = SIZES[0]) -> int:
    """Bits a second for a picture so wide, where the largest has `bitrate`: in proportion to its area."""
    return bitrate * pixels * pixels // (largest * largest)


class Choice:
    """One viewer's place among the `rates` (bits a second, best first) of what it can have. `look` once a second.

    The estimate a receiver sends never goes far above what arrives, so it tells when less is needed and not how much
    more would fit: more is tried.
    """

    def __init__(self, rates: Sequence[int], now: float) -> None:
        self.rung = 0
        self._rates = rates
        self._changed_at = now
        self._good_since = now
        self._raised_at = float("-inf")
        self._patience = PATIENCE
        self._lost = 0.0

    def look(self, now: float, lost: float, carried: float | None, sent: float) -> int:
        """`lost`: share of packets in the last report; `carried`: the receiver's estimate; `sent`: what it gets.

        Returns the rung.
        """
        self._lost += SMOOTHING * (lost - self._lost)
        poor = self._lost > POOR or (carried is not None and carried < SHORT * sent)
        good = self._lost < GOOD and (carried is None or carried > AMPLE * sent)
        if not good:
            self._good_since = now
        if now - self._changed_at < PAUSE:
            return self.rung
        if poor and self.rung < len(self._rates) - 1:
            if now - self._raised_at < self._patience:
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            self._move(now, self._below(carried))
        elif self.rung and now - self._good_since >= self._patience:
            self._raised_at = now
            self._move(now, self.rung - 1)
        return self.rung

    def _below(self, carried: float | None) -> int:
        """The best rung under this one that the estimate carries, else the last."""
        rungs = range(self.rung + 1, len(self._rates))
        return next((rung for rung in rungs if carried is None or self._rates[rung] <= carried), rungs[-1])

    def _move(self, now: float, rung: int) -> None:
        self.rung = rung
        self._changed_at = self._good_since = now
