"""Distillation: a student comes to answer what its teachers do on average, and what was tracked in silences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engines.face_mesh import face_model  # noqa: E402
from tests.test_training import RECIPE, TINY, talking_items  # noqa: E402
from training.bench import digest_of  # noqa: E402
from training.distil import SHARE, Lessons, distil  # noqa: E402
from training.shapes import mirror_of  # noqa: E402
from training.train import Checkpoint, MotionModel, Noised, Recipe, load_model  # noqa: E402

COUNT = 6
SPOKEN = replace(RECIPE, silences=0.0, seed=3)
SILENCED = replace(RECIPE, silences=1.0, seed=4)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three that know nothing, each in its own way."""
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(tmp_path_factory.mktemp("networks") / f"{seed}.pt")
        Checkpoint(RECIPE, MotionModel(TINY).state_dict(), 0, []).save(paths[-1])
    return paths


def written(folder: Path, teachers: list[Path], recipe: Recipe) -> Lessons:
    face = face_model()
    lessons = Lessons(folder, tuple(teachers), COUNT, recipe)
    lessons.write(talking_items(), mirror_of(face.template), face)
    return lessons


def away(network: Path, noised: Noised) -> float:
    """Mean square of what a network answers beside what is wanted, over frames that are asked for."""
    model, _ = load_model(network)
    with torch.inference_mode():
        return float(((noised.ask(model) - noised.v)[~noised.given] ** 2).mean())


def test_a_lesson_is_the_mean_answer_and_a_little_of_what_was_tracked(networks: list[Path], tmp_path: Path) -> None:
    lesson = written(tmp_path, networks[:2], SPOKEN).read(0)
    saved = torch.load(tmp_path / "00000.pt", weights_only=True)
    saved.pop("v")
    asked = Noised(**saved)
    with torch.inference_mode():
        first, second = (asked.ask(load_model(path)[0]) for path in networks[:2])
    assert not lesson.silenced.any()
    expected = SHARE * (first + second) / 2 + (1 - SHARE) * asked.v
    torch.testing.assert_close(lesson.v, expected, atol=0.05, rtol=0.05)  # products are in bfloat16


def test_where_nobody_speaks_the_tracked_motion_is_learned(networks: list[Path], tmp_path: Path) -> None:
    lesson = written(tmp_path, networks[:2], SILENCED).read(1)
    tracked = torch.load(tmp_path / "00001.pt", weights_only=True)["motion"]
    assert lesson.silenced.all()
    torch.testing.assert_close(lesson.motion[~lesson.given], tracked[~lesson.given], atol=1e-4, rtol=1e-4)


def test_a_student_comes_nearer_to_its_teachers(networks: list[Path], tmp_path: Path) -> None:
    lessons = written(tmp_path / "lessons", networks[:2], SPOKEN)
    lesson = lessons.read(0)
    before = {path.name: path.stat().st_mtime_ns for path in lessons.folder.iterdir()}
    plan, mirror = replace(RECIPE, rate=3e-3, steps=20), mirror_of(face_model().template)
    taught = distil(networks[2], lessons, talking_items(), mirror, plan, tmp_path / "student.pt")
    assert away(tmp_path / "student.pt", lesson) < 0.8 * away(networks[2], lesson)
    assert {path.name: path.stat().st_mtime_ns for path in lessons.folder.iterdir()} == before, "lessons are kept"
    assert taught.recipe.taught == tuple(digest_of(path) for path in networks[:2])
    assert taught.recipe.network == TINY
