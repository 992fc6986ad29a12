"""Sliding-window diffusion: features in, committed frames out, no window border visible outside.

A window is ``[canonical token, reference token | C committed | H new | L look-ahead]``. The reference is
the normalised frame just before the first committed one; before any frame exists it is the photo. The
loop over denoising steps lives inside the window graph; this file holds what survives from one window
to the next, as an immutable `SamplerState`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engines.contact import DELAY, Contact
from engines.profile import WindowPlan
from engines.runtime.base import Engine
from engines.types import MOTION_WIDTH, FloatArray

Noise = Callable[[int, int, int], FloatArray]  # seed, first tick, count -> unit normal (count, 70)
RELEASE = 0.9  # share of its limit to which a clamped number has to come back


def tick_noise(seed: int, first: int, count: int) -> FloatArray:
    """Unit normal noise f32 (count, 70) of ticks `first`, `first` + 1, ...

    A pure function of seed and absolute tick (counter-based Philox), so that a frame keeps its noise
    whether it is look-ahead, new or committed, and a call replays bit for bit.
    """
    return np.stack([_noise(seed, first + row) for row in range(count)])


@lru_cache(maxsize=4096)  # windows overlap: one of 9 ticks with a hop of 2 asks for each tick four or five times
def _noise(seed: int, tick: int) -> FloatArray:
    """One tick's row f32 (70,); shared, so read-only."""
    bits = np.random.Philox(key=seed, counter=[0, 0, 0, tick + 2**32])
    row = np.random.Generator(bits).standard_normal(MOTION_WIDTH, np.float32)
    row.flags.writeable = False
    return row


def hold(frames: FloatArray, held: NDArray[np.bool_], limit: float) -> NDArray[np.bool_]:
    """Clamp `frames` (H, 70) in place; returns which numbers are held after the last of them.

    A number beyond `limit` is brought to `RELEASE` of it, and stays at most there until it is so by itself.
    """
    inner = RELEASE * limit
    if not held.any() and np.abs(frames).max(initial=0.0) <= limit:
        return held
    for frame in frames:
        size = np.abs(frame)
        held = (size > limit) | (held & (size > inner))
        frame[held] = np.sign(frame[held]) * inner
    return held


@dataclass(frozen=True, slots=True)
class SamplerState:
    """What one call remembers. `canonical` f32 (70,) token; `history` f32 (C + 1, 70): the reference
    followed by the committed frames, all normalised; `ahead` f32 (L, 70): what the last window expected of
    the frames that come next; `next_tick`: first frame not yet committed; `held` bool (70,): numbers that are clamped.
    """

    seed: int
    canonical: FloatArray
    history: FloatArray
    ahead: FloatArray
    next_tick: int
    held: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quiet:
    """A face at rest: `rest` f32 (70,) normalised. `pull` f32 (70,): share of the way to it that each tick takes while
    nobody speaks. `rescale` f32 (70,): share of the distance from it that a frame keeps as it leaves, because guidance
    exaggerates (guidance rescale, arXiv 2305.08891).
    """

    rest: FloatArray
    pull: FloatArray
    rescale: FloatArray


