"""The renderer as it is exported: equal to the networks it was made from, whole and in its parts."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the renderer's graphs are made with PyTorch")
import cv2  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from engines.networks import checkpoints  # noqa: E402
from engines.networks.renderer_graph import EnrolGraph, RendererGraph  # noqa: E402
from engines.networks.sampling import UpsampledConv, gather_trilinear, move  # noqa: E402
from engines.networks.warping import WarpSource, axis, identity_grid  # noqa: E402
from engines.runtime.torch import TorchEngine  # noqa: E402
from export import examples  # noqa: E402
from tests import seeded_weights  # noqa: E402
from tests.golden import assert_sampled, golden, golden_seed  # noqa: E402
from tests.published import array, network  # noqa: E402
from tests.small_renderer import SIZE, SmallRenderer  # noqa: E402

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def inference():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("convolution", "factor", "shape"),
    [
        (lambda: nn.Conv2d(5, 7, 3, padding=1), 2, (2, 5, 6, 7)),
        (lambda: nn.Conv2d(5, 7, 3, padding=1), 4, (2, 5, 6, 7)),
        (lambda: nn.Conv3d(5, 7, 3, padding=1), 2, (2, 5, 4, 6, 7)),
    ],
    ids=["2-D twice", "2-D fourfold", "3-D twice"],
)
def test_convolution_of_an_enlarged_map(convolution, factor: int, shape: tuple[int, ...]) -> None:
    conv, x = convolution(), torch.randn(shape)
    enlarged = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0) if x.ndim == 5 else float(factor))
    torch.testing.assert_close(UpsampledConv(conv, factor)(x), conv(enlarged), atol=1e-5, rtol=1e-5)


def test_translations_are_trilinear_sampling() -> None:
    volume, shift = torch.randn(3, 4, 16, 32, 64), 0.6 * torch.randn(3, 5, 3)
    grid = identity_grid(volume)
    fields = [grid + shift[:, field, None, None, None] for field in range(5)]
    expected = torch.stack([F.grid_sample(volume, field, align_corners=False) for field in fields], 1)
    assert (expected == 0).any()  # some of it lies outside
    torch.testing.assert_close(move(volume, shift, (axis(64), axis(32), axis(16))), expected, atol=2e-5, rtol=1e-4)


def test_gathers_are_trilinear_sampling_of_chosen_volumes() -> None:
    volumes, rows = torch.randn(3, 6, 8, 16, 16), torch.tensor([2, 0])
    field = 2.6 * torch.rand(2, 8, 16, 16, 3) - 1.3
    expected = F.grid_sample(volumes[rows], field, align_corners=False).flatten(2)
    table = volumes.flatten(2).transpose(1, 2)
    found = gather_trilinear(table, rows, field.flatten(1, 3).transpose(1, 2), (8, 16, 16))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("sampling", ["decomposed", "native"])
def test_pictures_are_those_of_the_networks(sampling) -> None:
    small = SmallRenderer()
    picture, source, driving, rows = small.inputs(3)
    tables = small.enrolment(sampling)(picture, source)
    frames = small.renderer(sampling, "rgb")(driving, rows, source, **tables)
    expected = (small.reference(picture, source, driving, rows) * 255).floor().permute(0, 2, 3, 1)
    gap = (frames.float() - expected).abs()
    assert frames.dtype == torch.uint8
    assert expected.std() > 5
    assert gap.max() <= 1
    assert (gap > 0).float().mean() < 2e-3


def test_i420_is_opencvs() -> None:
    small = SmallRenderer()
    picture, source, driving, rows = small.inputs(2)
    frames = small.renderer("native", "i420")(driving, rows, source, **small.enrolment("native")(picture, source))
    reference = small.reference(picture, source, driving, rows)
    side = reference.shape[-1]
    assert frames.shape == (2, side * 3 // 2, side)
    for frame, image in zip(frames, reference, strict=True):
        bytes_ = (image * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()
        luma = cv2.cvtColor(bytes_, cv2.COLOR_RGB2YUV_I420)[:side]
        assert np.abs(frame[:side].numpy().astype(int) - luma).max() <= 1
        # Chroma is the mean of four pixels here and one of them there, so it is compared on the mean picture.
        mean = F.avg_pool2d(image[None], 2).repeat_interleave(2, -1).repeat_interleave(2, -2)[0]
        bytes_ = (mean * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()
        chroma = cv2.cvtColor(bytes_, cv2.COLOR_RGB2YUV_I420)[side:]
        assert np.abs(frame[side:].numpy().astype(int) - chroma).max() <= 2


def test_full_size_warp_and_decoder_match_the_originals_numbers() -> None:
    data, decoded = golden("warping"), golden("spade")
    volume = normal("warp.feature_3d", (1, 32, 16, 64, 64))
    source, driving = torch.from_numpy(data["kp_source"]), torch.from_numpy(data["kp_driving"])
    warping, decoder = network(checkpoints.WARPING), network(checkpoints.DECODER)
    graph = RendererGraph(warping, decoder)
    enrolled = EnrolGraph(_Given(volume), graph.warping)(torch.zeros(1, 256, 256, 3, dtype=torch.uint8), source)
    rows = torch.zeros(len(driving), dtype=torch.int64)
    assert_sampled(array(graph.warp(driving, rows, source, **enrolled)), data, "out", 1e-4)
    assert_sampled(array(graph.decode(normal("spade.feature", (1, 256, 64, 64)))), decoded, "image", 1e-4)
    assert graph.size == (16, 64, 64) != SIZE


class _Given(nn.Module):
    """Stands for the appearance extractor: the volume is given."""

    def __init__(self, volume: Tensor) -> None:
        super().__init__()
        self.volume = volume

    def forward(self, _: Tensor) -> Tensor:
        return self.volume


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(seeded_weights.normal(golden_seed(), name, shape))


def test_a_frame_depends_on_its_own_row_alone() -> None:
    small = SmallRenderer()
    picture, source, driving, rows = small.inputs(3)
    tables = small.enrolment("decomposed")(picture, source)
    graph = small.renderer("decomposed", "rgb")
    together = graph(driving, rows, source, **tables)
    alone = torch.cat([graph(driving[n : n + 1], rows[n : n + 1], source, **tables) for n in range(3)])
    assert (together.int() - alone.int()).abs().max() <= 1
    assert isinstance(small.source(picture, source), WarpSource)


def test_graphs_move_between_devices_and_types() -> None:
    small = SmallRenderer()
    graph = small.renderer("decomposed", "rgb")
    assert {tensor.device.type for tensor in graph.to("meta").parameters()} == {"meta"}
    assert {tensor.dtype for tensor in small.renderer("native", "rgb").double().parameters()} == {torch.float64}


def test_half_precision_keeps_coordinates() -> None:
    """By autocast, here in the half type that CPUs have."""
    small = SmallRenderer()
    graph = small.graphs("decomposed", "rgb")[1]
    arrays = examples.draw(graph.inputs, 2)
    exact = TorchEngine(graph.name, graph.module, graph.inputs, graph.outputs).run(**arrays)["frames"]
    half = TorchEngine(graph.name, graph.module, graph.inputs, graph.outputs, half=torch.bfloat16)
    gap = np.abs(half.run(**arrays)["frames"].astype(int) - exact)
    assert 0 < gap.mean() < 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        volume, shift = torch.randn(1, 4, 4, 32, 32), torch.full((1, 1, 3), 0.01)
        moved = move(volume, shift, (axis(32), axis(32), axis(4)))
    torch.testing.assert_close(moved, move(volume, shift, (axis(32), axis(32), axis(4))), atol=0, rtol=0)
