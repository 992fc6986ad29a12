"""What the evaluation measures is what it says: figures, sounds, phonemes, changed speech, rendered lips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.face_mesh import face_model  # noqa: E402
from engines.profile import Parts  # noqa: E402
from engines.talkers import open_talker  # noqa: E402
from engines.types import SPEECH_RATE, KDTalkerError  # noqa: E402
from export.to_onnx import export_embedded  # noqa: E402
from tests.test_training import RECIPE, talking_items  # noqa: E402
from training import noises, phonemes, sounds  # noqa: E402
from training.bench import checkpoint_bench, open_bench  # noqa: E402
from training.bilabials import Closures, met_closures, separating_threshold  # noqa: E402
from training.card import results  # noqa: E402
from training.closing import closing  # noqa: E402
from training.corpus import measuring_matrix  # noqa: E402
from training.evaluate import AVATAR, EXPECTATION, check_exported  # noqa: E402
from training.keypoints import WEIGHTS  # noqa: E402
from training.metrics import FIGURES, interval, lag, score_rows  # noqa: E402
from training.rendered import seen_lips  # noqa: E402
from training.robustness import child, filtered, telephone  # noqa: E402
from training.shapes import mirror_index  # noqa: E402
from training.train import Recipe, train  # noqa: E402

needs_voice = pytest.mark.skipif(not phonemes.available(), reason="espeak-ng is not installed")


def wander(frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.convolve(rng.standard_normal(frames + 4), np.ones(5) / 5, "valid") for _ in range(3)], 1
    ).astype(np.float32)


def test_figures_of_truth_noise_and_half_the_truth() -> None:
    truth = [wander(400, seed) for seed in range(4)]
    same, other, half = (
        dict(zip(FIGURES, score_rows(made, truth).mean(0), strict=True))
        for made in (truth, [wander(400, 10 + seed) for seed in range(4)], [curve / 2 for curve in truth])
    )
    for name in FIGURES:
        assert same[name] == pytest.approx(1, abs=1e-5)
        assert half[name] == pytest.approx(0.5 if "amplitude" in name else 1, abs=1e-5)
    assert all(abs(other[name]) < 0.25 for name in ("opening", "width", "jaw", "velocity"))


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_lag_is_found(late: int) -> None:
    truth = [wander(200, seed) for seed in range(3)]
    assert lag([np.roll(curve, late, axis=0) for curve in truth], truth) == late


def test_interval_holds_the_mean_and_narrows_with_more_clips() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    low, high = interval(rows)
    assert (low < rows.mean(0)).all()
    assert (rows.mean(0) < high).all()
    few_low, few_high = interval(rows[:5])
    assert ((few_high - few_low) > (high - low)).all()


@pytest.mark.parametrize("kind", noises.MAKERS)
def test_noises_repeat_at_their_level_and_are_not_the_training_s(kind: str) -> None:
    made = noises.noise(kind, 3)
    np.testing.assert_array_equal(made, noises.noise(kind, 3))
    assert not np.array_equal(made, noises.noise(kind, 4))
    assert 20 * np.log10(made.std()) == pytest.approx(noises.LEVELS[kind], abs=0.1)
    assert np.isfinite(made).all()
    if maker := sounds.MAKERS.get(kind):
        theirs = maker(np.random.default_rng(3), noises.SECONDS)
        assert abs(np.corrcoef(made, theirs[: len(made)])[0, 1]) < 0.2


@needs_voice
def test_phonemes_come_in_order_and_stops_begin_after_their_closure() -> None:
    spoken = phonemes.speak("A happy puppy.", "en-us")
    begins = [phoneme.begin for phoneme in spoken.phonemes]
    assert begins == sorted(begins)
    assert spoken.phonemes[-1].end <= len(spoken.sound) / SPEECH_RATE + 0.01
    stops = [phoneme for phoneme in spoken.phonemes if phoneme.name == "p"]
    assert len(stops) == 3
    for stop in stops:
        before, burst = (int((stop.begin + shift) * SPEECH_RATE) for shift in (-0.03, 0.0))
        width = SPEECH_RATE // 50
        assert np.abs(spoken.sound[before : before + width]).max() < np.abs(spoken.sound[burst : burst + width]).max()


@needs_voice
def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(KDTalkerError, match="nobody"):
        phonemes.speak("Hello.", "nobody")


def test_threshold_lies_between_closed_and_open() -> None:
    truth = Closures(np.array([0.0, 0.001, 0.002]), np.array([0.04, 0.05, 0.06]))
    threshold = separating_threshold(truth)
    assert threshold == pytest.approx(0.0255)
    assert truth.at(threshold) == {
        "bilabials": 3, "closed": 1.0, "others": 3, "others_closed": 0.0, "separation": 1.0,
    }  # fmt: skip


def test_lips_that_met_are_found_within_a_frame() -> None:
    truth = np.full(60, 0.1)
    truth[20:22] = truth[40:42] = 0
    late = np.roll(truth, 1)
    assert met_closures([late], [truth], 0.03) == {"moments": 2, "closed": 1.0, "elsewhere": 0.0}
    never = np.full(60, 0.1)
    assert met_closures([never], [truth], 0.03)["closed"] == 0


def test_changed_speech_keeps_its_length_and_its_time() -> None:
    time = np.arange(2 * SPEECH_RATE) / SPEECH_RATE
    beats = (np.sin(2 * np.pi * 2 * time) > 0) * np.sin(2 * np.pi * 250 * time * (1 + time))
    sound = (0.3 * beats).astype(np.float32)

    def envelope(values: np.ndarray) -> np.ndarray:
        return np.abs(values).reshape(-1, 320).mean(1)

    for change in (telephone, child):
        changed = change(sound)
        assert len(changed) == len(sound)
        agreement = [np.corrcoef(np.roll(envelope(changed), -shift), envelope(sound))[0, 1] for shift in range(-5, 6)]
        assert abs(int(np.argmax(agreement)) - 5) <= 2  # 40 ms
    high = np.sin(2 * np.pi * 6000 * time).astype(np.float32)
    assert telephone(high).std() < 0.1 * high.std()


def test_aims_stand_beside_what_was_measured() -> None:
    lines = results(json.loads((WEIGHTS / "figures.json").read_text()))
    table = lines[next(row for row, line in enumerate(lines) if "| aim |" in line) :]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2 : table.index("")]]
    aims = {name: aim for name, aim, _, _ in rows}
    assert aims["correlation, opening"] == ">= .54"
    assert aims["hop borders, second difference"] == ".85 to 1.15"
    assert aims["spread of the hour's last ten minutes"] == ".75 to 1.33"
    assert all(now for _, _, _, now in rows)


def test_filters_leave_what_they_are_told_to_leave() -> None:
    sound = np.random.default_rng(0).standard_normal(SPEECH_RATE).astype(np.float32) * 0.1
    np.testing.assert_allclose(filtered(sound, ("anull", "")), sound, atol=1e-6)


def test_corners_and_chin_have_settings_of_their_own() -> None:
    face, measures = face_model(), measuring_matrix(face_model())
    values = face.per_number(Parts(mouth=2.0, rest=1.0, corners=3.0, chin=4.0))
    width, jaw = np.abs(measures[:, 1]), np.abs(measures[:, 2])
    assert set(np.flatnonzero(values == 3)) == set(np.argsort(width)[-2:])
    assert np.flatnonzero(values == 4) == jaw.argmax()
    assert set(values[:7]) == {1.0}
    assert set(face.per_number(Parts(mouth=2.0, rest=1.0))) == {1.0, 2.0}


@pytest.fixture(scope="module")
def mirror() -> np.ndarray:
    face = face_model()
    mesh = face.template.copy()
    mesh[np.flatnonzero(mesh[:, 1] > mesh[13, 1] + 0.03)] += np.array([0, 0.12, 0], np.float32)
    return mirror_index(mesh)


def test_a_checkpoint_and_its_export_move_the_same_lips(mirror: np.ndarray, tmp_path: Path) -> None:
    checkpoint = tmp_path / "motion.pt"
    items = talking_items()
    train(RECIPE, items, mirror, checkpoint)
    export_embedded(checkpoint, tmp_path)
    check_exported(tmp_path, checkpoint)
    exported, trained = (bench.generate(items[:2], 5) for bench in (open_bench(tmp_path), checkpoint_bench(checkpoint)))
    for a, b in zip(exported, trained, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    other = tmp_path / "other.pt"
    other.write_bytes(b"another checkpoint")
    with pytest.raises(KDTalkerError, match="was not exported from"):
        check_exported(tmp_path, other)


def test_a_regression_answers_without_noise(mirror: np.ndarray, tmp_path: Path) -> None:
    settings = {"regression": True, "guidance": (1.0, 1.0), "temperature": (0.0, 0.0)}
    path = tmp_path / "regression.pt"
    best = train(Recipe(**{**_fields(RECIPE), **settings}), talking_items(), mirror, path)
    assert best.history[-1]["loss"] < best.history[0]["loss"]
    bench = checkpoint_bench(path, steps=1, **EXPECTATION)
    share = bench.sampler.temperature
    assert not share.any()
    assert bench.generate(talking_items(1), 1)[0].shape == (60, 70)


def _fields(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}


@needs_voice
def test_the_shipped_mouth_moves_while_somebody_speaks_and_closes_afterwards() -> None:
    bench = open_bench(WEIGHTS)
    spoken = phonemes.speak("The weather will be fine again on Sunday.").sound
    item = talking_items(1)[0]
    speech = type(item.clip)(**{**_clip(item), "sound": np.resize(spoken, len(spoken) // 640 * 640)})
    figures = closing([bench], [type(item)(speech, item.motion, item.mel, item.canonical)], [spoken] * 3)
    for kind in ("silence", "room noise"):
        assert figures[kind]["at_200_ms"] < 0.15
        assert figures[kind]["closed"] > 0.8


def _clip(item: object) -> dict[str, object]:
    clip = item.clip  # type: ignore[attr-defined]
    return {name: getattr(clip, name) for name in type(clip).__dataclass_fields__}


def test_rendered_lips_are_seen_to_do_what_drives_them() -> None:
    talker, bench = open_talker(), open_bench(WEIGHTS)
    from engines.offline import frames
    from engines.portrait.landmarks import FaceLandmarker
    from engines.portrait.prepare import prepare

    item = talking_items(1, frames=60)[0]
    motion = np.tile(bench.face.rest(), (60, 1))
    lips = np.abs(np.sin(np.arange(60) / 4))[:, None].astype(np.float32)
    opening = bench.measures[:, 0]
    motion += 0.12 * lips * opening / (opening @ opening)
    with FaceLandmarker() as landmarker:
        identity = talker.renderer.enrol(prepare(AVATAR.read_bytes(), landmarker))
        rows = bench.face.normalisation.denormalise(motion)
        rows[:, :7] = identity.source[:7]
        seen = seen_lips(bench, landmarker, frames(talker, identity, rows), item)
    assert np.corrcoef(seen[:, 0], lips[:, 0])[0, 1] > 0.9
