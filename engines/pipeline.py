"""The pipeline both profiles share: sound in, motion out, frames out.

A `Talker` holds engines and tables and no caller's state, so one serves every call of a process and may
be used from several threads. A `Talk` is the state of one call and belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
from engines.understanding import HEARS_ALL, Understanding, UnderstandingState

ENCODER_ROWS = 2  # windows of sound encoded in one call: a tick completes one, seldom two


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
        if controls is not None and controls != talk.glide.controls:
            self.placing.offer.require(controls)
            talk.glide = talk.glide.towards(controls)
        return self._advance(talk, talk.mel.push(pcm), frames=None, brief=brief)

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
        return self._advance(talk, talk.mel.finish(frames), frames)

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        """Motion (N, 70) placed on N photos -> u8 (N, 512, 512, 3) RGB."""
        return self.renderer.render(identities, motions, out)

    @property
    def mel_shape(self) -> tuple[int, int]:
        return (80, self.profile.mel.columns)

    def warm(self) -> None:
        """Prepare every engine for every size that calls ask for, so that none is met for the first time in a call."""
        self.encoder.warm(range(1, ENCODER_ROWS + 1))
        self.sampler.warm()
        self.renderer.warm([1])

    def _encode(self, windows: Sequence[FloatArray]) -> FloatArray:
        parts = [np.stack(windows[start : start + ENCODER_ROWS]) for start in range(0, len(windows), ENCODER_ROWS)]
        return np.concatenate([self.encoder.run(mel=part)["feature"] for part in parts])

    def _understand(self, talk: Talk, windows: list[FloatArray]) -> None:
        """Add the features of consecutive mel windows to the call; what is no speech counts as silence."""
        levels = np.array([loudness(window) for window in windows], np.float32)
        heard, talk.understanding = self.understanding.advance(
            np.stack(windows), self._encode(windows), talk.silence, talk.understanding
        )
        talk.features.extend(heard.features)
        talk.spoken.extend(heard.spoken)
        talk.lips.extend(heard.lips)
        talk.levels.extend(heard.spoken * levels)

    def _advance(self, talk: Talk, mels: list[MelTick], frames: int | None, *, brief: bool = False) -> list[MotionTick]:
        if mels:
            self._understand(talk, [mel.window for mel in mels])
        if frames is not None and talk.features:
            # The last hop of a finite sound may reach past its end; what follows is taken as unchanged.
            missing = frames + self.profile.window.length - talk.first_feature - len(talk.features)
            talk.features.extend([talk.features[-1]] * missing)
            for known in (talk.spoken, talk.lips, talk.levels):
                known.extend([known[-1]] * missing)
        ready: list[MotionTick] = []
        length = self.profile.window.length
        while len(talk.features) >= length and (frames is None or talk.sampler.next_tick < frames):
            first = talk.sampler.next_tick
            sound = np.stack(talk.features[:length])[None]
            spoken, lips = (np.array([ticks[:length]], np.float32) for ticks in (talk.spoken, talk.lips))
            new, (talk.sampler,) = self.sampler.advance([talk.sampler], sound, spoken, lips, brief=brief)
            ready.extend(self._place(talk, first, new[0]))
            for past in (talk.features, talk.spoken, talk.lips, talk.levels, talk.heard):
                del past[: self.profile.window.new]
            talk.first_feature += self.profile.window.new
        return ready if frames is None else [tick for tick in ready if tick.tick < frames]

    def _place(self, talk: Talk, first: int, normalised: FloatArray) -> list[MotionTick]:
        predicted = self.placing.normalisation.denormalise(normalised)
        levels = np.array(talk.levels[: len(predicted)], np.float32)
        effect, talk.glide = talk.glide.advance(len(predicted))
        heard = np.zeros_like(levels)
        known = talk.heard[: len(heard)]
        heard[: len(known)] = known
        placed, talk.placing = self.placing.place(talk.identity.source, predicted, levels, effect, talk.placing, heard)
        return [MotionTick(first + row, placed[row]) for row in range(len(placed))]
