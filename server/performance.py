"""A face that speaks whatever sound it is given, tick by tick, for programs that have a way out of their own."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import av
import cv2
import numpy as np

from engines.cli import enrolled
from engines.controls import DEFAULT, Controls
from engines.pipeline import Talker
from engines.talkers import open_talker
from engines.types import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES, ByteArray, FloatArray, Identity, IntArray, MotionTick
from server.sound import Decimator

LEAD = PLAYBACK_RATE // 10  # samples that an utterance begins with, so that pieces may come a little late
WARM_TICKS = FPS
SILENCE: IntArray = np.zeros(PLAYBACK_SAMPLES, np.int16)


@dataclass(frozen=True, slots=True)
class Moment:
    """One tick as it is to be shown: `picture` u8 (H, W, 3) RGB, None where none was asked for, and with it
    `playback` i16 (1920,), mono at 48 kHz.

    `speaks`: whether any of the sound was pushed; it is silence where not. `ends`: an utterance is over with this tick.
    """

    tick: int
    picture: ByteArray | None
    playback: IntArray
    speaks: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class _Heard:
    """Sound of a tick that the engines have and nobody heard yet."""

    playback: IntArray
    speaks: bool
    ends: bool


@dataclass(slots=True)
class _Utterance:
    """Sound f32 at 48 kHz that is still to be spoken."""

    sound: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    resampler: tuple[int, av.AudioResampler] | None = None  # with the rate it was made for
    begun: bool = False
    complete: bool = False

    def push(self, sound: FloatArray, rate: int) -> None:
        if self.resampler is not None and self.resampler[0] != rate:
            self._flush()
        if rate != PLAYBACK_RATE:
            if self.resampler is None:
                self.resampler = rate, av.AudioResampler(format="fltp", layout="mono", rate=PLAYBACK_RATE)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound[None], np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = rate
            sound = _joined(self.resampler[1].resample(frame))
        self.sound = np.concatenate([self.sound, sound])

    def complete_it(self) -> None:
        self._flush()
        self.complete = True

    @property
    def ready(self) -> bool:
        """Whether a tick of it can be spoken without a hole soon after."""
        return self.complete or len(self.sound) >= (PLAYBACK_SAMPLES if self.begun else LEAD)

    def take(self) -> FloatArray:
        part, self.sound, self.begun = self.sound[:PLAYBACK_SAMPLES], self.sound[PLAYBACK_SAMPLES:], True
        return np.pad(part, (0, PLAYBACK_SAMPLES - len(part)))

    def _flush(self) -> None:
        if self.resampler is not None:
            self.sound = np.concatenate([self.sound, _joined(self.resampler[1].resample(None))])
            self.resampler = None


class Performance:
    """`next` is to be called 25 times a second, from one thread at a time, and takes what the engines take; the other
    methods return at once and may be called from anywhere.

    Sound is heard as many ticks after it was pushed as the profile looks ahead; between utterances the face is alive
    and silent. The same seed, controls and sound give the same pictures.
    """

    def __init__(self, talker: Talker, identity: Identity, controls: Controls = DEFAULT, seed: int = 0) -> None:
        """Raises ControlError when the profile lacks something that `controls` ask for."""
        self._talker = talker
        self._talk = talker.begin(identity, seed, controls)
        self._staged = talker.renderer.staged(identity, controls.view, controls.background)
        self.size = self._staged.size
        self._decimator = Decimator()
        self._motions: deque[MotionTick] = deque()
        self._lock = threading.Lock()  # of what is below
        self._utterances: deque[_Utterance] = deque()
        self._heard: deque[_Heard] = deque()
        self._hush = False  # before the next tick

    def push(self, sound: FloatArray, rate: int) -> None:
        """Add sound f32 (samples,), mono, at `rate` Hz to the utterance, and begin one where none is."""
        with self._lock:
            if not self._utterances or self._utterances[-1].complete:
                self._utterances.append(_Utterance())
            self._utterances[-1].push(sound, rate)

    def end(self) -> None:
        """The utterance is complete; without one this means nothing."""
        with self._lock:
            if self._utterances and not self._utterances[-1].complete:
                self._utterances[-1].complete_it()

    def clear(self) -> None:
        """Be silent from the next tick on, and let the mouth close; no `ends` comes for what was cut."""
        with self._lock:
            self._utterances.clear()
            self._heard = deque(_Heard(SILENCE, speaks=False, ends=False) for _ in self._heard)
            self._hush = True

    @property
    def waiting(self) -> float:
        """Seconds of sound that are pushed and that the engines have not taken."""
        with self._lock:
            return sum(len(utterance.sound) for utterance in self._utterances) / PLAYBACK_RATE

    @property
    def finished(self) -> bool:
        """Whether nothing that was pushed is still to be shown."""
        with self._lock:
            return not self._utterances and not any(heard.speaks or heard.ends for heard in self._heard)

    def next(self, *, render: bool = True) -> Moment:
        """The next tick; without `render` it has no picture and costs little."""
        with self._lock:
            hush, self._hush = self._hush, False
        if hush:
            self._talker.hush(self._talk)
        while not self._motions:
            self._motions.extend(self._talker.listen(self._talk, self._decimator.run(self._take())))
        motion = self._motions.popleft()
        with self._lock:
            heard = self._heard.popleft()
        picture = self._staged(motion.motion) if render else None
        return Moment(motion.tick, picture, heard.playback, heard.speaks, heard.ends)

    def _take(self) -> FloatArray:
        """Sound f32 (1920,) of the next tick."""
        with self._lock:
            if not self._utterances or not self._utterances[0].ready:
                self._heard.append(_Heard(SILENCE, speaks=False, ends=False))
                return np.zeros(PLAYBACK_SAMPLES, np.float32)
            first = self._utterances[0]
            speaks = len(first.sound) > 0
            sound = first.take()
            ends = first.complete and not len(first.sound)
            if ends:
                self._utterances.popleft()
            playback = np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16)
            self._heard.append(_Heard(playback, speaks, ends))
            return sound


def open_performance(photo: bytes, controls: Controls = DEFAULT, seed: int = 0) -> Performance:
    """Some seconds of work: open the engines, find the face on a photo, and go until every tick takes as long as it
    will. Raises PortraitError or ControlError.
    """
    cv2.setNumThreads(1)  # the engines have a thread of their own
    talker = open_talker()
    talker.warm()
    performance = Performance(talker, enrolled(talker, photo), controls, seed)
    for _ in range(WARM_TICKS):
        performance.next()
    return performance


def _joined(frames: list[av.AudioFrame]) -> FloatArray:
    return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray()[0] for frame in frames)])
