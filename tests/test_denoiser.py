"""The denoiser and its DDIM loop: the published numbers, and what streaming asks of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.networks.checkpoints import DENOISER  # noqa: E402
from engines.networks.ddim import Ddim, DdimConfig, Schedule, Step, published_sampling, signal_shares  # noqa: E402
from engines.networks.denoiser import Denoiser, DenoiserConfig, RelativePositionBias  # noqa: E402
from engines.networks.window_graph import WindowGraph  # noqa: E402
from tests import seeded_weights  # noqa: E402
from tests.golden import assert_sampled, golden, golden_seed  # noqa: E402
from tests.published import array, capture  # noqa: E402
from tests.published import network as published_network  # noqa: E402

SMALL = DenoiserConfig(width=32, layers=2, heads=4, time_width=16, audio_width=24, rotary=4, time_per_token=True)
STREAMING = DdimConfig(steps=3, schedule="cosine", prediction="v", spacing="trailing", context_time=100, guided=True)


@pytest.fixture(scope="module")
def published() -> Denoiser:
    network: Denoiser = published_network(DENOISER)
    return network


def assert_near(ours: torch.Tensor, expected: np.ndarray, bound: float) -> None:
    assert np.abs(ours.numpy() - expected).max() <= bound * np.abs(expected).max()


def small(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(SMALL).eval()


@torch.inference_mode()
def test_denoiser_gives_the_published_numbers(published: Denoiser) -> None:
    data, seed = golden("denoiser"), golden_seed()
    for length in (64, 40):
        times = torch.from_numpy(data[f"timesteps_{length}"])
        x = torch.from_numpy(data[f"x_{length}"]).expand(len(times), -1, -1)
        context = torch.from_numpy(data[f"context_{length}"]).expand(len(times), -1, -1)
        assert_near(published(x, context, times), data[f"eps_{length}"], 2e-5)
    for name, batch, tokens in (("1", 1, 3), ("134", 1, 136), ("b2", 2, 18)):
        x = seeded_weights.normal(seed, f"denoiser.x.{name}", (batch, tokens, 70))
        context = np.abs(seeded_weights.normal(seed, f"denoiser.context.{name}", (batch, tokens, 512)))
        if name != "b2":
            context[:, :2] = 0
        times = torch.from_numpy(data[f"timesteps_{name}"])
        assert_near(published(torch.from_numpy(x), torch.from_numpy(context), times), data[f"eps_{name}"], 2e-5)


@torch.inference_mode()
def test_parts_give_the_published_numbers(published: Denoiser) -> None:
    data = golden("denoiser")
    assert_near(published.time_mlp(torch.tensor([0, 20, 500, 980, 999])), data["time_embedding"], 1e-5)
    assert_near(published.time_rel_pos_bias(66)[0], data["rel_pos_bias_66_head0"], 1e-6)
    with capture(published, "input_projection", "layers.0.0", "layers.0.1", "layers.0.2") as seen:
        published(torch.from_numpy(data["x_64"]), torch.from_numpy(data["context_64"]), torch.tensor([500]))
    parts = ("input_projection", "layer0_block1", "layer0_block2", "layer0_attention")
    for part, output in zip(parts, seen.outputs.values(), strict=True):
        assert_sampled(array(output), data, f"{part}_t500_n64", 2e-5)
    buckets = RelativePositionBias.buckets(136).numpy()
    np.testing.assert_array_equal(buckets[0], data["rel_pos_bucket_136_row0"])
    np.testing.assert_array_equal(buckets[135], data["rel_pos_bucket_136_row135"])


@torch.inference_mode()
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_gives_the_published_numbers(published: Denoiser, steps: int) -> None:
    data, loop = golden("ddim"), Ddim(published, DdimConfig(steps=steps))
    assert loop.config.timesteps() == data[f"timesteps_{steps}"].tolist()
    tokens = torch.from_numpy(np.stack([data["ori"], data["ref"]], 1))
    audio, noise = torch.from_numpy(data["audio"]), torch.from_numpy(data["noise"])
    states: list[torch.Tensor] = []
    take = Step.take

    def watched(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        taken = take(*arguments)
        states.append(taken[0])
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "take", watched)
        assert_near(loop(tokens, audio, noise), data[f"sample_{steps}"], 1e-4)
    assert_near(states[0][:, ::4], data[f"after_step1_{steps}"], 1e-4)
    assert_near(states[steps // 2 - 1][:, ::4], data[f"after_half_{steps}"], 1e-4)


@torch.inference_mode()
def test_ddim_runs_at_other_lengths(published: Denoiser) -> None:
    data, seed = golden("ddim"), golden_seed()
    tokens = torch.from_numpy(np.stack([data["ori"], data["ref"]], 1))
    noise = torch.from_numpy(seeded_weights.normal(seed, "ddim.noise40", (1, 40, 70)))
    audio = torch.from_numpy(np.abs(seeded_weights.normal(seed, "ddim.audio40", (1, 40, 512))))
    assert_near(Ddim(published, DdimConfig(steps=10))(tokens, audio, noise), data["sample_10_len40"], 1e-4)


def test_schedules() -> None:
    assert_near(signal_shares("linear"), golden("ddim")["alphas_cumprod"], 1e-6)
    cosine = signal_shares("cosine")
    assert cosine[-1] == 0
    assert (cosine.diff() < 0).all()
    assert replace(STREAMING, steps=4).timesteps() == [999, 749, 499, 249]


def window(batch: int = 2, frames: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.zeros(batch, frames)
    mask[:, :6] = 1
    return {
        "tokens": draw(batch, 2, 70), "sound": draw(batch, frames, 24), "noise": draw(batch, frames, 70),
        "committed": draw(batch, frames, 70), "mask": mask,
        "guidance": torch.full((70,), 1.5), "temperature": torch.full((70,), 0.5),
    }  # fmt: skip


@torch.inference_mode()
def test_committed_frames_leave_untouched_and_matter() -> None:
    loop, inputs = Ddim(small(), STREAMING), window()
    motion = loop(**inputs)
    assert torch.equal(motion[:, :6], inputs["committed"][:, :6])
    changed = loop(**inputs | {"committed": inputs["committed"] + 1})
    assert not torch.allclose(changed[:, 6:], motion[:, 6:])
    # What stands in rows that are not committed yet must not matter.
    other = inputs["committed"].clone()
    other[:, 6:] += 1
    assert torch.equal(loop(**inputs | {"committed": other}), motion)


@torch.inference_mode()
def test_guidance_one_is_no_guidance_and_temperature_reaches_new_frames_only() -> None:
    inputs = window()
    ones = torch.ones(70)
    guided = Ddim(small(), STREAMING)(**inputs | {"guidance": ones, "temperature": ones})
    plain = Ddim(small(), replace(STREAMING, guided=False))(**inputs | {"guidance": None, "temperature": None})
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-5)
    cold = Ddim(small(), STREAMING)(**inputs | {"temperature": 0 * ones})
    noise = inputs["noise"].clone()
    noise[:, 6:] = 0
    still = Ddim(small(), STREAMING)(**inputs | {"noise": noise})
    torch.testing.assert_close(cold, still, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_of_a_batch_do_not_mix() -> None:
    loop, inputs = Ddim(small(), STREAMING), window()
    both = loop(**inputs)
    for row in range(2):
        alone = {k: v[row : row + 1] if v.ndim > 1 else v for k, v in inputs.items()}
        torch.testing.assert_close(loop(**alone)[0], both[row], rtol=1e-4, atol=1e-5)


def test_the_published_network_is_sampled_as_its_authors_do_or_by_second_order() -> None:
    assert published_sampling(50) == DdimConfig(steps=50)
    few = published_sampling(10)
    assert (few.spacing, few.order, few.timesteps()[0]) == ("trailing", 2, 999)


def gaussian(order: int, steps: int) -> float:
    """What sampling a normal distribution of deviation 2 makes of the noise 1; exactly 2 after endless steps.

    The best prediction is known in closed form there: of x = a c + s e, with c of variance 4, the noise is
    e = s x / (4 a^2 + s^2).
    """
    x, clean = torch.ones(1, 1, 1, dtype=torch.float64), None
    for step in Schedule(DdimConfig(steps=steps, spacing="trailing", order=order)).steps:
        variance = 4 * step.signal**2 + step.noise**2
        if clean is None:
            x = x * math.sqrt(variance)
        x, clean = step.take(x, step.noise / variance * x, "epsilon", clean)
    return float(x)


def test_the_second_order_meets_the_exact_answer_sooner() -> None:
    first, second = ([abs(gaussian(order, steps) - 2) for steps in (10, 20, 50)] for order in (1, 2))
    assert first[0] > first[1] > first[2] > 0
    assert all(higher < 0.5 * lower for lower, higher in zip(first, second, strict=True))


def test_the_second_order_begins_and_ends_with_the_first() -> None:
    two = [Schedule(replace(STREAMING, steps=2, order=order)).steps for order in (1, 2)]
    assert two[0] == two[1]
    slopes = [step.slope for step in Schedule(DdimConfig(steps=5, spacing="trailing", order=2)).steps]
    assert slopes[0] == slopes[-1] == 0
    assert all(slope > 0 for slope in slopes[1:-1])


@torch.inference_mode()
def test_the_branch_without_speech_hears_what_it_is_given() -> None:
    network, inputs, silence = small(), window(), torch.full((24,), 0.7)
    quiet = Ddim(network, replace(STREAMING, guided=False))
    expected = quiet(**inputs | {"sound": silence.expand(2, 9, 24), "guidance": None})
    deaf = inputs | {"guidance": torch.zeros(70)}
    torch.testing.assert_close(Ddim(network, STREAMING, silence=silence)(**deaf), expected, rtol=1e-4, atol=1e-5)
    graph = WindowGraph(Ddim(network, STREAMING, silence=silence), 12)
    torch.testing.assert_close(graph(**deaf), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(Ddim(network, STREAMING)(**deaf), expected, atol=1e-3)
