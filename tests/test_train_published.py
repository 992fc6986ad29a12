"""The published denoiser's training: objective, statistics and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.networks.checkpoints import DENOISER, load_checkpoint, load_normalisation  # noqa: E402
from engines.networks.ddim import DdimConfig, Schedule  # noqa: E402
from engines.networks.denoiser import PUBLISHED, Denoiser, DenoiserConfig  # noqa: E402
from training.performances import FRAMES, Performance, statistics  # noqa: E402
from training.published import NoiseRecipe, NoiseTask, save_denoiser, save_normalisation, train_noise  # noqa: E402
from training.team import ALONE  # noqa: E402

SMALL = DenoiserConfig(width=48, layers=1, heads=4, time_width=16, audio_width=512, rotary=4, published_layout=True)


def performances() -> list[Performance]:
    """Motion that follows the first number of the sound."""
    made = []
    for index, split in enumerate(("train", "train", "val")):
        rng = np.random.default_rng(index)
        wave = np.convolve(rng.standard_normal(160), np.ones(8) / 3, "valid")[:150]
        motion = (wave[:, None] * np.linspace(0.5, 1.5, 70) + 0.05 * rng.standard_normal((150, 70))).astype(np.float32)
        motion[:, 6] = 0  # tz carries nothing
        feature = np.abs(0.1 * rng.standard_normal((150, 512))).astype(np.float32)
        feature[:, 0] = wave
        canonical = rng.standard_normal(63).astype(np.float32)
        made.append(Performance(f"clip{index}", split, motion, canonical, feature))
    return made


def test_the_published_denoiser_learns_to_see_the_noise_and_hears_the_sound(tmp_path: Path) -> None:
    made, recipe = (
        performances(),
        NoiseRecipe(network=SMALL, steps=60, rate=6e-3, warm_up=5, check_every=30, windows=8, ema=0.9),
    )
    run = train_noise(recipe, made, statistics(made), tmp_path, team=ALONE)
    first, last = run.history
    assert last["loss"] < first["loss"] < 1.1
    assert last["val"] < 0.8, "an answer of nothing scores 1"
    assert last["foreign sound"] > last["val"]
    saved = torch.load(tmp_path / "ckpts" / "KDTalker.pth", weights_only=True)["model"]
    assert set(saved) == {f"point_model.model.{name}" for name in Denoiser(SMALL).state_dict()}


def test_noisy_motion_is_what_the_sampler_takes() -> None:
    made = performances()
    task = NoiseTask(NoiseRecipe(network=SMALL), made, statistics(made), ALONE.device)
    windows = task.windows("train", np.random.default_rng(0), 4)
    noise, shown = torch.randn(4, FRAMES, 70), []

    class Listener(torch.nn.Module):
        def forward(self, x: torch.Tensor, context: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            shown.append((x, context, time))
            return torch.cat([x[:, :2], noise], 1)

    error = task.error(Listener(), windows, torch.full((4,), 600), noise)
    assert torch.equal(error, torch.zeros(4)), "the noise itself is the right answer"
    ((x, context, time),) = shown
    schedule = Schedule(DdimConfig(steps=10))
    torch.testing.assert_close(x[:, 2:], schedule.shown(windows.motion, noise, schedule.steps[3]))
    assert torch.equal(x[:, :2], windows.tokens)
    assert not context[:, :2].any()
    assert torch.equal(context[:, 2:], windows.sound)
    assert time.tolist() == [600] * 4


def test_the_reference_is_the_frame_before_the_window() -> None:
    made = performances()
    normalisation = statistics(made)
    task = NoiseTask(NoiseRecipe(network=SMALL), made, normalisation, ALONE.device)
    windows = task.windows("val", np.random.default_rng(0), 5)
    clip = normalisation.normalise(made[2].motion)
    for tokens, motion in zip(windows.tokens.numpy(), windows.motion.numpy(), strict=True):
        (start,) = np.flatnonzero((clip == motion[0]).all(1))
        np.testing.assert_array_equal(tokens[1], clip[start - 1])
        np.testing.assert_array_equal(tokens[0, :7], 0)


def test_files_are_those_the_published_profile_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(PUBLISHED)
    save_denoiser(denoiser.state_dict(), tmp_path / "KDTalker.pth")
    loaded = load_checkpoint(DENOISER, tmp_path / "KDTalker.pth").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in denoiser.state_dict().items())
    found = statistics(performances())
    save_normalisation(found, tmp_path / "norm.npz")
    again = load_normalisation(tmp_path / "norm.npz")
    for name in ("mean", "std", "canonical_mean", "canonical_std"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert found.std[6] == 1, "a number that never changes keeps its unit"


def test_no_tensor_stays_behind_on_the_cpu() -> None:
    """The meta device refuses to mix with another, as a GPU does."""
    made = performances()
    task = NoiseTask(NoiseRecipe(network=SMALL), made, statistics(made), torch.device("meta"))
    loss, _ = task.loss(Denoiser(SMALL).to("meta"), step=1, part=0)
    assert loss.device.type == "meta"
    loss.backward()
