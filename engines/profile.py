"""Profiles as data: what differs between the embedded and the published model, in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.audio import MelWindow
from engines.motion import Limits
from engines.types import SPEECH_RATE, TICK_SECONDS, KDTalkerError

LONGEST_HOP = 16  # ticks


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Rows of one sampler window, in ticks: committed context, new frames (the hop), look-ahead."""

    committed: int
    new: int
    lookahead: int

    @property
    def length(self) -> int:
        return self.committed + self.new + self.lookahead


@dataclass(frozen=True, slots=True)
class Parts:
    """A setting of the sampler by parts of the motion vector; `FaceModel.per_number` spreads it.

    `mouth`: lips and jaw; of these `corners`, how far the mouth's corners go sideways, and `chin`, its height, where
    they differ. `rest`: everything else.
    """

    mouth: float
    rest: float
    corners: float | None = None
    chin: float | None = None


AS_MADE = Parts(mouth=1.0, rest=1.0)  # of the sampler's guidance, temperature and rescale: what is plain DDIM


@dataclass(frozen=True, slots=True)
class Profile:
    """One model family and how it is run.

    `longest`: frames of the longest window the network was trained for; where `always_longest`, of every window.
    Audio `guidance` 1 and noise `temperature` 1 are plain DDIM.
    `calm`: share of the way to rest that each tick without speech takes; None leaves that to the network.
    `deviations`: how far from the mean normalised motion went in training; None where that is not known.
    `smooth`: share of each neighbour in a frame as it leaves; `rescale`: share of the distance from rest that it keeps.
    """

    name: str
    mel: MelWindow
    feature_width: int
    window: WindowPlan
    longest: int
    always_longest: bool
    guidance: Parts
    temperature: Parts
    calm: Parts | None
    deviations: float | None
    smooth: float
    rescale: Parts
    limits: Limits

    @property
    def delay(self) -> float:
        """Seconds from a hop's first sample to the moment its frames may be computed."""
        ticks = self.window.new - 1 + self.window.lookahead
        return ticks * TICK_SECONDS + self.mel.reach / SPEECH_RATE

    def with_hop(self, ticks: int) -> Profile:
        """The same profile with `ticks` new frames a window; the context gives way where the window would be too long.

        A longer hop computes less and waits longer. Raises KDTalkerError outside 1..16.
        """
        if not 1 <= ticks <= LONGEST_HOP:
            raise KDTalkerError(f"A hop of {ticks} ticks is not possible; choose 1 to {LONGEST_HOP}.")
        lookahead = self.window.lookahead
        room = self.longest - ticks - lookahead
        committed = room if self.always_longest else min(room, self.window.committed)
        return replace(self, window=WindowPlan(committed, ticks, lookahead))


EMBEDDED = Profile(
    name="embedded",
    mel=MelWindow(columns=20, reach=1280),
    feature_width=128,
    window=WindowPlan(committed=6, new=2, lookahead=1),
    longest=27,
    always_longest=False,
    guidance=Parts(mouth=3.6, rest=1.0, corners=4.2, chin=4.2),
    temperature=Parts(mouth=0.2, rest=1.0),
    calm=Parts(mouth=1.0, rest=0.0),
    deviations=6.0,
    smooth=0.15,
    rescale=Parts(mouth=0.84, rest=1.0),
    limits=Limits(),
)

# The published denoiser was trained on 64 frames, so a streamed window keeps that length, most of it settled.
KDTALKER = Profile(
    name="kdtalker",
    mel=MelWindow(columns=16, reach=2120, published=True),
    feature_width=512,
    window=WindowPlan(committed=60, new=2, lookahead=2),
    longest=64,
    always_longest=True,
    guidance=AS_MADE,
    temperature=AS_MADE,
    calm=None,
    deviations=None,
    smooth=0.0,
    rescale=AS_MADE,
    limits=Limits(),
)

PROFILES = {profile.name: profile for profile in (EMBEDDED, KDTALKER)}


def profile(name: str) -> Profile:
    """The profile called `name`; an unknown name is answered with the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise KDTalkerError(f"There is no profile '{name}'; known profiles: {', '.join(PROFILES)}.") from None
