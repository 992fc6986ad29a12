"""`kdtalker train --videos`: real films of a rendered face are tracked, checked, learned from and spoken with."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import kdtalker  # noqa: E402
from engines.face_mesh import face_model  # noqa: E402
from engines.media import load_speech, video_file  # noqa: E402
from engines.talkers import open_talker  # noqa: E402
from engines.types import FPS, SPEECH_SAMPLES, KDTalkerError, WeightsError  # noqa: E402
from training.bench import open_bench  # noqa: E402
from training.keypoints import WEIGHTS  # noqa: E402
from training.offset import Offset, in_step, kept_frames, offset_of  # noqa: E402
from training.own import split  # noqa: E402
from training.tracks import Clip, pack, unpack  # noqa: E402
from training.videos import Track, TrackCache, UnusableFilmError, films, pictures, track  # noqa: E402

SENTENCES = {
    "astronaut.jpg": "Maybe my mom will bring a big apple pie.",
    "iris.png": "Five happy boys jump over the fence.",
}
SMALL = ("--steps", "2", "--check-every", "1", "--frames", "60", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speak: Callable[[str], np.ndarray]) -> Path:
    """Two films of two people, rendered by the embedded profile."""
    made = tmp_path_factory.mktemp("films")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDTALKER_CACHE", str(tmp_path_factory.mktemp("rendering")))
        for avatar, sentence in SENTENCES.items():
            sound, name = speak(sentence), avatar.partition(".")[0]
            with wave.open(str(made / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 48000, 0, "NONE", ""))
                file.writeframes(sound.astype("<i2").tobytes())
            photo = str(files("engines") / "avatars" / avatar)
            arguments = [photo, str(made / f"{name}.wav"), "-o", str(made / f"{name}.mp4")]
            assert kdtalker.main(["render", *arguments]) == 0
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tracks(folder: Path, cache: Path) -> dict[str, Track]:
    return {path.stem: TrackCache(cache).track(path) for path in films(folder)}


def clip_of(made: Track, name: str = "film", person: str = "somebody") -> Clip:
    return Clip("clips", name, person, "train", made.mesh, made.sound)


def film(path: Path, frames: list[np.ndarray], playback: np.ndarray) -> Path:
    height, width = frames[0].shape[:2]
    with video_file(path, playback, (width, height)) as sink:
        for frame in frames:
            sink.write(frame[None])
    return path


@pytest.fixture(scope="module")
def frames(folder: Path) -> dict[str, list[np.ndarray]]:
    """The first pictures of both films, at half their size."""
    return {
        path.stem: [picture[::2, ::2] for _, picture in list(pictures(path))[: int(2.2 * FPS)]]
        for path in films(folder)
    }


def test_a_track_is_the_film_in_step_with_its_sound(folder: Path, tracks: dict[str, Track]) -> None:
    for name, made in tracks.items():
        spoken = load_speech(folder / f"{name}.wav")
        assert len(made.mesh) in (spoken.frames - 1, spoken.frames)
        assert len(made.sound) == SPEECH_SAMPLES * len(made.mesh)
        heard = made.sound[: len(spoken.pcm) - 640]
        assert np.corrcoef(heard, spoken.pcm[: len(heard)])[0, 1] > 0.95, "sound of the same moment"
        assert np.ptp(np.linalg.norm(made.mesh[:, 13] - made.mesh[:, 14], axis=-1)) > 2, "the mouth moves"


def test_what_was_tracked_is_not_tracked_again(folder: Path, cache: Path, tracks: dict[str, Track]) -> None:
    path = folder / "iris.mp4"
    kept = TrackCache(cache).base(path).with_suffix(".npz")
    written = kept.stat().st_mtime_ns
    shares: list[float] = []
    again = TrackCache(cache).track(path, shares.append)
    np.testing.assert_array_equal(again.mesh, tracks["iris"].mesh)
    assert kept.stat().st_mtime_ns == written
    assert shares == []


def test_packed_and_unpacked_is_the_same_to_a_thousandth_of_an_eye_distance(
    tmp_path: Path, tracks: dict[str, Track]
) -> None:
    made = tracks["iris"]
    pack(tmp_path / "clip", "clip", made.mesh, made.sound)
    mesh, sound = unpack(tmp_path / "clip")
    eyes = np.linalg.norm(made.mesh[0, 33] - made.mesh[0, 263])
    assert np.abs(mesh - made.mesh).max() < eyes / 1000
    np.testing.assert_allclose(sound, made.sound, atol=1 / 32767)


def test_late_and_early_sound_is_found_and_corrected(tracks: dict[str, Track]) -> None:
    bench, whole = open_bench(WEIGHTS), clip_of(tracks["astronaut"])
    for planted in (-6, 0, 5):
        picture, sound = (slice(max(0, shift), len(whole.mesh) - max(0, -shift)) for shift in (planted, -planted))
        samples = whole.sound[sound.start * SPEECH_SAMPLES : sound.stop * SPEECH_SAMPLES]
        clip = Clip("clips", "shifted", "somebody", "train", whole.mesh[picture], samples)
        found = offset_of(clip, bench)
        assert found.sure
        assert abs(found.frames - planted) <= 1
        corrected = in_step(clip, found)
        assert len(corrected.sound) == SPEECH_SAMPLES * len(corrected.mesh)
        assert abs(offset_of(corrected, bench).frames) <= 1


def test_frames_kept_are_those_both_have() -> None:
    assert kept_frames(100, Offset(5, 0.5, 0.3)) == (slice(0, 95), slice(5, 100))
    assert kept_frames(100, Offset(-5, 0.5, 0.3)) == (slice(5, 100), slice(0, 95))
    assert kept_frames(100, Offset(1, 0.5, 0.3)) == (slice(0, 100), slice(0, 100))


def test_foreign_sound_and_sound_too_far_off_are_refused(tracks: dict[str, Track]) -> None:
    clip = clip_of(tracks["iris"])
    with pytest.raises(UnusableFilmError, match="do not belong together"):
        in_step(clip, Offset(0, 0.1, 0.2))
    with pytest.raises(UnusableFilmError, match="520 ms are not corrected"):
        in_step(clip, Offset(15, 0.5, 0.3))


def test_films_that_teach_nothing_are_refused_with_the_reason(
    tmp_path: Path, folder: Path, frames: dict[str, list[np.ndarray]]
) -> None:
    iris, astronaut = frames["iris"], frames["astronaut"]
    voice = load_speech(folder / "iris.wav").playback[: 1920 * len(iris)]
    noise = np.random.default_rng(0).integers(0, 255, (len(iris), 64, 64, 3), dtype=np.uint8)
    half = len(iris) // 2
    cases = {
        "no face is seen": film(tmp_path / "noise.mp4", list(noise), voice),
        "it is silent": film(tmp_path / "silent.mp4", iris, np.zeros_like(voice)),
        "it is cut at 1": film(tmp_path / "cut.mp4", iris[:half] + astronaut[:half], voice),
        "several faces": film(
            tmp_path / "two.mp4", [np.hstack(pair) for pair in zip(iris, astronaut, strict=True)], voice
        ),
        "2 s are the least": film(tmp_path / "short.mp4", iris[:30], voice[: 1920 * 30]),
    }
    (tmp_path / "text.mp4").write_text("no film")
    cases["cannot be read as a film"] = tmp_path / "text.mp4"
    cases["holds no picture"] = folder / "iris.wav"
    for reason, path in cases.items():
        with pytest.raises(UnusableFilmError, match=reason):
            track(path)


def test_any_rate_becomes_25_frames_a_second(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    path = tmp_path / "slow.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=15, options={"deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        for frame in frames["iris"][:45]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        tone = 0.2 * np.sin(np.arange(48000 * 3) / 30).astype(np.float32)
        block = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 48000, 0
        container.mux(sound.encode(block))
        for each in (stream, sound):
            container.mux(each.encode(None))
    made = track(path)
    assert abs(len(made.mesh) - 25 * 44 / 15) <= 2
    assert len(made.sound) == SPEECH_SAMPLES * len(made.mesh)


def blank(name: str, person: str, seconds: float) -> Clip:
    count = round(seconds * FPS)
    return Clip(
        "clips", name, person, "train", np.zeros((count, 478, 3), np.float32), np.zeros(count * 640, np.float32)
    )


def test_people_are_kept_apart_where_there_are_enough() -> None:
    clips = [blank(f"{person}{take}", person, 20) for person in "abcdefgh" for take in range(3)]
    parts = {part: {clip.person for clip in split(clips) if clip.split == part} for part in ("train", "val")}
    assert parts["val"]
    assert parts["train"]
    assert not parts["train"] & parts["val"]
    again = {clip.name: clip.split for clip in split(clips)}
    assert again == {clip.name: clip.split for clip in split(clips[::-1])}, "whatever the order"


def test_few_people_are_split_by_clip_and_one_clip_in_time() -> None:
    two = split([blank(str(take), "anna", 10) for take in range(5)])
    assert {clip.split for clip in two} == {"train", "val"}
    train, val = split([blank("only", "anna", 40)])
    assert (train.split, len(train.mesh)) == ("train", 850)
    assert (val.split, len(val.mesh), len(val.sound)) == ("val", 150, 150 * 640)
    with pytest.raises(KDTalkerError, match="record more"):
        split([blank("only", "anna", 5)])
    with pytest.raises(KDTalkerError, match="No clip"):
        split([])


def test_from_films_to_a_talking_face(
    tmp_path: Path,
    folder: Path,
    cache: Path,
    tracks: dict[str, Track],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KDTALKER_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "own"
    command = ["train", "--videos", str(folder), "--out", str(out), *SMALL]
    assert kdtalker.main(command) == 0
    said = capsys.readouterr().out
    assert said.count("in step") == 2
    assert "eyes move as in the shipped model" in said.replace("\n", " ")
    networks = {"audio_encoder.onnx", "window.onnx", "brief.onnx"}
    names = networks | {"keypoints.npz", "life.npz", "training.png", "lips.png", "clips.json"}
    assert names <= {path.name for path in out.iterdir()}
    assert {entry["film"]: entry["use"] for entry in json.loads((out / "clips.json").read_text())}.keys() == {
        str(path) for path in films(folder)
    }
    figures = json.loads((out / "figures.json").read_text())["lips"]
    assert figures["shipped model"]["correlation"]["opening"] > 0.5, "it made these films"
    ours, shipped = open_talker(weights=str(out)), open_talker()
    assert not np.array_equal(ours.placing.normalisation.std, shipped.placing.normalisation.std)
    np.testing.assert_array_equal(
        ours.placing.normalisation.std, np.load(out / "keypoints.npz")["std"], "the folder's statistics are used"
    )

    assert kdtalker.main([*command, "--steps", "3", "--resume"]) == 0
    history = torch.load(out / "motion.pt", weights_only=True)["history"]
    assert [entry["step"] for entry in history] == [1, 2, 3]

    photo, speech = str(files("engines") / "avatars" / "iris.png"), str(folder / "iris.wav")
    made = tmp_path / "made.mp4"
    assert kdtalker.main(["render", photo, speech, "-o", str(made), "--weights", str(out)]) == 0
    assert made.stat().st_size > 10_000


def test_other_keypoints_than_the_shipped_are_refused(tmp_path: Path) -> None:
    with np.load(WEIGHTS / "keypoints.npz") as shipped:
        tables = dict(shipped)
    tables["mixing"] = 2 * tables["mixing"]
    np.savez(tmp_path / "keypoints.npz", **tables)
    with pytest.raises(WeightsError, match="other keypoints"):
        face_model(tmp_path)


def test_a_folder_without_films_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kdtalker.main(["train", "--videos", str(tmp_path)]) == 1
    assert "holds no film" in capsys.readouterr().err
    assert kdtalker.main(["train", "--videos", str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err
