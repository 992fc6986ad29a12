"""What an avatar has to say: files, texts and pushed sound, one after another, cut by the call's clock.

A tick of sound is taken when it is cut, and has left when it is encoded, a few ticks later. What was taken and has not
left can be taken back, so that whoever interrupts hears less, and every report says what was heard.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.media import Speech
from engines.types import PLAYBACK_RATE, PLAYBACK_SAMPLES, SPEECH_RATE, SPEECH_SAMPLES, TICK_SECONDS, SpeechTick

RISE = 0.01  # seconds in which sound comes back that was taken back


class TooMuchError(Exception):
    """More is waiting than may; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence, a whole file or some pushed sound. `words`: see `server.voices.Sound`; none, none known.

    `mute`: no voice could speak it; it has no sound and is never said.
    """

    text: str
    speech: Speech
    words: tuple[tuple[float, int], ...] = ()
    mute: bool = False

    def split(self, ticks: int) -> tuple[str, str]:
        """Its text as far as it is said after so many ticks, and the rest; a word that is being said is not."""
        if self.mute:
            return "", self.text
        if ticks >= self.speech.frames:
            return self.text, ""
        begun = [place for second, place in self.words if second < ticks * TICK_SECONDS]
        at = begun[-1] if begun else 0
        if not self.words and self.text:
            at = self.text.rfind(" ", 0, 1 + len(self.text) * ticks // self.speech.frames) + 1
        return self.text[:at].strip(), self.text[at:].strip()


@dataclass(slots=True, eq=False)
class Utterance:
    """`pending`: sentences that no voice has spoken yet. `more`: whether pieces or sentences may still be added.

    `pieces` are those that have not left whole, the first of which began at tick `first` of the utterance.
    """

    id: int
    voice: str = ""
    pending: deque[str] = field(default_factory=deque)
    more: bool = False
    pieces: deque[Piece] = field(default_factory=deque)
    first: int = 0
    taken: int = 0
    left: int = 0
    cushion: int = 1  # ticks that must be there before it begins, or goes on where it ran dry
    dry: bool = True  # whether it waits for them
    begun: bool = False
    stopped: bool = False
    text: bool = True  # whether it has words
    said: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)  # of the pieces that have left

    @property
    def ticks(self) -> int:
        """Of sound that there is."""
        return self.first + sum(piece.speech.frames for piece in self.pieces)

    @property
    def whole(self) -> bool:
        """Whether all of its sound is there."""
        return not (self.more or self.pending)

    @property
    def seconds(self) -> float:
        """Of sound that are there and still to be taken."""
        return (self.ticks - self.taken) * TICK_SECONDS

    def at(self, tick: int) -> tuple[Piece, int]:
        """The piece that a tick is in, and its number there."""
        place = tick - self.first
        for piece in self.pieces:
            if place < piece.speech.frames:
                return piece, place
            place -= piece.speech.frames
        raise IndexError(tick)

    def split(self) -> tuple[str, str]:
        """What is said of it, and what is not."""
        said, unsaid = list(self.said), list(self.unsaid)
        place = self.left - self.first
        for piece in self.pieces:
            known, rest = piece.split(max(0, place))
            said.append(known)
            unsaid.append(rest)
            place -= piece.speech.frames
        return " ".join(filter(None, said)), " ".join(filter(None, [*unsaid, *self.pending]))


def mute(text: str) -> Piece:
    """A sentence that no voice could speak."""
    return Piece(text, Speech(np.zeros(0, np.float32), np.zeros(0, np.int16)), mute=True)


class Spoken:
    """The utterances of one call; used on the event loop. `tell(kind, ...)` hears when one begins and ends.

    Every sample is passed on, so the look-ahead of a frame is its utterance's own sound, and silence at its end.
    """

    def __init__(self, longest: float, tell: Callable[..., None]) -> None:
        self._longest, self._tell = longest, tell
        self._utterances: deque[Utterance] = deque()
        self._numbers = itertools.count(1)
        self._rising = False

    @property
    def seconds(self) -> float:
        """Of sound that are still to be spoken."""
        return sum(utterance.seconds for utterance in self._utterances)

    @property
    def current(self) -> Utterance | None:
        return self._utterances[0] if self._utterances else None

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    def add(self, voice: str = "", *, cushion: int = 1, text: bool = True) -> Utterance:
        """A new utterance, which is `more` until somebody says otherwise."""
        utterance = Utterance(self.number(), voice, more=True, cushion=cushion, text=text)
        self._utterances.append(utterance)
        return utterance

    def number(self) -> int:
        """Of the next thing that is said in this call, by whomever."""
        return next(self._numbers)

    def require_room(self, seconds: float) -> None:
        """Raise TooMuchError where no such sound may wait."""
        if self.seconds + seconds > self._longest:
            raise TooMuchError(f"At most {self._longest:.0f} s of sound may wait; try again when more of it is spoken.")

    def play(self, speech: Speech) -> Utterance:
        """Speak this when all before it is spoken; raises TooMuchError."""
        self.require_room(speech.frames * TICK_SECONDS)
        utterance = self.add(text=False)
        utterance.pieces.append(Piece("", speech))
        utterance.more = False
        return utterance

    def take(self, tick: int) -> tuple[SpeechTick, Utterance] | None:
        """The sound of a tick; None while there is nothing to speak."""
        utterance = next((each for each in self._utterances if not each.whole or each.taken < each.ticks), None)
        if utterance is None:
            return None
        there = utterance.ticks - utterance.taken
        utterance.dry |= there <= 0
        if there <= 0 or (utterance.dry and there < utterance.cushion and not utterance.whole):
            return None
        utterance.dry = False
        piece, at = utterance.at(utterance.taken)
        if not utterance.begun:
            utterance.begun = True
            known = {"seconds": round(utterance.ticks * TICK_SECONDS, 2)} if utterance.whole else {}
            self._tell("speech", state="begun", id=utterance.id, **known)
        if at == 0 and piece.text:
            self._tell("subtitle", who="avatar", text=piece.text, final=True, id=utterance.id)
        utterance.taken += 1
        pcm = piece.speech.pcm[at * SPEECH_SAMPLES : (at + 1) * SPEECH_SAMPLES]
        playback = piece.speech.playback[at * PLAYBACK_SAMPLES : (at + 1) * PLAYBACK_SAMPLES]
        pcm = np.pad(pcm, (0, SPEECH_SAMPLES - len(pcm)))
        playback = np.pad(playback, (0, PLAYBACK_SAMPLES - len(playback)))
        if self._rising:
            self._rising = False
            pcm = np.asarray(pcm * _rise(SPEECH_RATE, SPEECH_SAMPLES), np.float32)
            playback = np.asarray(playback * _rise(PLAYBACK_RATE, PLAYBACK_SAMPLES), np.int16)
        return SpeechTick(tick, pcm, playback), utterance

    def leave(self, utterance: Utterance) -> None:
        """The next tick of it has left."""
        if utterance.stopped:
            return
        utterance.left += 1
        while utterance.pieces and utterance.left >= utterance.first + utterance.pieces[0].speech.frames:
            piece = utterance.pieces.popleft()
            utterance.first += piece.speech.frames
            said, unsaid = piece.split(piece.speech.frames)
            utterance.said.append(said)
            utterance.unsaid.append(unsaid)

    def settle(self) -> None:
        """Let go of what is spoken to its end."""
        while self._utterances and self._utterances[0].whole and self._utterances[0].left == self._utterances[0].ticks:
            utterance = self._utterances.popleft()
            if utterance.begun:
                seconds = round(utterance.left * TICK_SECONDS, 2)
                self._tell("speech", state="ended", id=utterance.id, seconds=seconds, waiting=len(self._utterances))
            self._report(utterance, interrupted=False)

    def take_back(self) -> None:
        """What was taken and has not left is to be taken again."""
        for utterance in self._utterances:
            self._rising |= utterance.taken > utterance.left
            utterance.taken = utterance.left

    def stop(self) -> list[Utterance]:
        """Speak none of it any more; those that were waiting or spoken."""
        stopped, self._utterances = list(self._utterances), deque()
        for utterance in stopped:
            utterance.stopped, utterance.more = True, False
            if utterance.begun or not utterance.text:  # of a text the report says it
                seconds = round(utterance.left * TICK_SECONDS, 2)
                self._tell("speech", state="stopped", id=utterance.id, seconds=seconds)
            self._report(utterance, interrupted=True)
            utterance.pending.clear()
        self._rising = False
        return stopped

    def stats(self) -> dict[str, Any] | None:
        if not self._utterances:
            return None
        return {"seconds_left": round(self.seconds, 2), "waiting": len(self._utterances)}

    def _report(self, utterance: Utterance, *, interrupted: bool) -> None:
        if utterance.text:
            said, unsaid = utterance.split()
            self._tell("spoken", id=utterance.id, said=said, unsaid=unsaid, interrupted=interrupted)


def _rise(rate: int, samples: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """From 0 to 1 in `RISE`, then 1."""
    return np.clip(np.arange(samples) / (RISE * rate), 0, 1)
