"""What `kdtalker bench quality` measures with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("soundfile")

from benchmarks.motion import ImpliedNoise, milliseconds, per_second  # noqa: E402
from benchmarks.quality import quality  # noqa: E402
from engines.networks.ddim import Ddim, DdimConfig  # noqa: E402
from engines.networks.denoiser import Denoiser, DenoiserConfig  # noqa: E402
from engines.networks.window_graph import StepGraph  # noqa: E402
from engines.profile import EMBEDDED  # noqa: E402
from engines.runtime.opening import open_engine  # noqa: E402
from engines.types import KDTalkerError  # noqa: E402
from export.graphs import window_graph  # noqa: E402
from export.onnx_file import write  # noqa: E402
from training.metrics import border_ratio  # noqa: E402

SMALL = DenoiserConfig(width=32, layers=1, heads=2, time_width=16, audio_width=8, rotary=4, time_per_token=True)
LOOP = DdimConfig(steps=2, schedule="cosine", prediction="v", spacing="trailing", context_time=500, guided=True)


def steps(hop: int, at_border: float) -> np.ndarray:
    """A curve (T, 3) that moves by one a frame, and by `at_border` into the first frame of every hop."""
    moves = np.where(np.arange(60) % hop == 0, at_border, 1.0)
    return np.cumsum(moves)[:, None] * np.array([1.0, 0.0, 0.0])


def test_jumps_at_borders_are_told_from_others() -> None:
    assert border_ratio([steps(4, 1.0)], 4, 1) == 1
    assert border_ratio([steps(4, 2.5), steps(4, 2.5)], 4, 1) == 2.5
    assert border_ratio([steps(3, 2.5)], 4, 1) == 1
    assert border_ratio([steps(1, 1.0)], 1, 1) is None
    noise = np.random.default_rng(0).normal(size=(3000, 3))
    assert border_ratio([noise], 2, 2) == pytest.approx(1, abs=0.1)


def test_longer_hops_cost_less_a_second() -> None:
    assert per_second(2.0, 2) == 25
    assert per_second(2.0, 16) == 3.12


def test_implied_noise_makes_the_states_the_loop_went_through(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop, plan = Ddim(Denoiser(SMALL).eval(), LOOP), EMBEDDED.window
    random = np.random.default_rng(0)
    shapes = {"tokens": (2, 70), "sound": (plan.length, 8), "noise": (plan.length, 70), "committed": (plan.length, 70)}
    arrays = {name: random.standard_normal((1, *shape), np.float32) for name, shape in shapes.items()}
    arrays["mask"] = np.zeros((1, plan.length), np.float32)
    arrays |= dict.fromkeys(("guidance", "temperature"), np.ones(70, np.float32))
    implied = ImpliedNoise(loop, plan)
    motion = torch.from_numpy(implied.run(**arrays)["motion"])
    first, last = loop.config.timesteps()
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.inference_mode():
        state = StepGraph(loop, plan.length)(
            **inputs, state=inputs["noise"], step=torch.tensor([first]), following=torch.tensor([last])
        )
    noise = (state - loop.schedule.steps[-1].signal * motion) / loop.schedule.steps[-1].noise
    end = plan.length - plan.lookahead
    arrays["mask"][:, : plan.committed] = 1
    following = implied.run(**arrays)["motion"]
    arrays["noise"][:, : plan.committed] = noise[:, end - plan.committed : end]
    expected = loop(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    np.testing.assert_allclose(following, expected.detach().numpy(), atol=1e-4)


def test_windows_are_timed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write(window_graph(Ddim(Denoiser(SMALL).eval(), LOOP), 27, fixed=False), tmp_path / "window.onnx", {})
    assert milliseconds(open_engine(tmp_path / "window.onnx"), EMBEDDED.window.length, runs=3) > 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "quality.json")]
    with pytest.raises(KDTalkerError, match="no checkpoint"):
        quality(["--checkpoint", str(tmp_path / "no.pt"), *out])
    with pytest.raises(KDTalkerError, match="--speech FILE"):
        quality(["--profile", "kdtalker", "--weights", "random:0", *out])
