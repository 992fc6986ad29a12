"""What a person may set about a face, and how a change of it glides in.

`Controls` is what was asked for; `Effect` is what acts on each frame. Between the two lies a `Glide`: every
control runs to its new value like a critically damped spring, tick by tick, so that a change in mid-call is
smooth and a call replays bit for bit when its changes come at the same ticks.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.types import TICK_SECONDS, FloatArray, KDTalkerError

NEUTRAL, FREE, FIXED = "neutral", "free", "fixed"
CROP, PHOTO = "crop", "photo"
ORIGINAL, BLURRED, PLAIN, GREEN = "original", "blurred", "plain", "green"
VIEWS = (CROP, PHOTO)
BACKGROUNDS = (ORIGINAL, BLURRED, PLAIN, GREEN)
COLOUR = re.compile(r"#[0-9a-f]{6}")  # is a background too
EMOTIONS = (NEUTRAL, "happy", "sad", "surprised", "angry")
GAZES = (FREE, FIXED)
RANGES = {
    "pose_scale": (0.0, 2.0),
    "expression_scale": (0.0, 1.5),
    "mouth_scale": (0.5, 1.5),
    "emotion_strength": (0.0, 1.0),
}
QUICK, CALM = 0.4, 0.8  # seconds until 95 % of a change is there: lips and eyes; the head and the mood
SETTLED = 1e-5  # of a change; what is left of it is dropped


class ControlError(KDTalkerError):
    """A control has a value that it cannot have; the text says which it can."""


@dataclass(frozen=True, slots=True)
class Controls:
    """`pose_scale` 0 to 2: head motion. `expression_scale` 0 to 1.5: brows and mouth; `mouth_scale` 0.5 to 1.5: the
    mouth once more, for people who speak with large or small mouths. `gaze`: "free", or "fixed" on the viewer.
    `emotion`: one of `EMOTIONS`, at `emotion_strength` 0 to 1. `view`: the "crop" about the face, or the whole "photo".
    `background`: one of `BACKGROUNDS` or a colour as "#00b140". `mark`: whether a small sign in the picture says that
    this is an AI avatar. Raises ControlError on anything else.
    """

    pose_scale: float = 1.0
    expression_scale: float = 1.0
    mouth_scale: float = 1.0
    gaze: str = FREE
    emotion: str = NEUTRAL
    emotion_strength: float = 0.7
    view: str = CROP
    background: str = ORIGINAL
    mark: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ControlError(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}.")
        colour = isinstance(self.background, str) and COLOUR.fullmatch(self.background)
        for name, known in _CHOICES.items():
            if name == "background" and colour:
                continue
            if getattr(self, name) not in known:
                raise ControlError(f"{name} must be one of {', '.join(known)}, not {_shown(getattr(self, name))}.")
        if not isinstance(self.mark, bool):
            raise ControlError(f"mark must be true or false, not {_shown(self.mark)}.")

    def changed(self, /, **changes: Any) -> Controls:
        """These controls with some of them set anew; raises ControlError for unknown names too."""
        known = [field.name for field in fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ControlError(f"There is no control {_shown(unknown[0])}; the controls are {', '.join(known)}.")
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_CHOICES = {"gaze": GAZES, "emotion": EMOTIONS, "view": VIEWS, "background": BACKGROUNDS}
DEFAULT = Controls()


@dataclass(frozen=True, slots=True)
class Offer:
    """What of the controls a profile has; amplitudes are always there."""

    emotions: tuple[str, ...]
    gazes: tuple[str, ...]
    views: tuple[str, ...]
    backgrounds: tuple[str, ...]

    def require(self, controls: Controls) -> None:
        """Raise ControlError when the profile lacks something that is asked for."""
        background = PLAIN if controls.background.startswith("#") else controls.background
        for name, value, there in (
            ("emotion", controls.emotion, self.emotions),
            ("gaze", controls.gaze, self.gazes),
            ("view", controls.view, self.views),
            ("background", background, self.backgrounds),
        ):
            if value not in there:
                raise ControlError(f"This profile has no {name} '{value}', only {', '.join(there)}.")


EVERYTHING = Offer(EMOTIONS, GAZES, VIEWS, BACKGROUNDS)
AMPLITUDES = Offer((NEUTRAL,), (FREE,), (CROP,), (ORIGINAL,))


@dataclass(frozen=True, slots=True)
class Effect:
    """Controls of H frames as they act. `pose`, `expression`, `mouth` f32 (H,): factors. `gaze` f32 (H,): 0 free, 1
    fixed. `emotions` f32 (H, E): how much of each of `EMOTIONS` but the first.
    """

    pose: FloatArray
    expression: FloatArray
    mouth: FloatArray
    gaze: FloatArray
    emotions: FloatArray

    @staticmethod
    def of(values: NDArray[np.float64]) -> Effect:
        """Rows (H, K), in the order of `_targets`."""
        columns = values.astype(np.float32).T
        return Effect(columns[0], columns[1], columns[2], columns[3], columns[4:].T)


def steady(controls: Controls, frames: int) -> Effect:
    """The same controls in every frame."""
    return Effect.of(np.repeat(_targets(controls)[None], frames, axis=0))


@dataclass(frozen=True, slots=True)
class Glide:
    """Controls on their way. `value` f64 (K,) and `speed` f64 (K,) a tick: where each of them is and how it moves."""

    controls: Controls
    value: NDArray[np.float64]
    speed: NDArray[np.float64]

    @staticmethod
    def resting(controls: Controls) -> Glide:
        """A call that begins with these controls."""
        target = _targets(controls)
        return Glide(controls, target, np.zeros_like(target))

    def towards(self, controls: Controls) -> Glide:
        """Other controls are asked for from the next tick on."""
        return replace(self, controls=controls)

    def advance(self, ticks: int) -> tuple[Effect, Glide]:
        """The next `ticks` frames and what follows; any division into hops gives the same."""
        target, value, speed = _targets(self.controls), self.value, self.speed
        rows = np.empty((ticks, len(value)))
        for row in range(ticks):
            # The exact solution of x'' = -2 w x' - w^2 x over one tick.
            away = value - target
            push = speed + _RATES * away
            value, speed = target + (away + push) * _DECAY, (speed - _RATES * push) * _DECAY
            settled = (np.abs(value - target) < SETTLED) & (np.abs(speed) < SETTLED)
            value, speed = np.where(settled, target, value), np.where(settled, 0.0, speed)
            rows[row] = value
        return Effect.of(rows), replace(self, value=value, speed=speed)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Flags for all controls; what was not given is None."""
    group = parser.add_argument_group("the face")
    group.add_argument("--pose-scale", type=float, metavar="X", help="head motion, 0 to 2; default: 1")
    group.add_argument("--expression-scale", type=float, metavar="X", help="brows and mouth, 0 to 1.5; default: 1")
    group.add_argument("--mouth-scale", type=float, metavar="X", help="the mouth once more, 0.5 to 1.5; default: 1")
    group.add_argument("--gaze", choices=GAZES, help="fixed: the eyes stay on the viewer; default: free")
    group.add_argument("--emotion", choices=EMOTIONS, help="default: neutral")
    group.add_argument("--emotion-strength", type=float, metavar="X", help="0 to 1; default: 0.7")
    group.add_argument("--view", choices=VIEWS, help="photo: the whole photo with the face in it; default: crop")
    group.add_argument(
        "--background", metavar="NAME", help="original (default), blurred, plain, green, or a colour as #00b140"
    )
    group.add_argument(
        "--mark", action=argparse.BooleanOptionalAction, help="a small sign in the picture: AI avatar; default: none"
    )


def chosen(options: argparse.Namespace) -> Controls:
    """The controls that the flags of `add_options` say; raises ControlError."""
    given = {field.name: getattr(options, field.name) for field in fields(Controls)}
    return DEFAULT.changed(**{name: value for name, value in given.items() if value is not None})


def _targets(controls: Controls) -> NDArray[np.float64]:
    emotions = [controls.emotion_strength * (controls.emotion == name) for name in EMOTIONS[1:]]
    fixed = float(controls.gaze == FIXED)
    return np.array([controls.pose_scale, controls.expression_scale, controls.mouth_scale, fixed, *emotions])


def _shown(value: object) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_SECONDS = np.array([CALM, QUICK, QUICK, QUICK, *[CALM] * (len(EMOTIONS) - 1)])
_RATES = 4.744 * TICK_SECONDS / _SECONDS  # (1 + x) exp(-x) = .05 at x = 4.744
_DECAY = np.exp(-_RATES)
