"""Sound that another program pushes to be said (mode push): as fast as it comes, cut by the call's clock."""

from __future__ import annotations

import numpy as np

from engines.media import Speech
from engines.types import PLAYBACK_SAMPLES, TICK_SECONDS, FloatArray
from server.sound import Decimator
from server.spoken import Piece, Spoken, Utterance

CUSHION = 3  # ticks that must be there before it begins, so that an uneven line leaves no holes
DRY = 12  # ticks without any after which it is taken to be over


class PushedSpeech:
    """A segment of sound is one utterance; `end` or a pause ends it. Used on the event loop."""

    def __init__(self, spoken: Spoken) -> None:
        self._spoken = spoken
        self._utterance: Utterance | None = None
        self._decimator = Decimator()
        self._rest: FloatArray = np.zeros(0, np.float32)
        self._dry = 0
        self._refused = False  # what comes of a segment that was stopped is left out

    def push(self, sound: FloatArray) -> None:
        """Add sound f32 (samples,) at 48 kHz; raises TooMuchError."""
        self._dry = 0
        if self._refused or not len(sound):
            return
        if self._utterance is None or self._utterance.stopped:
            self._utterance = self._spoken.add(cushion=CUSHION, text=False)
            self._decimator, self._rest = Decimator(), np.zeros(0, np.float32)
        joined = np.concatenate([self._rest, sound])
        whole = len(joined) - len(joined) % PLAYBACK_SAMPLES
        self._spoken.require_room(whole / PLAYBACK_SAMPLES * TICK_SECONDS)
        self._rest = joined[whole:]
        self._add(joined[:whole])

    def end(self) -> None:
        """The segment is whole; what comes from now on is the next one's."""
        self._refused = False
        utterance, self._utterance = self._utterance, None
        if utterance is not None and not utterance.stopped:
            if len(self._rest):
                self._utterance = utterance
                self._add(np.pad(self._rest, (0, PLAYBACK_SAMPLES - len(self._rest))))
                self._utterance = None
            utterance.more = False

    def stop(self) -> None:
        """The segment is not to be said any more."""
        self._refused = self._utterance is not None
        self._utterance = None

    def tick(self) -> None:
        """A tick has passed; where nothing came for long, the segment is whole."""
        if self._utterance is not None or self._refused:
            self._dry += 1
            if self._dry > DRY and (self._utterance is None or self._utterance.seconds == 0):
                self.end()

    def _add(self, sound: FloatArray) -> None:
        if len(sound) and self._utterance is not None:
            pcm = self._decimator.run(sound)
            playback = np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)
            self._utterance.pieces.append(Piece("", Speech(pcm, playback)))
