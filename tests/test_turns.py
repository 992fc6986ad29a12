"""Whose turn it is: when a voice begins one, what does not, when it ends; and what of it is the avatar's own echo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.media import load_speech
from engines.types import SPEECH_RATE, SPEECH_SAMPLES
from server.echo import HEARD, PLAYED, EchoCheck, explained
from server.turns import DOUBT, Heard, TurnTaking

VOICES = ("en_female_address", "en_male_address", "es_speech", "fr_speech", "zh_news")


@pytest.fixture(scope="module")
def voices(data: Path) -> dict[str, np.ndarray]:
    """Recorded voices f32 (samples,) at 16 kHz, each from its first sound on and equally loud."""
    loaded = {}
    for name in VOICES:
        pcm = load_speech(data / "speech" / f"{name}.flac").pcm
        pcm = pcm[np.flatnonzero(np.abs(pcm) > 0.1 * np.abs(pcm).max())[0] :]
        loaded[name] = np.asarray(0.06 * pcm / np.sqrt(np.mean(pcm**2)), np.float32)
    return loaded


def heard(turns: TurnTaking, sound: np.ndarray) -> list[tuple[int, Heard]]:
    """What happens, by the tick in which it does."""
    happened = []
    for tick in range(len(sound) // SPEECH_SAMPLES):
        pcm = np.asarray(sound[tick * SPEECH_SAMPLES : (tick + 1) * SPEECH_SAMPLES], np.float32)
        event = turns.hear(pcm, turns.voiced(pcm))
        if event is not None:
            happened.append((tick, event))
    return happened


def silence(seconds: float, noise: float = 0.0005) -> np.ndarray:
    return np.random.default_rng(1).normal(0, noise, round(seconds * SPEECH_RATE))


def test_a_voice_is_suspected_at_once_confirmed_soon_and_over_after_a_pause(voices: dict[str, np.ndarray]) -> None:
    for name, voice in voices.items():
        turns = TurnTaking(pause=0.7, longest=30)
        happened = heard(turns, np.concatenate([silence(2), voice[:SPEECH_RATE], silence(3)]))
        kinds = [kind for _, kind in happened]
        assert kinds == [Heard.SUSPECTED, Heard.BEGUN, Heard.ENDED], name
        assert 50 <= happened[0][0] < 50 + 4, "within 160 ms"
        assert happened[1][0] <= 50 + 12
        assert turns.turn is not None
        assert 1.0 < len(turns.turn.pcm) / SPEECH_RATE < 2.6, "all of it, and a little before and after"
        assert not turns.turn.cut
        assert not turns.speaking


def test_noise_and_knocks_take_no_turn(voices: dict[str, np.ndarray]) -> None:
    knock = np.zeros(SPEECH_RATE)
    knock[:480] = 0.5 * np.random.default_rng(2).normal(size=480)
    hum = 0.02 * np.sin(2 * np.pi * 100 * np.arange(4 * SPEECH_RATE) / SPEECH_RATE)
    turns = TurnTaking(pause=0.7, longest=30)
    happened = heard(turns, np.concatenate([silence(3, 0.01), np.tile(knock, 3), silence(2), 0.1 * hum]))
    assert Heard.BEGUN not in [kind for _, kind in happened]
    turns = TurnTaking(pause=0.7, longest=30)
    short = voices["en_male_address"][: SPEECH_RATE // 8]
    happened = heard(turns, np.concatenate([silence(2), short, silence(2)]))
    assert [kind for _, kind in happened] in ([], [Heard.SUSPECTED, Heard.WITHDRAWN])
    if happened:
        assert happened[1][0] - happened[0][0] == DOUBT


def test_who_never_stops_is_cut_and_begins_no_other_turn_before_a_pause(voices: dict[str, np.ndarray]) -> None:
    turns = TurnTaking(pause=0.7, longest=3)
    voice = np.tile(voices["zh_news"][: 4 * SPEECH_RATE], 3)
    happened = heard(turns, np.concatenate([silence(1), voice]))
    assert [kind for _, kind in happened] == [Heard.SUSPECTED, Heard.BEGUN, Heard.ENDED]
    assert turns.turn is not None
    assert turns.turn.cut
    assert len(turns.turn.pcm) == pytest.approx(3 * SPEECH_RATE, abs=0.5 * SPEECH_RATE)
    turns.listen_again()
    assert Heard.BEGUN in [kind for _, kind in heard(turns, voice[: 2 * SPEECH_RATE])]


def echo_of(sound: np.ndarray, seconds: float, level: float) -> np.ndarray:
    """As a loudspeaker and a small room give it back."""
    chance = np.random.default_rng(3)
    room = chance.normal(0, 1, 3200) * np.exp(-6.9 * np.arange(3200) / 3200)
    room *= 0.5 / np.sqrt((room**2).sum())
    room[0] += 1
    late = np.concatenate([np.zeros(round(seconds * SPEECH_RATE)), sound])[: len(sound)]
    return np.asarray(level * np.convolve(late, room)[: len(sound)], np.float32)


def test_what_was_played_explains_its_echo_and_no_other_voice(voices: dict[str, np.ndarray]) -> None:
    played = voices["en_male_address"][: 2 * PLAYED]
    again = echo_of(played, 0.2, 0.3)
    place = PLAYED + 4000
    lately, echo = played[place - PLAYED : place], again[place - HEARD : place]
    other = voices["fr_speech"][place - HEARD : place]
    assert explained(echo, lately) > 0.7
    assert explained(other, lately) < 0.4
    assert explained(np.zeros(HEARD, np.float32), lately) == 0


def interrupted(avatar: np.ndarray, microphone: np.ndarray) -> list[Heard]:
    """What turns make of a microphone while an avatar speaks."""
    turns, echo, happened = TurnTaking(0.7, 30), EchoCheck(), []
    for at in range(0, min(len(avatar), len(microphone)) - SPEECH_SAMPLES, SPEECH_SAMPLES):
        pcm = np.asarray(microphone[at : at + SPEECH_SAMPLES], np.float32)
        voiced = turns.voiced(pcm)
        if echo.explains(pcm, any(voiced)):
            voiced = [False] * len(voiced)
        event = turns.hear(pcm, voiced)
        if event is not None:
            happened.append(event)
        echo.played(np.asarray(avatar[at : at + SPEECH_SAMPLES], np.float32))
    return happened


def test_an_avatar_does_not_interrupt_itself_but_others_do(voices: dict[str, np.ndarray]) -> None:
    for name, other in (("en_male_address", "es_speech"), ("fr_speech", "en_female_address")):
        avatar = voices[name][: 5 * SPEECH_RATE]
        microphone = echo_of(avatar, 0.25, 0.25) + silence(5)[: len(avatar)]
        assert Heard.BEGUN not in interrupted(avatar, microphone), name
        caller = voices[other][:SPEECH_RATE]
        microphone[2 * SPEECH_RATE :][: len(caller)] += caller
        assert Heard.BEGUN in interrupted(avatar, microphone), name
        assert Heard.BEGUN in interrupted(avatar * 0, caller), "nothing is played"


def bent(sound: np.ndarray, seconds: float) -> np.ndarray:
    """On a line whose buffer corrects its delay: stretched by 0.47 %, and now and then a pitch period is left out."""
    time = np.arange(len(sound), dtype=float)
    delay = seconds * SPEECH_RATE + 0.0047 * time - 0.0098 * SPEECH_RATE * np.floor(time / (0.16 * SPEECH_RATE))
    return np.asarray(0.25 * np.interp(time - delay, time, sound, left=0), np.float32)


def test_echo_on_a_line_that_bends_it_is_echo_still(voices: dict[str, np.ndarray]) -> None:
    suspected = 0
    for voice in voices.values():
        avatar = voice[: 5 * SPEECH_RATE]
        happened = interrupted(avatar, bent(avatar, 0.6) + silence(5)[: len(avatar)])
        assert Heard.BEGUN not in happened
        suspected += happened.count(Heard.SUSPECTED)
    assert suspected <= 2, "hardly ever does an avatar falter"
