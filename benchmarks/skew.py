"""How far a call's pictures are from its sound, from what a peer got: sender reports and RTP timestamps.

Nothing is asked of the server. Packets and reports are noted as they leave DTLS-SRTP, before any buffer
(`Peer._watch_packets`), so that nothing but the network is between the sender and these figures. Positive: the
picture is behind its sound, that is the sound is early; milliseconds throughout.

RTP time begins at a random number on each track (RFC 3550, 5.1), so that a picture's tick is known from outside only
up to a constant number of ticks. It is taken from the first ones, where the picture and the sound that are least late
are nearest to each other, and kept for the call; `tests/test_skew.py` holds it against pictures that carry their tick
in their pixels.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer import Received

TICK = 40.0  # ms
CLOCKS = {"audio": 48_000, "video": 90_000}  # RTP time of a second
FIRST = 25  # packets or reports that tell the constant
NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970

Stamped = list[tuple[float, int]]  # (moment in s, RTP timestamp)
Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # moments in s, and skew


def report_skew(received: Received) -> Series:
    """From the pairs of times in both tracks' sender reports (RFC 3550, 6.4.1); moments as `time.time()`."""
    pairs = {
        kind: [(ntp / 2**32 - NTP_EPOCH, stamp) for ntp, stamp in reports if ntp]  # 0: nothing was sent yet
        for kind, reports in received.reports.items()
    }
    return _apart(received, pairs["video"], pairs["audio"])


def packet_skew(received: Received) -> Series:
    """From arrivals of each picture's first packet and of sound; moments as `time.monotonic()`.

    Of use where the network between adds no time of its own.
    """
    first = {stamp: moment for moment, stamp in reversed(received.timestamps["video"])}
    pictures = [(moment, stamp) for stamp, moment in reversed(first.items())]
    return _apart(received, pictures, received.timestamps["audio"])


def _apart(received: Received, video: Stamped, audio: Stamped) -> Series:
    """Each picture's pair of times against the pair of sound nearest to it."""
    if not video or not audio:
        return np.empty(0), np.empty(0)
    # The first packet of sound is the beginning of a tick.
    shown, late = _offsets(video, received.timestamps["video"][0][1], CLOCKS["video"])
    heard, due = _offsets(audio, received.timestamps["audio"][0][1], CLOCKS["audio"])
    after = np.searchsorted(heard, shown).clip(max=len(heard) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(np.abs(shown - heard[before]) < np.abs(heard[after] - shown), before, after)
    return shown, 1000 * (late - due[nearest]) - TICK * _ticks_between(late, due)


def first_tick(received: Received) -> int:
    """Of the first picture that came, counted from the first packet of sound."""
    late, due = (
        _offsets(stamped, stamped[0][1], CLOCKS[kind])[1]
        for kind, stamped in ((kind, received.timestamps[kind]) for kind in ("video", "audio"))
    )
    return _ticks_between(late, due)


def _ticks_between(late: NDArray[np.float64], due: NDArray[np.float64]) -> int:
    return round(1000 * float(late[:FIRST].min() - due[:FIRST].min()) / TICK)


def _offsets(stamped: Stamped, origin: int, clock: int) -> Series:
    """Moments in order, and each moment less its RTP time since `origin`, in seconds."""
    pairs = sorted((moment, (stamp - origin + 2**31) % 2**32 - 2**31) for moment, stamp in stamped)
    moments, media = np.array(pairs, np.float64).T
    return moments, moments - media / clock


def skew(received: Received, since: float = 0.0, until: float = float("inf")) -> dict[str, Any]:
    """Both, between two moments (`time.time()`): how many, the middle, and the 99th percentile of the amount."""
    to_wall = time.time() - time.monotonic()
    report_times, reports = report_skew(received)
    packet_times, packets = packet_skew(received)
    return {
        "reports": _figures(reports[(since <= report_times) & (report_times < until)]),
        "packets": _figures(packets[(since <= packet_times + to_wall) & (packet_times + to_wall < until)]),
    }


def _figures(values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {"count": 0}
    points = dict(zip(("p1", "p50", "p99"), np.percentile(values, (1, 50, 99)).tolist(), strict=True))
    points |= {"p99_of_amount": float(np.percentile(np.abs(values), 99)), "largest": float(np.abs(values).max())}
    return {"count": len(values)} | {name: round(value, 2) for name, value in points.items()}
