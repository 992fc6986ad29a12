"""The microphone's playout buffer, fed by a simulated network whose time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from server.playout import Playout
from server.sound import Concealer, Decimator, best_splice, splice, stretch

RATE = 48_000
PACKET = 960
TICK = 1920
TRAVEL = 0.05


def voice(seconds: float) -> np.ndarray:
    """Harmonics of a moving pitch under a syllable envelope, f32, as spiky as a voice is."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.15 * buzz * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@dataclass(frozen=True)
class Heard:
    """What came out: sound f32, and the delay in force after each tick (seconds)."""

    playout: Playout
    sound: np.ndarray
    delays: np.ndarray

    def delay_at(self, second: float) -> float:
        return float(self.delays[int(second * 25)])


def run(
    sound: np.ndarray,
    lost: Callable[[float], bool] = lambda time: False,
    jitter: Callable[[float], float] = lambda time: 0.0,
    fast: float = 0.0,
    phase: float = 0.003,
) -> Heard:
    """Send `sound` in 20 ms packets and take ticks; `fast`: how much faster the sender's clock runs."""
    packets: list[tuple[float, int]] = []
    for number in range(len(sound) // PACKET):
        time = (number + 1) * 0.02 / (1 + fast)
        if not lost(time):
            earliest = packets[-1][0] if packets else 0.0  # what overtook is dropped before this point
            packets.append((max(earliest, time + TRAVEL + jitter(time)), number))
    playout = Playout()
    taken, delays = [], []
    waiting = iter(packets)
    following = next(waiting, None)
    for tick in range(len(sound) // TICK):
        now = 0.04 * (tick + 1) + phase
        while following is not None and following[0] <= now:
            arrival, number = following
            playout.put(number * PACKET, sound[number * PACKET : (number + 1) * PACKET], arrival)
            following = next(waiting, None)
        taken.append(playout.take(now).sound)
        delays.append(playout.delay)
    return Heard(playout, np.concatenate(taken), np.array(delays))


def vowel(seconds: float) -> np.ndarray:
    """Three harmonics of a swaying pitch, f32: nothing above 600 Hz, so that every click stands out."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(180 + 10 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    return np.asarray(0.2 * (np.sin(phase) + np.sin(2 * phase) / 2 + np.sin(3 * phase) / 4), np.float32)


def click(sound: np.ndarray) -> float:
    """The loudest moment above 4 kHz against the loudest of all, in dB; the ends of the sound are left out."""
    at = np.arange(-64, 65)
    high = (at == 0) - np.sinc(at / 6) / 6 * np.kaiser(len(at), 6.0)
    inner = slice(RATE, -RATE // 2)
    return float(20 * np.log10(np.abs(np.convolve(sound, high, "same"))[inner].max() / np.abs(sound[inner]).max()))


def largest_step(sound: np.ndarray) -> float:
    return float(np.abs(np.diff(sound)).max())


def between(first: float, last: float, amount: Callable[[], float]) -> Callable[[float], float]:
    return lambda time: amount() if first < time < last else 0.0


@pytest.mark.parametrize("after", [0.003, 0.005, 0.011, 0.0199])
def test_a_clean_line_costs_the_time_from_packet_to_cut_and_changes_no_sample(after: float) -> None:
    sound = voice(8)
    heard = run(sound, phase=TRAVEL % 0.02 + after)
    assert heard.delay_at(7.9) == pytest.approx(after, abs=1e-4)
    behind = int(np.argmax(np.correlate(heard.sound[RATE : 2 * RATE], sound[RATE : RATE + 9600], "valid")))
    assert np.array_equal(heard.sound[2 * RATE :], sound[2 * RATE - behind : len(sound) - behind])
    assert set(heard.playout.counts) <= {"concealed"}, "nothing but what lay before the first packet"


def test_the_best_cut_is_just_after_a_packet() -> None:
    playout, sound = Playout(), voice(1)
    for number, late in enumerate((0.0, 0.004, 0.001)):
        playout.put(number * PACKET, sound[:PACKET], 7 + 0.02 * number + late)
    assert 7.044 < playout.best_cut() < 7.064


@pytest.mark.parametrize("length", [480, 960, 1920, 2880])
def test_packets_of_every_length_are_played_whole(length: int) -> None:
    playout, sound = Playout(), voice(6)
    sent, taken = 0, []
    for tick in range(len(sound) // TICK):
        now = 0.04 * (tick + 1) + 0.004
        while (sent + length) / RATE + 0.001 <= now:
            playout.put(sent, sound[sent : sent + length], (sent + length) / RATE + 0.001)
            sent += length
        taken.append(playout.take(now).sound)
    heard = np.concatenate(taken)[2 * RATE :]
    behind = int(np.argmax(np.correlate(sound, heard[:9600], "valid")))
    assert np.array_equal(heard, sound[behind : behind + len(heard)])


def test_before_the_first_packet_there_is_silence() -> None:
    taken = Playout().take(1.0)
    assert taken.arrival is None
    assert not taken.sound.any()


def test_lost_packets_are_concealed_without_a_click() -> None:
    random = np.random.default_rng(1)
    sound = voice(20)
    heard = run(sound, lost=lambda time: 5 < time < 10 and random.random() < 0.2)
    lost = 0.2 * 5 * RATE
    assert 0.5 * lost < heard.playout.counts["concealed"] < 2 * lost
    assert largest_step(heard.sound) < 1.3 * largest_step(sound)
    assert heard.delay_at(15) < heard.delay_at(4.9) + 0.020


@pytest.mark.parametrize("made", [voice, vowel])
@pytest.mark.parametrize("seed", range(3))
def test_at_20_percent_loss_holes_do_not_click_and_the_delay_comes_back(
    made: Callable[[float], np.ndarray], seed: int
) -> None:
    random = np.random.default_rng(seed)
    gone: list[float] = []

    def lost(time: float) -> bool:
        if not (3 < time < 8 and random.random() < 0.2):
            return False
        gone.append(time)
        return True

    sound = made(15)
    heard = run(sound, lost=lost)
    holes = sound.copy()
    for time in gone:
        holes[round(time * RATE) - PACKET : round(time * RATE)] = 0
    assert click(sound) < -80
    assert click(holes) > -15, "that is how a click measures"
    assert click(heard.sound) < -35
    assert heard.delay_at(13) < heard.delay_at(2.9) + 0.020, "5 s after the loss"


def test_the_delay_grows_with_jitter_and_comes_back() -> None:
    random = np.random.default_rng(2)
    sound = voice(20)
    heard = run(sound, jitter=between(5, 10, lambda: 0.1 * random.random()))
    assert heard.delay_at(9.5) > 0.09
    assert heard.delay_at(15) < 0.045
    settled = heard.sound[7 * RATE : 10 * RATE]
    assert (np.abs(settled).reshape(-1, 480).max(axis=1) == 0).mean() < 0.02, "no holes once the delay has grown"
    assert largest_step(heard.sound) < 1.3 * largest_step(sound)


def test_the_delay_is_bounded() -> None:
    random = np.random.default_rng(3)
    heard = run(voice(12), jitter=between(3, 9, lambda: 0.8 * random.random()))
    assert heard.delays.max() < 0.36  # the limit and one tick
    assert heard.playout.counts["late"] > 0


def test_what_came_in_one_burst_is_all_played() -> None:
    sound = voice(12)
    heard = run(sound, jitter=lambda time: max(0.0, 5.2 - time) if time > 5 else 0.0)
    assert heard.playout.counts["late"] == 0
    assert heard.playout.counts["waited"] > 0.1 * RATE
    assert heard.delay_at(11) < 0.045


@pytest.mark.parametrize("made", [voice, vowel])
@pytest.mark.parametrize("fast", [0.001, -0.001, 0.004])
def test_a_foreign_clock_is_absorbed(made: Callable[[float], np.ndarray], fast: float) -> None:
    sound = made(30)
    heard = run(sound, fast=fast)
    assert heard.playout.counts["cut"] + heard.playout.counts["filled"] > 0
    assert click(heard.sound) < -60
    assert heard.delays[25:-10].max() < 0.06  # a fast sender is done before the last ticks
    later = heard.sound[3 * RATE : -RATE // 2]
    assert (np.abs(later).reshape(-1, 480).max(axis=1) == 0).sum() == 0
    assert largest_step(later) < 1.3 * largest_step(sound)


def test_a_pause_is_silent_and_what_follows_is_not_late_for_long() -> None:
    sound = voice(14)
    heard = run(sound, lost=lambda time: 4 < time < 7)
    assert not heard.sound[round(4.5 * RATE) : round(6.9 * RATE)].any()
    assert heard.delay_at(9) < 0.045
    assert largest_step(heard.sound) < 1.3 * largest_step(sound)


def test_a_timeline_that_jumps_starts_anew() -> None:
    playout, sound = Playout(), voice(4)
    for number in range(100):
        base = 0 if number < 50 else 10_000_000
        playout.put(base + number * PACKET, sound[number * PACKET : (number + 1) * PACKET], number * 0.02)
        if number % 2:
            playout.take(number * 0.02)
    assert playout.counts["restarts"] == 1
    assert playout.delay < 0.03


def test_the_arrival_of_a_tick_is_that_of_its_first_sample() -> None:
    playout, sound = Playout(), voice(2)
    for number in range(50):
        playout.put(number * PACKET, sound[number * PACKET : (number + 1) * PACKET], 0.02 * number)
        if number % 2:
            taken = playout.take(0.02 * number)
    assert taken.arrival is not None
    assert 0.02 * number - taken.arrival == pytest.approx(0.04)


def blocks(sound: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (sound[start : start + size] for start in range(0, len(sound), size))


def test_decimation_keeps_speech_and_removes_what_would_fold_back() -> None:
    time = np.arange(RATE) / RATE

    def level(frequency: float) -> float:
        decimator = Decimator()
        tone = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        out = np.concatenate([decimator.run(block) for block in blocks(tone, TICK)])
        assert out.shape == (16_000,)
        return float(np.sqrt(2 * np.mean(out[1000:] ** 2)))

    assert level(300) == pytest.approx(1, abs=0.01)
    assert level(6500) == pytest.approx(1, abs=0.03)
    assert level(9500) < 0.002


def test_decimation_by_ticks_equals_decimation_at_once() -> None:
    sound = voice(1)
    whole, ticks = Decimator(), Decimator()
    assert np.array_equal(whole.run(sound), np.concatenate([ticks.run(block) for block in blocks(sound, TICK)]))


@pytest.mark.parametrize("length", [1911, 1929])
def test_stretching_keeps_a_tone(length: int) -> None:
    at = np.arange(length)
    stretched = stretch(np.sin(2 * np.pi * 1000 / RATE * at).astype(np.float32), TICK)
    expected = np.sin(2 * np.pi * 1000 / RATE * np.arange(TICK) * length / TICK)
    assert np.abs(stretched - expected)[2:-3].max() < 1e-4


def test_a_splice_is_a_pitch_period() -> None:
    tone = np.sin(2 * np.pi * 150 / RATE * np.arange(2 * TICK)).astype(np.float32)
    at, lag = best_splice(tone)
    assert lag % 320 <= 3 or lag % 320 >= 317
    shorter = splice(tone, at, at + lag)
    assert len(shorter) == len(tone) - lag
    assert largest_step(shorter) < 1.05 * largest_step(tone)


def test_a_long_hole_fades_to_silence() -> None:
    concealer = Concealer()
    concealer.run(voice(0.2), np.ones(9600, np.bool_))
    filled = concealer.silence(RATE // 4)
    assert np.abs(filled[: RATE // 100]).max() > 0.05
    assert np.abs(filled[RATE // 10 :]).max() < 1e-3
