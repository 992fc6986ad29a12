"""The playout buffer of one microphone: sound placed by RTP timestamp, read by the server's clock.

It owns the delay that absorbs the network's jitter (2 ms on a clean line, at most 300 ms), conceals holes and
absorbs clocks that run up to 0.5 % fast or slow. Ticks end where packets end, so that reading waits for the
packets that are needed at a cut and for no part of another. No asyncio and no clock of its own: time is an
argument, in monotonic seconds. Positions are 48 kHz samples on the sender's timeline.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.types import PLAYBACK_RATE, PLAYBACK_SAMPLES, FloatArray
from server.sound import LONGEST_LAG, Concealer, best_splice, splice, stretch

MS = PLAYBACK_RATE // 1000
LARGEST = 300 * MS  # of the playout delay
CAPACITY = 2 * PLAYBACK_RATE
WINDOW = 4.0  # seconds of arrivals that the delay is chosen from
USUAL, RARE = 0.5, 0.99  # quantiles of arrivals: most packets, and stragglers that the delay still waits for
TAIL = 0.25  # of the distance between the two is waited for too; what comes even later is concealed
MARGIN = 2 * MS  # on top: the event loop's own wake-ups
DEAD_ZONE = 3 * MS  # a packet that could be read this much earlier is worth a change of the delay
SETTLED = 5  # packets that say when the next ones come, once a call has started
LEAD = 0.016  # seconds from the first packets to a call's cuts: how much jitter may grow before delay does
DRIFT_LIMIT = 9  # samples of 1920 that a tick may be stretched by: 0.47 %
SPLICE_FROM = 12 * MS  # errors above this are cut out or filled in, a pitch period at a time


@dataclass(frozen=True, slots=True)
class Taken:
    """Sound of one tick f32 (1920,); `arrival`: when its first sample came in, None for silence."""

    sound: FloatArray
    arrival: float | None


class Playout:
    """One remote sound: `put` packets as they come, `take` one tick's worth at each cut of the clock.

    `counts` holds samples by what became of them: `late` (came after their turn), `concealed`, `waited`
    (concealed while reading stood still), `cut` and `filled` (to correct the delay); and `restarts`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._ring: FloatArray = np.zeros(CAPACITY, np.float32)
        self._have: NDArray[np.bool_] = np.zeros(CAPACITY, np.bool_)
        self._concealer = Concealer()
        self._read: int | None = None  # next position to be read; None before the first tick with sound
        self._plan: int | None = None  # where the tick should end that was read last
        self._end = 0  # one past the newest position received
        self._waited = 0  # samples concealed since reading stood still
        self.delay = 0.0  # seconds that reading stayed behind the earliest possible arrival at the last tick
        self._arrivals: deque[tuple[float, int, int]] = deque()  # (moment, first position, one past the last)

    def put(self, first: int, sound: FloatArray, arrival: float) -> None:
        """A packet's sound f32 (samples,) whose first sample is at position `first`."""
        end = first + len(sound)
        if self._arrivals:
            before, _, previous = self._arrivals[-1]
            if abs(end - previous - (arrival - before) * PLAYBACK_RATE) > PLAYBACK_RATE:
                self._restart()  # the sender's timeline jumped: a paused or replaced track
        self._end = max(self._end, end) if self._arrivals else end
        self._arrivals.append((arrival, first, end))
        while arrival - self._arrivals[0][0] > WINDOW:
            self._arrivals.popleft()
        if self._read is not None and first < self._read:
            missed = min(self._read - first, len(sound))
            self.counts["late"] += missed
            first, sound = first + missed, sound[missed:]
        index = np.arange(first, end) % CAPACITY
        self._ring[index] = sound
        self._have[index] = True

    def take(self, now: float) -> Taken:
        """The sound of the tick that is cut at `now`."""
        if not self._arrivals:
            return Taken(self._concealer.silence(PLAYBACK_SAMPLES), None)
        newest, ideal = self._look(now)
        if self._read is None or ideal - self._read > LARGEST:
            self._jump(ideal)
        self._skip_what_was_waited_for()
        assert self._read is not None
        first, error = self._read, ideal - self._read  # a positive error: the sound is older than it has to be
        if error > SPLICE_FROM and self._whole(PLAYBACK_SAMPLES + LONGEST_LAG):
            sound = self._shorten()
        elif error < -SPLICE_FROM and self._whole(PLAYBACK_SAMPLES):
            sound = self._lengthen()
        elif self._end < first + (count := PLAYBACK_SAMPLES + _drift(error)):
            sound = self._wait(patience=LARGEST - round(newest) + PLAYBACK_SAMPLES + first)
        else:
            sound = stretch(self._consume(count), PLAYBACK_SAMPLES)
        self.delay = (newest - self._read) / PLAYBACK_RATE
        return Taken(sound, self._arrival_of(first))

    def best_cut(self) -> float:
        """A moment to cut at, now or soon: every 20 ms from then on the packets of a tick have just come.

        What arrived before the latest `SETTLED` packets is forgotten: while a call starts packets come bunched, which
        says nothing about the line.
        """
        while len(self._arrivals) > SETTLED:
            self._arrivals.popleft()
        travel = [moment - end / PLAYBACK_RATE for moment, _, end in self._arrivals]
        return float(np.median(travel)) + self._end / PLAYBACK_RATE + LEAD

    def _look(self, now: float) -> tuple[float, int]:
        """The position that a packet of the shortest travel ends at when it arrives `now`, and the position to
        read the next tick from.
        """
        travel = np.array([moment * PLAYBACK_RATE - end for moment, _, end in self._arrivals])  # up to a constant
        usual, rare = np.quantile(travel, (USUAL, RARE)).tolist()
        there = now * PLAYBACK_RATE - (rare + TAIL * (rare - usual) + MARGIN)  # what ends here has come
        _, first, end = self._arrivals[-1]
        length = end - first
        if PLAYBACK_SAMPLES % length:  # ticks end anywhere in a packet
            step, there = 1, there - length
        else:
            step = length
        plan = round(there) if self._plan is None else self._plan + PLAYBACK_SAMPLES
        plan -= (plan - end) % step
        room = there - plan
        if not 0 <= room < step + DEAD_ZONE:
            plan += step * math.floor(room / step)
        newest = now * PLAYBACK_RATE - float(travel.min())
        self._plan = max(plan, round(newest) - LARGEST)
        return newest, self._plan - PLAYBACK_SAMPLES

    def _arrival_of(self, position: int) -> float | None:
        return next((moment for moment, first, end in self._arrivals if first <= position < end), None)

    def _wait(self, patience: int) -> FloatArray:
        """Too little has come, and nothing newer: the sound is late, not lost, so reading waits for it.

        `patience`: samples that it may wait until the delay has grown to its limit.
        """
        assert self._read is not None
        there = min(max(0, self._end - self._read), PLAYBACK_SAMPLES)
        missing = PLAYBACK_SAMPLES - there
        waited = min(missing, max(0, patience))
        self._waited += waited
        self.counts["waited"] += waited
        index = np.arange(self._read, self._read + PLAYBACK_SAMPLES) % CAPACITY
        have = self._have[index]
        have[there:] = False
        self._have[index] = False
        self._read += PLAYBACK_SAMPLES - waited
        self.counts["concealed"] += int(PLAYBACK_SAMPLES - have.sum())
        return self._concealer.run(self._ring[index], have)

    def _skip_what_was_waited_for(self) -> None:
        """What was waited for turns out lost: the hole is as long as the waiting already was."""
        assert self._read is not None
        if self._waited and self._end > self._read:
            ahead = self._have[np.arange(self._read, min(self._end, self._read + self._waited)) % CAPACITY]
            self._read += int(ahead.argmax()) if ahead.any() else len(ahead)
            self._waited = 0

    def _shorten(self) -> FloatArray:
        """Leave out up to 15 ms where the sound resembles itself."""
        at, lag = best_splice(self._peek(PLAYBACK_SAMPLES + LONGEST_LAG)[0])
        self.counts["cut"] += lag
        return splice(self._consume(PLAYBACK_SAMPLES + lag), at, at + lag)

    def _lengthen(self) -> FloatArray:
        """Say up to 15 ms twice where the sound resembles itself."""
        at, lag = best_splice(self._peek(PLAYBACK_SAMPLES)[0])
        self.counts["filled"] += lag
        return splice(self._consume(PLAYBACK_SAMPLES - lag), at + lag, at)

    def _jump(self, position: int) -> None:
        """Go on reading at `position`; the join is concealed as a hole would be."""
        if self._read is not None and position > self._read:
            self._have[np.arange(self._read, min(position, self._read + CAPACITY)) % CAPACITY] = False
            self.counts["cut"] += position - self._read
            self._concealer.break_off()
        self._read = position
        self._waited = 0

    def _whole(self, count: int) -> bool:
        assert self._read is not None
        return bool(self._read + count <= self._end and self._peek(count)[1].all())

    def _peek(self, count: int) -> tuple[FloatArray, NDArray[np.bool_]]:
        assert self._read is not None
        index = np.arange(self._read, self._read + count) % CAPACITY
        return self._ring[index], self._have[index]

    def _consume(self, count: int) -> FloatArray:
        assert self._read is not None
        sound, have = self._peek(count)
        self._have[np.arange(self._read, self._read + count) % CAPACITY] = False
        self._read += count
        self.counts["concealed"] += int(count - have.sum())
        return self._concealer.run(sound, have)

    def _restart(self) -> None:
        self.counts["restarts"] += 1
        self._arrivals.clear()
        self._have[:] = False
        self._read = self._plan = None
        self._waited = 0
        self._concealer.break_off()


def _drift(error: int) -> int:
    """Samples to read more (positive) or fewer in one tick."""
    return max(-DRIFT_LIMIT, min(error, DRIFT_LIMIT))
