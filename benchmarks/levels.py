"""Service levels: what a run must reach, as text (`fps>=24,added_p50<=200`) and as a judgement."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.types import KDTalkerError

Call = Mapping[str, Any]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def _point(figure: str, name: str) -> Callable[[Call], float | None]:
    return lambda call: call.get(figure, {}).get(name)


def _larger(name: str) -> Callable[[Call], float | None]:
    """Of sound and picture, as far as they are known."""

    def larger(call: Call) -> float | None:
        both = [call.get(figure, {}).get(name) for figure in ("sound_added_ms", "picture_added_ms")]
        return max((value for value in both if value is not None), default=None)

    return larger


def _size(figure: str, name: str = "p50") -> Callable[[Call], float | None]:
    def size(call: Call) -> float | None:
        value = call.get(figure, {}).get(name)
        return None if value is None else abs(value)

    return size


FIGURES: dict[str, tuple[Callable[[Call], float | None], str]] = {
    "fps": (lambda call: call.get("fps"), "whole pictures a second"),
    **{f"interval_p{p}": (_point("interval_ms", f"p{p}"), "ms between pictures") for p in (50, 95, 99)},
    **{f"added_p{p}": (_larger(f"p{p}"), "ms of added latency, sound or picture") for p in (50, 95, 99)},
    **{f"sound_added_p{p}": (_point("sound_added_ms", f"p{p}"), "ms of it for sound") for p in (50, 95, 99)},
    **{f"picture_added_p{p}": (_point("picture_added_ms", f"p{p}"), "ms of it for pictures") for p in (50, 95, 99)},
    "skew_received": (_size("skew_received_ms"), "ms between picture and sound as they arrive, median, either way"),
    "skew_aligned": (_size("skew_aligned_ms"), "ms between them once a browser has aligned them, median, either way"),
    "trace_gap_p50": (_size("outside_less_trace_ms"), "ms between the picture's latency and its trace, medians"),
    "trace_gap_p95": (_size("outside_less_trace_ms", "p95"), "the same at p95"),
    "freezes": (lambda call: call.get("freezes", {}).get("count"), "freezes (W3C webrtc-stats)"),
    "sound_gaps": (lambda call: call.get("sound_gaps"), "holes in the sound"),
    "connect": (lambda call: call.get("connect_ms", {}).get("picture"), "ms from the call to its first picture"),
    **{
        f"barge_in_p{p}": (_point("barge_in_ms", f"p{p}"), "ms from being interrupted to a closed mouth")
        for p in (50, 95)
    },
    **{f"barge_in_sound_p{p}": (_point("barge_in_sound_ms", f"p{p}"), "ms of it to silence") for p in (50, 95)},
    "video_kbps": (lambda call: call.get("video_kbps"), "kbit/s of pictures"),
}


@dataclass(frozen=True, slots=True)
class Level:
    """`figure` compared with `bound`; every call must reach it."""

    figure: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.bound:g}"

    def judge(self, calls: Sequence[Call]) -> dict[str, Any]:
        """`worst`: the figure of the worst call that has it, None where none has; that misses the level too."""
        measure = FIGURES[self.figure][0]
        known = [value for value in map(measure, calls) if value is not None]
        worst = None if not known else min(known) if self.sign[0] == ">" else max(known)
        return {"level": str(self), "worst": worst, "met": worst is not None and COMPARE[self.sign](worst, self.bound)}


def levels(text: str) -> list[Level]:
    """`fps>=24,added_p50<=200` -> levels; raises KDTalkerError for what cannot be read."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        read = re.fullmatch(r"(\w+)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)", part)
        if read is None or read[1] not in FIGURES:
            raise KDTalkerError(f"'{part}' is no service level; write FIGURE>=NUMBER, figures: {', '.join(FIGURES)}.")
        found.append(Level(read[1], read[2], float(read[3])))
    return found
