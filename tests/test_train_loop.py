"""The training loop: a run that was broken off goes on as if it had not been, processes share a step."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.face_mesh import face_model  # noqa: E402
from engines.types import KDTalkerError  # noqa: E402
from tests.test_training import RECIPE, TINY, talking_items  # noqa: E402
from training.batches import Batches  # noqa: E402
from training.loop import Run, learn  # noqa: E402
from training.shapes import mirror_of  # noqa: E402
from training.team import ALONE  # noqa: E402
from training.train import MotionModel, MotionTask, Objective  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
SHORT = replace(RECIPE, steps=6, check_every=2, frames=60)


def task(recipe=SHORT) -> MotionTask:  # type: ignore[no-untyped-def]
    face = face_model()
    return MotionTask(recipe, talking_items(), mirror_of(face.template), face, ALONE)


def begin() -> MotionModel:
    torch.manual_seed(3)
    return MotionModel(TINY)


def broken_off(at: int):  # type: ignore[no-untyped-def]
    def keep(run: Run) -> None:
        if run.step == at:
            raise KeyboardInterrupt

    return keep


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path: Path) -> None:
    whole = begin()
    straight = learn(whole, task(), SHORT, keep=lambda run: None)
    state = tmp_path / "run.state.pt"
    with pytest.raises(KeyboardInterrupt):
        learn(begin(), task(), SHORT, keep=broken_off(4), state=state)
    torch.manual_seed(99)
    resumed_model = MotionModel(TINY)
    resumed = learn(resumed_model, task(), SHORT, keep=lambda run: None, state=state, resume=True)
    assert [entry["step"] for entry in resumed.history] == [2, 4, 6]
    assert resumed.history == straight.history
    assert resumed.best_step == straight.best_step
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed_model.state_dict()[name]), name
    for name, value in straight.best.items():
        assert torch.equal(value, resumed.best[name]), name


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    state = tmp_path / "run.state.pt"
    short = replace(SHORT, steps=2)
    learn(begin(), task(), short, keep=lambda run: None, state=state)
    with pytest.raises(KDTalkerError, match=r"other settings \(rate\)"):
        learn(begin(), task(), replace(short, rate=1e-3), keep=lambda run: None, state=state, resume=True)


def test_training_ends_when_nothing_gets_better() -> None:
    stubborn = replace(SHORT, steps=40, check_every=1, patience=2, rate=1e-12, ema=0.0)
    run = learn(begin(), task(stubborn), stubborn, keep=lambda run: None)
    assert run.step < 40
    assert run.step - run.best_step == 2


def test_a_step_cannot_be_shared_unevenly() -> None:
    with pytest.raises(KDTalkerError, match="give a multiple"):
        learn(begin(), task(), replace(SHORT, parts=3), keep=lambda run: None, team=replace(ALONE, size=2))


def test_two_processes_learn_what_one_learns_from_both_batches(tmp_path: Path) -> None:
    script, arguments = REPOSITORY / "tests" / "shared_training.py", [str(tmp_path)]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    for command in ([*two, str(script), *arguments], [sys.executable, str(script), *arguments]):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
        torch.testing.assert_close(value, alone["model"][name], atol=1e-5, rtol=1e-4)
    losses = [[entry["loss"] for entry in run["history"]] for run in (first, second, alone)]
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-3)


def test_no_tensor_stays_behind_on_the_cpu() -> None:
    """The meta device refuses to mix with another, as a GPU does; it holds no numbers, so the last step fails."""
    face, items, meta = face_model(), talking_items(), torch.device("meta")
    batch = Batches(items, face, mirror_of(face.template), 0, SHORT.mix).draw(60, 1)
    objective = Objective(face, items, replace(SHORT, half=False), meta)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        objective(begin().to(meta), batch)
