"""Sound in, MP4 out."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from engines.media import load_speech, video_file
from engines.types import KDTalkerError, SpeechError


def write_wav(path: Path, seconds: float, rate: int = 16000, channels: int = 1) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    tone = np.repeat((np.sin(2 * np.pi * 440 * time) * 12000).astype("<i2")[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    return path


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 1), (44100, 2), (48000, 2)])
def test_any_rate_becomes_the_two_of_the_pipeline(tmp_path: Path, rate: int, channels: int) -> None:
    speech = load_speech(write_wav(tmp_path / "tone.wav", 1.0, rate, channels))
    assert abs(len(speech.pcm) - 16000) <= 32
    assert abs(len(speech.playback) - 48000) <= 96
    middle = np.abs(np.fft.rfft(speech.pcm[2000:10000]))
    assert np.argmax(middle) == 220  # 440 Hz at 2 Hz a bin
    assert 0.3 < np.abs(speech.pcm).max() < 0.45


def test_a_fraction_of_a_frame_counts_as_one(tmp_path: Path) -> None:
    assert load_speech(write_wav(tmp_path / "tone.wav", 1.01)).frames == 26


def test_what_is_no_sound_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match="There is no file"):
        load_speech(tmp_path / "nowhere.wav")
    (tmp_path / "text.wav").write_text("not a sound at all")
    with pytest.raises(SpeechError, match="cannot be read as sound"):
        load_speech(tmp_path / "text.wav")
    with pytest.raises(SpeechError, match="40 ms are needed"):
        load_speech(write_wav(tmp_path / "short.wav", 0.02))
    with pytest.raises(SpeechError, match="cannot be read as sound"):
        load_speech(tmp_path)


def test_the_file_holds_h264_and_aac_of_the_same_length(tmp_path: Path) -> None:
    speech = load_speech(write_wav(tmp_path / "tone.wav", 1.37))
    out = tmp_path / "out.mp4"
    with video_file(out, speech.playback) as sink:
        for first in range(0, speech.frames, 8):
            count = min(8, speech.frames - first)
            sink.write(np.full((count, 512, 512, 3), 10 * first % 255, np.uint8))
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec.name, audio.codec.name) == ("h264", "aac")
        assert video.average_rate == 25
        assert "AI avatar" in container.metadata["comment"]
        assert abs(float(video.duration * video.time_base) - 1.37) <= 0.04
        assert abs(float(audio.duration * audio.time_base) - 1.37) <= 0.04
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == speech.frames
    assert list(tmp_path.glob(".*partial")) == []


def test_nothing_is_left_behind_when_rendering_fails(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with video_file(tmp_path / "out.mp4", np.zeros(48000, np.int16)) as sink:
            sink.write(np.zeros((1, 512, 512, 3), np.uint8))
            raise RuntimeError("renderer failed")

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(KDTalkerError, match="cannot be written"),
        video_file(tmp_path / "missing" / "out.mp4", np.zeros(48000, np.int16)),
    ):
        pass
