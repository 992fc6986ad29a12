"""When the machine falls behind: newcomers are refused first, then motion is denoised in fewer steps, then pictures
become smaller, then fewer.

Sound is never touched. No asyncio and no clock of its own: counts and times are arguments.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from engines.types import FPS
from server.metrics import Metrics

LATE = 0.05  # share of pictures missed in a second that is too much
GONE = 0.2  # share of the expected pictures that were neither shown nor missed: something does not come on at all
CALM, EASY = 0.01, 0.8  # share missed, and share of the cores used, that leave room for more
STRAINED = 2  # looks in a row that are too much before a step down
PATIENCE, LONGEST_PATIENCE = 10.0, 160.0  # seconds of calm before a step up; doubled when that was too soon
FULL = 0.9  # share of the cores that calls may use
FIRST_COST = 0.5  # cores that a call is taken to need before any was measured
SMOOTHING = 0.2  # weight of a new measurement

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Effort:
    """What calls get. `brief`: motion in fewer denoising steps; `pixels` of a picture's side; `rate`: pictures a
    second.
    """

    name: str
    brief: bool = False
    pixels: int = 512
    rate: int = FPS
    open: bool = False  # to newcomers


STEPS = (
    Effort("full", open=True),
    Effort("no newcomers"),
    Effort("fewer denoising steps", brief=True),
    Effort("384 pixels", brief=True, pixels=384),
    Effort("256 pixels", brief=True, pixels=256),
    Effort("20 frames a second", brief=True, pixels=256, rate=20),
)


class Governor:
    """Decides how much every call gets. `look` once a second; `effort` holds until the next look."""

    def __init__(self, metrics: Metrics, cores: float, rate: int = FPS) -> None:
        """`rate`: pictures a second, at most."""
        self._metrics, self._cores = metrics, cores
        lower = [step for step in STEPS if step.rate == FPS or step.rate < rate]
        self._steps = [step if step.rate <= rate else replace(step, rate=rate) for step in lower]
        self._step = 0
        self._strained = 0
        self._calm_since: float | None = None
        self._raised_at = float("-inf")
        self._patience = PATIENCE
        self._cost = FIRST_COST
        self._measured = False

    @property
    def effort(self) -> Effort:
        return self._steps[self._step]

    @property
    def cost(self) -> float | None:
        """Cores that a call was measured to need; None before any was."""
        return self._cost if self._measured else None

    def expect(self, cost: float) -> None:
        """Take it that a call needs so many cores, as another process on this machine measured, until one is measured
        here.
        """
        if not self._measured:
            self._cost = cost

    def places(self, calls: int) -> int:
        """How many more calls would fit beside so many, by what a call was measured to cost."""
        return max(0, fitting(self._cores, self._cost) - calls) if self.effort.open else 0

    def look(self, now: float, seconds: float, calls: int, shown: int, missed: int, used: float) -> None:
        """The last `seconds`: `calls` that were up, pictures `shown` and `missed`, CPU seconds `used`."""
        if calls:
            self._measured = True
            self._cost += SMOOTHING * (used / seconds / calls - self._cost)
        share = missed / max(1, shown + missed)
        expected = self.effort.rate * calls * seconds
        behind = share > LATE or shown + missed < (1 - GONE) * expected
        self._strained = self._strained + 1 if behind else 0
        easy = not behind and share < CALM and used / seconds < EASY * self._cores
        if not easy:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if self._strained >= STRAINED and self._step < len(self._steps) - 1:
            if now - self._raised_at < self._patience:
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            self._move(1)
        elif self._step and self._calm_since is not None and now - self._calm_since >= self._patience:
            self._raised_at = now
            self._move(-1)
        elif not self._step and now - self._raised_at > LONGEST_PATIENCE:
            self._patience = PATIENCE

    def _move(self, by: int) -> None:
        self._step += by
        self._strained, self._calm_since = 0, None
        self._metrics.effort.set(self._step)
        self._metrics.events.labels(f"effort: {self.effort.name}").inc()
        logger.warning("%s: %s", "falling behind" if by > 0 else "room again", self.effort.name)


def has_picture(tick: int, rate: int) -> bool:
    """Whether this tick is one of the `rate` a second that have a picture, as evenly as ticks allow."""
    return tick * rate % FPS < rate


def fitting(cores: float, cost: float) -> int:
    """Calls that need `cost` cores each and fit on so many; one is always tried."""
    return max(1, int(FULL * cores / cost + 1e-9))


def cores() -> float:
    """CPUs that this process may use: its affinity, and its control group's quota where there is one (cgroup v2)."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return count if quota == "max" else min(count, int(quota) / int(period))
    except (OSError, ValueError):
        return count
