"""What an avatar has to say: every sample once and in order, what is taken back, and what is reported of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.media import Speech
from engines.types import PLAYBACK_SAMPLES, SPEECH_SAMPLES, TICK_SECONDS
from server.outgoing import Leaving, Outgoing
from server.pushed import PushedSpeech
from server.sentences import LONGEST, Sentences, sentences
from server.spoken import Piece, Spoken, TooMuchError, Utterance, mute


def ramp(ticks: float) -> Speech:
    """Every sample is another."""
    samples = round(ticks * PLAYBACK_SAMPLES)
    playback = np.arange(1, samples + 1).astype(np.int16)
    return Speech(playback[::3].astype(np.float32), playback)


class Ear:
    """A call's clock and its line: what leaves, `hold` ticks after it was taken."""

    def __init__(self, hold: int = 3, longest: float = 100) -> None:
        self.told: list[dict[str, Any]] = []
        self.spoken = Spoken(longest, lambda kind, **members: self.told.append({"type": kind, **members}))
        self.line = Outgoing(hold * TICK_SECONDS + 0.03)
        self.heard: list[np.ndarray] = []
        self.tick = 0

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            taken = self.spoken.take(self.tick)
            silence = np.zeros(PLAYBACK_SAMPLES, np.int16)
            playback, utterance = silence if taken is None else taken[0].playback, None if taken is None else taken[1]
            if taken is not None:
                assert (len(taken[0].pcm), taken[0].tick) == (SPEECH_SAMPLES, self.tick)
            leaving = self.line.put(Leaving(self.tick, playback, None, utterance))
            if leaving is not None:
                self.heard.append(leaving.playback)
                if leaving.utterance is not None:
                    self.spoken.leave(leaving.utterance)
            self.spoken.settle()
            self.tick += 1

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["type"] == kind]

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate(self.heard)


def test_sound_waits_for_three_ticks_at_most_however_long_the_hop() -> None:
    silence = Leaving(0, np.zeros(PLAYBACK_SAMPLES, np.int16), None, None)
    for ahead, ticks in ((0.01, 0), (0.116, 2), (0.156, 3), (0.7, 3)):
        line = Outgoing(ahead)
        assert [line.put(silence) for _ in range(5)].count(None) == ticks


