"""What the server measures of itself: instruments of the process, and the figures of each call.

A registry belongs to one `Metrics`, never to the module. Times are seconds inside, milliseconds in reports.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as Count
from prometheus_client.process_collector import ProcessCollector

from server.clock import AHEAD
from server.trace import STAGES, Traces

MISSED = ("late_before_rendering", "late_before_encoding", "encoder_busy")  # causes: the machine is too slow
RECENT = 10.0  # seconds that a call's figures look back
FINE = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0)
WAY = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5)
INTERVALS = (0.01, 0.02, 0.03, 0.035, 0.038, 0.04, 0.042, 0.045, 0.05, 0.06, 0.08, 0.1, 0.12, 0.2, 0.5, 1.0, 5.0)
SKEWS = (-0.1, -0.045, -0.02, -0.01, -0.005, -0.002, 0.0, 0.002, 0.005, 0.01, 0.02, 0.045, 0.1, 0.125, 0.2)
COARSE = (0.1, 0.15, 0.18, 0.2, 0.21, 0.22, 0.23, 0.24, 0.26, 0.3, 0.4, 0.5, 0.75, 1.0)


class Metrics:
    """The process's instruments, as `/metrics` shows them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name = "kdtalker_"
        own: dict[str, Any] = {"registry": self.registry}
        self.sessions = Gauge(name + "sessions", "Calls that are up or coming up", **own)
        self.capacity = Gauge(name + "capacity", "Calls that this server takes", **own)
        self.viewers = Gauge(name + "viewers", "Viewers of all calls, each on a line of its own", **own)
        self.renditions = Gauge(name + "renditions", "Encoders that viewers share", **own)
        self.ended = Count(name + "sessions_ended", "Calls that ended, by reason", ["reason"], **own)
        self.refused = Count(name + "refused", "Requests refused, by status", ["status"], **own)
        self.frames = Count(name + "packets_released", "Packets handed to the network", ["kind"], **own)
        self.drops = Count(name + "dropped", "Ticks, pictures or samples left out, by cause", ["cause"], **own)
        self.errors = Count(name + "errors", "Failures that a call survived or ended by", ["stage"], **own)
        self.effort = Gauge(name + "effort", "Steps taken down because the machine falls behind; 0: none", **own)
        self.shown = self.missed = 0  # pictures of all encoders: made, and left out for lack of time
        self.events = Count(name + "events", "What happened to calls and to the server", ["event"], **own)
        self.lateness = Histogram(name + "lateness_seconds", "Release after due", ["kind"], buckets=FINE, **own)
        self.latency = Histogram(
            name + "added_latency_seconds", "Arrival of a sound to its release", buckets=COARSE, **own
        )
        self.interval = Histogram(
            name + "frame_interval_seconds", "From one picture of a call to its next", buckets=INTERVALS, **own
        )
        self.skew = Histogram(
            name + "skew_seconds", "How far a picture is behind its sound; below zero: ahead", buckets=SKEWS, **own
        )
        self.stages = Histogram(name + "stage_seconds", "Time in a stage", ["stage"], buckets=FINE, **own)
        way = Histogram(
            name + "picture_stage_seconds",
            "A picture's way, by the moment that ends a stage",
            ["stage"],
            buckets=WAY,
            **own,
        )
        self.way = {stage: way.labels(stage) for stage in STAGES}
        self.tasks = Gauge(name + "event_loop_tasks", "Tasks of the event loop", **own)
        self.threads = Gauge(name + "threads", "Threads of the process", **own)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - begin)

    def page(self) -> bytes:
        """The exposition text; called on the event loop."""
        self.tasks.set(len(asyncio.all_tasks()))
        self.threads.set(threading.active_count())
        return generate_latest(self.registry)


class _Recent:
    """Values of the last ten seconds."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()

    def add(self, value: float, now: float) -> None:
        self._values.append((now, value))
        self._forget(now)

    def values(self, now: float) -> list[float]:
        self._forget(now)
        return [value for _, value in self._values]

    def _forget(self, now: float) -> None:
        while self._values and now - self._values[0][0] > RECENT:
            self._values.popleft()


class CallMetrics:
    """Figures of one call, written and read on the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self.process = metrics
        self.begun = time.monotonic()
        self._drops: Counter[str] = Counter()
        self._lateness = {"audio": _Recent(), "video": _Recent()}
        self._latency, self._skew = _Recent(), _Recent()
        self._sound_late = 0.0
        self._last_picture: float | None = None
        self._released: Counter[str] = Counter()
        self.traces = Traces(lasted=lambda stage, seconds: metrics.way[stage].observe(seconds))

    def begin(self) -> None:
        """The call is up: its seconds count from here."""
        self.begun = time.monotonic()

    def dropped(self, cause: str, count: int = 1) -> None:
        self._drops[cause] += count
        if cause in MISSED:
            self.process.missed += count
        self.process.drops.labels(cause).inc(count)

    def encoded(self) -> None:
        """A picture was encoded in time, for whoever watches."""
        self.process.shown += 1

    def released(self, kind: str, late: float, latency: float | None = None) -> None:
        """A packet was handed over `late` seconds after its due; `latency` since its sound arrived.

        The skew is that of the packets as they leave; positive: the sound is ahead of the picture.
        """
        now = time.monotonic()
        self._released[kind] += 1
        self.process.frames.labels(kind).inc()
        self.process.lateness.labels(kind).observe(max(0.0, late))
        self._lateness[kind].add(late, now)
        if kind == "audio":
            self._sound_late = late
        else:
            skew = late - AHEAD - self._sound_late
            self._skew.add(skew, now)
            self.process.skew.observe(skew)
            if self._last_picture is not None:
                self.process.interval.observe(now - self._last_picture)
            self._last_picture = now
        if latency is not None:
            self._latency.add(latency, now)
            self.process.latency.observe(latency)

    def snapshot(self) -> dict[str, Any]:
        """The last ten seconds in numbers a person reads: fps, milliseconds, counts since the call began."""
        now = time.monotonic()
        video = self._lateness["video"].values(now)
        span = min(RECENT, max(now - self.begun, 0.001))
        return {
            "seconds": round(now - self.begun, 1),
            "fps": round(len(video) / span, 1),
            "frames": self._released["video"],
            "lateness_ms": {kind: _percentiles(recent.values(now)) for kind, recent in self._lateness.items()},
            "added_latency_ms": _percentiles(self._latency.values(now)),
            "skew_ms": _percentiles(self._skew.values(now)),
            "drops": dict(self._drops),
            "stages_ms": self.traces.snapshot(),
        }


def _percentiles(seconds: Iterable[float]) -> dict[str, float] | None:
    values = np.array(list(seconds)) * 1000
    if not len(values):
        return None
    return {f"p{point}": round(float(np.percentile(values, point)), 2) for point in (50, 95, 99)}