@dataclass(frozen=True, slots=True)
class Sampler:
    """A window graph with its plan; holds no caller's state.

    `guidance`, `temperature` f32 (70,): audio guidance and noise temperature of every number. `blend`: share of the
    last window's look-ahead in the first new frame, which takes the jump out of the seam; frames after it are moved
    along, each by `fade` of the one before, so that the jump does not turn up one frame later. `limit`: deviations
    beyond which the network was never trained; what goes there is held a little below until it has come back by itself,
    so that a call cannot leave the training range and does not flicker at its border. None: no limit. `quiet`: where
    given, frames in which nobody speaks are drawn to it, so that no context, however odd, keeps a mouth open, and all
    that leave are rescaled.
    `smooth`: share of each neighbour in a frame as it leaves, the look-ahead being the last one's; it takes out what
    flutters from frame to frame. `contact`: where given, mouths whose lips are known to touch or to be apart are moved
    there after that. What later windows see stays the network's own, as in training.
    `brief`: the same network in fewer steps, for a machine that falls behind; a call may change over at any hop.
    """

    engine: Engine
    plan: WindowPlan
    guidance: FloatArray
    temperature: FloatArray
    blend: float = 0.4
    fade: float = 0.7
    limit: float | None = None
    noise: Noise = tick_noise
    quiet: Quiet | None = None
    brief: Engine | None = None
    smooth: float = 0.0
    contact: Contact | None = None

    def warm(self, batches: Iterable[int] = (1,)) -> None:
        """Prepare windows of so many calls at once."""
        for engine in (self.engine, self.brief):
            if engine is not None:
                engine.warm(batches, frames=self.plan.length)

    def from_photo(self, canonical: FloatArray, reference: FloatArray, seed: int) -> SamplerState:
        """A call with no past but the photo: what windows without context start from.

        `canonical`, `reference` f32 (70,) normalised tokens.
        """
        history = np.repeat(reference[None], self.plan.committed + 1, axis=0)
        ahead = np.repeat(reference[None], self.plan.lookahead, axis=0)
        return SamplerState(seed, canonical, history, ahead, next_tick=0, held=np.zeros(MOTION_WIDTH, bool))

    def begin(self, canonical: FloatArray, reference: FloatArray, silence: FloatArray, seed: int) -> SamplerState:
        """Start a call: one window on silence from the photo; its last frames are the first context.

        `canonical`, `reference` f32 (70,) normalised tokens, `silence` f32 (A,) feature of silence.
        """
        plan = self.plan
        sound = np.repeat(silence[None], plan.length, axis=0)
        first = plan.lookahead - plan.length
        empty = np.zeros((plan.length, MOTION_WIDTH), np.float32)
        motion = self._window(
            self.engine,
            tokens=np.stack([canonical, reference])[None],
            sound=sound[None],
            noise=self.noise(seed, first, plan.length)[None],
            committed=empty[None],
            mask=np.zeros((1, plan.length), np.float32),
        )[0]
        photo = self.from_photo(canonical, reference, seed)
        generated, ahead = np.split(motion, [plan.length - plan.lookahead])
        history = np.concatenate([photo.history, generated])[-(plan.committed + 1) :]
        return replace(photo, history=history, ahead=ahead)

    def advance(
        self,
        states: Sequence[SamplerState],
        sound: FloatArray,
        spoken: FloatArray | None = None,
        lips: FloatArray | None = None,
        *,
        brief: bool = False,
    ) -> tuple[FloatArray, list[SamplerState]]:
        """One hop for a batch of calls.

        `sound` f32 (B, C + H + L, A): features of ticks next_tick - C onwards; `spoken` f32 (B, C + H + L): share of
        speech in them, None for all; `lips` f32 (B, C + H + L): whether they touch, see `Understood`, None for unknown.
        `brief`: in fewer steps, where there is a way to. Returns the new frames (B, H, 70), normalised, and the states
        that follow.
        """
        plan = self.plan
        rows = len(states)
        committed = np.zeros((rows, plan.length, MOTION_WIDTH), np.float32)
        noise = np.empty_like(committed)
        tokens = np.empty((rows, 2, MOTION_WIDTH), np.float32)
        for row, state in enumerate(states):
            tokens[row, 0] = state.canonical
            tokens[row, 1] = state.history[0]
            committed[row, : plan.committed] = state.history[1:]
            noise[row] = self.noise(state.seed, state.next_tick - plan.committed, plan.length)
        mask = np.zeros((rows, plan.length), np.float32)
        mask[:, : plan.committed] = 1.0
        engine = self.brief if brief and self.brief is not None else self.engine
        motion = self._window(engine, tokens=tokens, sound=sound, noise=noise, committed=committed, mask=mask)
        made = motion[:, plan.committed :]
        if plan.lookahead:
            expected = np.stack([state.ahead[:1] for state in states])
            fading = self.fade ** np.arange(plan.new + plan.lookahead, dtype=np.float32)
            made = made + self.blend * fading[:, None] * (expected - made[:, :1])
        if self.quiet is not None and spoken is not None:
            unspoken = 1 - spoken[:, plan.committed :, None]
            made = made + unspoken * self.quiet.pull * (self.quiet.rest - made)
        new, ahead = np.split(made, [plan.new], axis=1)
        following = []
        for row, state in enumerate(states):
            held = state.held if self.limit is None else hold(new[row], state.held, self.limit)
            history = np.concatenate([state.history, new[row]])[-(plan.committed + 1) :]
            tick = state.next_tick + plan.new
            following.append(replace(state, history=history, ahead=ahead[row], next_tick=tick, held=held))
        if self.smooth:
            before = np.stack([state.history[-1:] for state in states])
            beyond = ahead[:, :1] if plan.lookahead else new[:, -1:]
            around = np.concatenate([before, new, beyond], axis=1)
            new = new + self.smooth * (around[:, :-2] - 2 * new + around[:, 2:])
        if self.quiet is not None:
            new = self.quiet.rest + self.quiet.rescale * (new - self.quiet.rest)
        if self.contact is not None and lips is not None:
            first = plan.committed + DELAY
            new = self.contact.shaped(new, lips[:, first : first + plan.new])
        return new, following

    def _window(self, engine: Engine, **inputs: FloatArray) -> FloatArray:
        return engine.run(guidance=self.guidance, temperature=self.temperature, **inputs)["motion"]
