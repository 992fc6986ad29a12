"""The pipeline both profiles share: sound in, motion out, frames out.

A `Talker` holds engines and tables and no caller's state, so one serves every call of a process and may
be used from several threads. A `Talk` is the state of one call and belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from engines.audio import SILENCE, MelStream
from engines.controls import DEFAULT, Controls, Glide
from engines.life import loudness
from engines.placing import Placing
from engines.profile import Profile
from engines.renderer import Renderer
from engines.runtime.base import Engine
from engines.sampler import Sampler, SamplerState
from engines.types import ByteArray, FloatArray, Identity, MelTick, MotionTick
from engines.understanding import HEARS_ALL, Understanding, UnderstandingState, audible

TOGETHER = (1, 2, 4, 8)  # windows of sound, or of motion, that engines take in one batch


@dataclass(slots=True)
class Talk:
    """State of one call: the mel stream, features not yet outside the window, the past of lips and head."""

    identity: Identity
    mel: MelStream
    sampler: SamplerState
    placing: Any  # the state of the profile's `Placing`
    glide: Glide
    silence: FloatArray  # feature (A,) of digital silence
    understanding: UnderstandingState
    features: list[FloatArray] = field(default_factory=list)  # of ticks first_feature, first_feature + 1, ...
    first_feature: int = 0
    spoken: list[float] = field(default_factory=list)  # share of speech in the ticks of `features`
    lips: list[float] = field(default_factory=list)  # whether they touch, see `Understood`, in the ticks of `features`
    levels: list[float] = field(default_factory=list)  # loudness of ticks sampler.next_tick, ...
    other: MelStream | None = None  # of the person the avatar listens to
    heard: list[float] = field(default_factory=list)  # loudness of that person in ticks sampler.next_tick, ...


@dataclass(frozen=True, slots=True)
class Heard:
    """Sound that one call adds: `pcm` f32 (samples,) at 16 kHz; the rest as in `Talker.listen`."""

    talk: Talk
    pcm: FloatArray
    controls: Controls | None = None
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Talker:
    """Engines of one profile, ready to run."""

    profile: Profile
    placing: Placing
    encoder: Engine
    sampler: Sampler
    renderer: Renderer
    understanding: Understanding = HEARS_ALL

    def begin(self, identity: Identity, seed: int = 0, controls: Controls = DEFAULT) -> Talk:
        """Start a call with an enrolled face; the same seed, controls and sound give the same frames.

        Raises ControlError when the profile lacks something that `controls` ask for.
        """
        self.placing.offer.require(controls)
        normalisation = self.placing.normalisation
        silence = self._encode([np.full(self.mel_shape, SILENCE, np.float32)])[0]
        canonical = normalisation.canonical_token(identity.canonical)
        reference = normalisation.normalise(self.placing.rest(identity))
        state = self.sampler.begin(canonical, reference, silence, seed)
        context = self.profile.window.committed
        placing = self.placing.begin(seed)
        glide = Glide.resting(controls)
        return Talk(
            identity=identity,
            mel=MelStream(self.profile.mel),
            sampler=state,
            placing=placing,
            glide=glide,
            silence=silence,
            understanding=self.understanding.begin(),
            features=[silence] * context,
            spoken=[0.0] * context,
            lips=[0.0] * context,
            first_feature=-context,
        )

    def listen(
        self, talk: Talk, pcm: FloatArray, controls: Controls | None = None, *, brief: bool = False
    ) -> list[MotionTick]:
        """Add sound f32 (samples,) at 16 kHz; returns the motion of every frame that became due.

        `controls` hold from the next frame on, until others are given. `brief`: denoise in fewer steps this time.
        """
        return self.listen_together([Heard(talk, pcm, controls, brief)])[0]

    def listen_together(self, calls: Sequence[Heard]) -> list[list[MotionTick]]:
        """What `listen` does for one call, for several, whose windows the engines take as rows of one batch."""
        for call in calls:
            if call.controls is not None and call.controls != call.talk.glide.controls:
                self.placing.offer.require(call.controls)
                call.talk.glide = call.talk.glide.towards(call.controls)
        self._understand([(call.talk, call.talk.mel.push(call.pcm)) for call in calls])
        ready: list[list[MotionTick]] = [[] for _ in calls]
        for brief in (False, True):
            rows = [row for row, call in enumerate(calls) if call.brief is brief]
            while due := [row for row in rows if len(calls[row].talk.features) >= self.profile.window.length]:
                for row, made in zip(due, self._hop([calls[row].talk for row in due], brief=brief), strict=True):
                    ready[row].extend(made)
        return ready

    def hush(self, talk: Talk) -> None:
        """Take back the sound that no motion was made of yet: the next frames are those of silence, mouth closed."""
        talk.mel.hush()
        talk.understanding = self.understanding.begin()
        ahead = len(talk.features) - (talk.sampler.next_tick - talk.first_feature)
        if ahead > 0:
            talk.features[-ahead:] = [talk.silence] * ahead
            talk.spoken[-ahead:] = [0.0] * ahead
            talk.lips[-ahead:] = [0.0] * ahead
        talk.levels[:] = [0.0] * len(talk.levels)

    def hear(self, talk: Talk, pcm: FloatArray) -> None:
        """Add what the person says to whom the avatar listens, f32 (samples,) at 16 kHz, beginning with the call.

        Where it runs short of the avatar's own sound, that person is silent.
        """
        if talk.other is None:
            talk.other = MelStream(self.profile.mel)
        ahead = talk.sampler.next_tick + len(talk.heard)
        talk.heard.extend(loudness(mel.window) for mel in talk.other.push(pcm) if mel.tick >= ahead)

    def finish(self, talk: Talk, frames: int) -> list[MotionTick]:
        """End of a finite sound: the frames below `frames` that `listen` has not returned yet."""
        self._understand([(talk, talk.mel.finish(frames))])
        length, ready = self.profile.window.length, []
        if talk.features:
            # The last hop of a finite sound may reach past its end; what follows is taken as unchanged.
            missing = frames + length - talk.first_feature - len(talk.features)
            talk.features.extend([talk.features[-1]] * missing)
            for known in (talk.spoken, talk.lips, talk.levels):
                known.extend([known[-1]] * missing)
        while len(talk.features) >= length and talk.sampler.next_tick < frames:
            ready.extend(self._hop([talk])[0])
        return [tick for tick in ready if tick.tick < frames]

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        """Motion (N, 70) placed on N photos -> u8 (N, 512, 512, 3) RGB."""
        return self.renderer.render(identities, motions, out)

    @property
    def mel_shape(self) -> tuple[int, int]:
        return (80, self.profile.mel.columns)

    def warm(self) -> None:
        """Prepare every engine for every size that calls ask for, so that none is met for the first time in a call."""
        self.encoder.warm(TOGETHER)
        self.sampler.warm(TOGETHER)
        self.renderer.warm([1])

    def _encode(self, windows: Sequence[FloatArray]) -> FloatArray:
        """Mel windows (80, K) -> features (N, A)."""
        return np.concatenate([self.encoder.run(mel=np.stack(part))["feature"] for part in batches(windows)])

    def _understand(self, calls: Sequence[tuple[Talk, list[MelTick]]]) -> None:
        """Add the features of consecutive mel windows to each call, and what is understood of them."""
        calls = [(talk, mels) for talk, mels in calls if mels]
        heard: list[FloatArray] = []
        for talk, mels in calls:
            windows = np.stack([mel.window for mel in mels])
            understood, talk.understanding = self.understanding.advance(windows, talk.understanding)
            heard.extend(windows)
            talk.spoken.extend(understood.spoken)
            talk.lips.extend(understood.lips)
            talk.levels.extend(understood.spoken * np.array([loudness(window) for window in windows], np.float32))
        if heard:
            features = iter(self._encode(heard))
            for talk, mels in calls:
                talk.features.extend(islice(features, len(mels)))

    def _hop(self, talks: Sequence[Talk], *, brief: bool = False) -> list[list[MotionTick]]:
        """The next frames of calls whose windows are full."""
        plan, ready = self.profile.window, []
        for together in batches(talks):
            sound = np.array([talk.features[: plan.length] for talk in together], np.float32)
            spoken = np.array([talk.spoken[: plan.length] for talk in together], np.float32)
            lips = np.array([talk.lips[: plan.length] for talk in together], np.float32)
            sound, spoken = audible(sound, spoken, np.stack([talk.silence for talk in together]))
            states = [talk.sampler for talk in together]
            made, states = self.sampler.advance(states, sound, spoken, lips, brief=brief)
            for talk, new, state in zip(together, made, states, strict=True):
                first, talk.sampler = talk.sampler.next_tick, state
                ready.append(self._place(talk, first, new))
                for past in (talk.features, talk.spoken, talk.lips, talk.levels, talk.heard):
                    del past[: plan.new]
                talk.first_feature += plan.new
        return ready

    def _place(self, talk: Talk, first: int, normalised: FloatArray) -> list[MotionTick]:
        predicted = self.placing.normalisation.denormalise(normalised)
        levels = np.array(talk.levels[: len(predicted)], np.float32)
        effect, talk.glide = talk.glide.advance(len(predicted))
        heard = np.zeros_like(levels)
        known = talk.heard[: len(heard)]
        heard[: len(known)] = known
        placed, talk.placing = self.placing.place(talk.identity.source, predicted, levels, effect, talk.placing, heard)
        return [MotionTick(first + row, placed[row]) for row in range(len(placed))]


Row = TypeVar("Row")


def batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """`rows` in their order, in as few batches as `TOGETHER` allows."""
    first = 0
    while first < len(rows):
        size = max(size for size in TOGETHER if size <= len(rows) - first)
        yield rows[first : first + size]
        first += size
