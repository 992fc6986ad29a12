"""What sound says about the mouth: whether somebody speaks, and whether lips touch.

Calls, offline rendering and the benchmarks of training all listen through this one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.contact import ContactModel
from engines.types import FloatArray
from engines.voice import VoiceModel, VoiceState


@dataclass(frozen=True, slots=True)
class Understood:
    """Consecutive ticks. `spoken` f32 (T,): share of speech, 0 or 1; `lips` f32 (T,): 1 they touch, -1 they are apart,
    0 unknown, in the frame `engines.contact.DELAY` ticks before."""

    spoken: FloatArray
    lips: FloatArray


@dataclass(frozen=True, slots=True)
class UnderstandingState:
    """What one call remembers: of `Understanding.voice` and of `Understanding.contact`."""

    voice: VoiceState | None
    contact: FloatArray | None


@dataclass(frozen=True, slots=True)
class Understanding:
    """Networks that are asked about the sound; without them all sound is speech and of lips nothing is known."""

    voice: VoiceModel | None = None
    contact: ContactModel | None = None

    def begin(self) -> UnderstandingState:
        """State of a call before its first tick."""
        return UnderstandingState(
            None if self.voice is None else self.voice.begin(),
            None if self.contact is None else self.contact.begin(),
        )

    def advance(self, windows: FloatArray, state: UnderstandingState) -> tuple[Understood, UnderstandingState]:
        """What is understood of mel windows (T, 80, K) of consecutive ticks, and the state after."""
        spoken, lips = np.ones(len(windows), np.float32), np.zeros(len(windows), np.float32)
        voice, contact = state.voice, state.contact
        if self.voice is not None and voice is not None:
            spoken, voice = self.voice.advance(windows, voice)
        if self.contact is not None and contact is not None:
            lips, contact = self.contact.advance(windows, contact)
            lips = np.maximum(lips, 0) + spoken * np.minimum(lips, 0)  # nothing but speech opens a mouth
        return Understood(spoken, lips), UnderstandingState(voice, contact)


HEARS_ALL = Understanding()


def audible(sound: FloatArray, spoken: FloatArray, silence: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What lips follow of features `sound` (B, T, A): silence where nobody speaks; and the share of speech in it.

    `spoken` f32 (B, T); `silence` f32 (B, A), features of digital silence. The tick before speech begins belongs to it:
    it takes the network about a tick to be sure.
    """
    speech = spoken.copy()
    speech[:, :-1] = np.maximum(spoken[:, :-1], spoken[:, 1:])
    return np.where(speech[..., None] > 0, sound, silence[:, None]), speech
