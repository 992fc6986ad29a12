"""The log-mel front end: the published numbers, and streaming that equals them."""

import numpy as np
import pytest

from engines.audio import SILENCE, MelStream, MelWindow, log_mel, mel_windows
from tests.golden import golden

PUBLISHED = MelWindow(columns=16, reach=2120, published=True)
EMBEDDED = MelWindow(columns=20, reach=1280)


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    data = golden("audio")
    return data["pcm16"][: int(data["n_used"])].astype(np.float32) / 32768


def test_mel_matches_the_published_front_end(sound: np.ndarray) -> None:
    expected = golden("audio")["mel"]
    assert np.abs(log_mel(sound) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_windows_match_the_published_front_end(sound: np.ndarray) -> None:
    data = golden("audio")
    windows = mel_windows(log_mel(sound), PUBLISHED, len(sound) // 640)
    assert np.abs(windows[::4] - data["windows_every4"]).max() <= 4e-5
    np.testing.assert_allclose(windows.mean((1, 2)), data["windows_mean"].reshape(-1), atol=4e-5)


@pytest.mark.parametrize(("window", "before"), [(PUBLISHED, "column 0"), (EMBEDDED, "silence")])
def test_what_comes_before_the_sound(sound: np.ndarray, window: MelWindow, before: str) -> None:
    """A sound that begins loud is no steady one."""
    mel = log_mel(sound + 0.1)
    columns = max(0, -window.start(0))
    first = mel_windows(mel, window, 1)[0][:, :columns]
    np.testing.assert_array_equal(first, np.repeat(mel[:, :1], columns, 1) if before == "column 0" else SILENCE)
    assert columns > 0


def test_silence_is_the_floor() -> None:
    assert (log_mel(np.zeros(6400, np.float32)) == SILENCE).all()


@pytest.mark.parametrize("window", [PUBLISHED, EMBEDDED])
@pytest.mark.parametrize("chunk", [1, 160, 640, 4000])
def test_streaming_equals_the_whole_sound(sound: np.ndarray, window: MelWindow, chunk: int) -> None:
    sound = sound[: 640 * 12] if chunk == 1 else sound
    frames = len(sound) // 640
    stream = MelStream(window)
    ticks = [tick for at in range(0, len(sound), chunk) for tick in stream.push(sound[at : at + chunk])]
    ticks += stream.finish(frames)
    assert [tick.tick for tick in ticks] == list(range(frames))
    np.testing.assert_array_equal(
        np.stack([tick.window for tick in ticks]), mel_windows(log_mel(sound), window, frames)
    )


@pytest.mark.parametrize("window", [PUBLISHED, EMBEDDED])
def test_a_frame_leaves_as_soon_as_its_last_sample_is_there(sound: np.ndarray, window: MelWindow) -> None:
    for frame in (0, 1, 2, 7):
        stream = MelStream(window)
        needed = window.samples_needed(frame)
        assert all(tick.tick < frame for tick in stream.push(sound[: needed - 1]))
        assert stream.push(sound[needed - 1 : needed])[-1].tick == frame


def test_a_frame_depends_on_nothing_beyond_its_reach(sound: np.ndarray) -> None:
    frame = 10
    changed = sound.copy()
    changed[frame * 640 + EMBEDDED.reach :] = 0.5
    before, after = (mel_windows(log_mel(s), EMBEDDED, frame + 1)[frame] for s in (sound, changed))
    np.testing.assert_array_equal(before, after)