def test_every_sample_is_spoken_once_and_in_order() -> None:
    ear = Ear()
    ear.run(2)
    ear.spoken.play(ramp(2.5))
    ear.spoken.play(ramp(1))
    assert ear.spoken.stats() == {"seconds_left": 0.16, "waiting": 2}
    ear.run(10)
    said = ear.sound[np.flatnonzero(ear.sound)[0] :]
    assert np.array_equal(said[: 3 * PLAYBACK_SAMPLES], np.pad(ramp(2.5).playback, (0, PLAYBACK_SAMPLES // 2)))
    assert np.array_equal(said[3 * PLAYBACK_SAMPLES : 4 * PLAYBACK_SAMPLES], ramp(1).playback)
    assert [event["state"] for event in ear.told] == ["begun", "begun", "ended", "ended"]
    with pytest.raises(TooMuchError, match="100 s"):
        ear.spoken.play(ramp(2600))


def text(ear: Ear, *pieces: tuple[str, int, tuple[tuple[float, int], ...]], pending: tuple[str, ...] = ()) -> Utterance:
    utterance = ear.spoken.add()
    for words, ticks, marks in pieces:
        speech = Speech(np.ones(ticks * SPEECH_SAMPLES, np.float32), np.full(ticks * PLAYBACK_SAMPLES, 9000, np.int16))
        utterance.pieces.append(Piece(words, speech, marks))
    utterance.pending.extend(pending)
    utterance.more = False
    return utterance


def test_what_is_stopped_ends_softly_and_is_reported_to_the_word() -> None:
    ear = Ear()
    text(ear, ("First one.", 5, ()), ("Then more words.", 10, ((0.0, 0), (0.12, 5), (0.24, 10))), pending=("Never.",))
    text(ear, ("Not begun.", 5, ()))
    ear.run(3 + 5 + 4)  # what has left: the first piece, and four ticks of the second
    assert ear.line.hush()
    ear.spoken.take_back()
    ear.spoken.stop()
    ear.run(5)
    assert np.abs(np.diff(ear.sound.astype(int))).max() <= 9000
    assert np.abs(np.diff(ear.sound[np.flatnonzero(ear.sound)[0] :].astype(int))).max() < 30, "no click at its end"
    assert ear.sound[-1] == 0
    assert len(np.flatnonzero(ear.sound)) < 10 * PLAYBACK_SAMPLES, "what waited in the line is not heard"
    first, second = ear.events("spoken")
    assert (first["said"], first["unsaid"], first["interrupted"]) == ("First one. Then", "more words. Never.", True)
    assert (second["said"], second["unsaid"]) == ("", "Not begun.")
    assert [event["text"] for event in ear.events("subtitle")] == ["First one.", "Then more words."]
    assert ear.spoken.stats() is None


def test_a_sentence_that_no_voice_speaks_is_not_said() -> None:
    ear = Ear()
    utterance = text(ear, ("First one.", 3, ()), ("Last one.", 2, ()))
    utterance.pieces.insert(1, mute("\u2603."))
    ear.run(12)
    (told,) = ear.events("spoken")
    assert (told["said"], told["unsaid"], told["interrupted"]) == ("First one. Last one.", "\u2603.", False)
    assert [event["text"] for event in ear.events("subtitle")] == ["First one.", "Last one."]
    text(ear).pieces.append(mute("\u2603."))
    ear.run(1)
    assert ear.events("spoken")[-1] == {
        "type": "spoken",
        "id": 2,
        "said": "",
        "unsaid": "\u2603.",
        "interrupted": False,
    }
    assert not list(ear.spoken)


def test_what_is_taken_back_is_said_from_there() -> None:
    ear = Ear()
    ear.spoken.play(ramp(8))
    ear.run(6)
    assert ear.line.hush()
    ear.spoken.take_back()
    ear.run(12)
    again = np.flatnonzero(ear.sound == ramp(8).playback[3 * PLAYBACK_SAMPLES + 500])
    assert len(again) == 1, "after the fade it goes on where it was"
    assert ear.sound.max() == ramp(8).playback.max()
    assert [event["state"] for event in ear.told] == ["begun", "ended"]
    assert ear.told[-1]["seconds"] == 0.32


def test_pushed_sound_waits_for_a_cushion_and_ends_by_a_word_or_by_itself() -> None:
    ear = Ear(hold=0)
    pushed = PushedSpeech(ear.spoken)
    tone = np.full(PLAYBACK_SAMPLES, 0.5, np.float32)
    pushed.push(np.repeat(tone, 2)[: PLAYBACK_SAMPLES * 2])
    ear.run(3)
    assert not ear.told, "two ticks are too few to begin with"
    pushed.push(tone[:1000])
    pushed.push(np.tile(tone, 2)[: 2 * PLAYBACK_SAMPLES])
    ear.run(10)
    pushed.end()
    ear.run(2)
    assert [event["state"] for event in ear.told] == ["begun", "ended"]
    assert ear.told[-1]["seconds"] == 0.2, "the last part of a tick is said too"
    pushed.push(np.tile(tone, 5))
    for _ in range(30):
        ear.run(1)
        pushed.tick()
    assert [event["state"] for event in ear.told[2:]] == ["begun", "ended"], "silence ends it"
    pushed.push(np.tile(tone, 50))
    ear.run(5)
    pushed.stop()
    ear.spoken.stop()
    pushed.push(np.tile(tone, 50))
    ear.run(5)
    assert [event["state"] for event in ear.told[4:]] == ["begun", "stopped"], "the rest of it is left out"
    pushed.end()
    pushed.push(np.tile(tone, 5))
    ear.run(2)
    assert ear.told[-1]["state"] == "begun"
    with pytest.raises(TooMuchError):
        pushed.push(np.tile(tone, 2600))


def test_sentences_are_found_while_they_are_written() -> None:
    written = 'Hello there. "Is it 3.14?" **Yes!** No\n- one\n'
    reader = Sentences()
    found = [piece for letter in written for piece in reader.add(letter)]
    assert found == ["Hello there.", '"Is it 3.14?"', "Yes!", "No", "one"]
    assert reader.rest() == []
    assert sentences("一。二！three") == ["一。", "二！", "three"]
    assert sentences(" ... \n **") == []
    long = "word, " * 200
    assert " ".join(sentences(long)) == long.strip()
    assert max(map(len, sentences(long))) <= LONGEST
    assert [len(piece) for piece in sentences("x" * 700)] == [300, 300, 100]
