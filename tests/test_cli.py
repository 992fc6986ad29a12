"""The command line: help, unknown words, and one video from photo and speech."""

import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

import kdtalker

REPOSITORY = Path(__file__).resolve().parent.parent
AVATARS = REPOSITORY / "engines" / "avatars"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTALKER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def spoken(tmp_path: Path, speak: Callable[[str], np.ndarray]) -> Path:
    """A sentence, then silence."""
    sound = np.concatenate([speak("Maybe my mom will bring a big apple pie."), np.zeros(48000, np.int16)])
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes(sound.astype("<i2").tobytes())
    return path


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert kdtalker.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in kdtalker.COMMANDS)


@pytest.mark.parametrize("name", sorted(kdtalker.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        kdtalker.main([name, "--help"])
    assert leaving.value.code == 0
    assert f"kdtalker {name}" in capsys.readouterr().out


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert kdtalker.main(["sing"]) == 2
    complaint = capsys.readouterr().err
    assert "no command 'sing'" in complaint
    assert "render" in complaint


def test_render_writes_a_video_as_long_as_the_speech(tmp_path: Path, spoken: Path) -> None:
    out = tmp_path / "out.mp4"
    assert kdtalker.main(["render", str(AVATARS / "astronaut.jpg"), str(spoken), "-o", str(out)]) == 0
    with wave.open(str(spoken)) as file:
        seconds = file.getnframes() / file.getframerate()
    with av.open(str(out)) as container:
        for stream in (*container.streams.video, *container.streams.audio):
            assert abs(float(stream.duration * stream.time_base) - seconds) <= 0.04
    mouth = frames_of(out)[:, 256:384, 160:352].astype(np.int16)
    change = np.abs(np.diff(mouth, axis=0)).mean((1, 2))
    talking, silent = change[10:-40], change[-12:]
    assert np.mean(talking) > 2 * np.mean(silent), "the mouth moves with the speech and rests after it"


def test_a_seed_gives_the_same_video_again(tmp_path: Path, spoken: Path) -> None:
    for name in ("one", "two"):
        arguments = ["render", str(AVATARS / "iris.png"), str(spoken), "-o", str(tmp_path / f"{name}.mp4")]
        assert kdtalker.main([*arguments, "--seed", "5"]) == 0
    np.testing.assert_array_equal(frames_of(tmp_path / "one.mp4"), frames_of(tmp_path / "two.mp4"))


def test_bad_input_ends_with_one_sentence(tmp_path: Path, spoken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    photo = str(AVATARS / "iris.png")
    for arguments in (
        [str(tmp_path / "photo.jpg"), str(spoken)],
        [str(tmp_path / "nowhere.jpg"), str(spoken)],
        [photo, str(tmp_path / "nowhere.wav")],
        [photo, str(tmp_path / "photo.jpg")],
    ):
        assert kdtalker.main(["render", *arguments, "-o", str(tmp_path / "out.mp4")]) == 1
        complaint = capsys.readouterr().err.strip().splitlines()[-1]
        assert complaint.startswith("kdtalker render: ")
        assert "Traceback" not in complaint
    assert not (tmp_path / "out.mp4").exists()


def test_prepare_says_that_a_photo_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert kdtalker.main(["prepare", str(AVATARS / "iris.png")]) == 0
    assert "is ready" in capsys.readouterr().out.replace("\n", " ")


def test_the_embedded_profile_needs_no_torch(tmp_path: Path, spoken: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import kdtalker; "
        f"sys.exit(kdtalker.main(['render', {str(AVATARS / 'iris.png')!r}, {str(spoken)!r}, "
        f"'-o', {str(tmp_path / 'out.mp4')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 10_000


@pytest.mark.xdist_group("calls")  # it would join a cluster that other tests have
def test_a_cluster_without_ray_or_without_machines_says_what_to_do(tmp_path: Path) -> None:
    told = [sys.executable, "-m", "kdtalker", "serve", "--cluster", "auto"]
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path), "RAY_ADDRESS": ""}
    done = subprocess.run(
        told, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtalker")]
    assert "pip install '.[cluster]'" in line or "ray start --head" in line
    assert "Traceback" not in done.stderr
