"""Every published network against the numbers of the original, and its size against the published table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from engines.audio import log_mel, mel_windows
from engines.networks import checkpoints
from engines.networks.checkpoints import CHECKPOINTS, Checkpoint
from engines.networks.motion_extractor import degrees
from engines.profile import KDTALKER
from tests import seeded_weights
from tests.golden import assert_close, assert_sampled, golden, golden_seed
from tests.published import array, arrays, capture, manifest, network, our_key

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def inference() -> Any:
    with torch.inference_mode():
        yield


def picture(data: dict[str, np.ndarray]) -> Tensor:
    """u8 (H, W, 3) -> f32 (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(data["image"]).permute(2, 0, 1)[None] / 255


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(seeded_weights.normal(golden_seed(), name, shape))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda c: c.file)
def test_seeded_arrays_are_those_of_the_golden_set(checkpoint: Checkpoint[Any]) -> None:
    sums, name = golden("weights_check"), checkpoint.file.removesuffix(".pth")
    total = sum(float(a.sum(dtype=np.float64)) for a in arrays(checkpoint).values())
    absolute = sum(float(np.abs(a).sum(dtype=np.float64)) for a in arrays(checkpoint).values())
    assert abs(total - sums[f"{name}.sum"]) <= 1e-9 * sums[f"{name}.abs_sum"]
    assert absolute == pytest.approx(float(sums[f"{name}.abs_sum"]), rel=1e-9)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda c: c.file)
def test_names_and_shapes_are_the_published_ones(checkpoint: Checkpoint[Any]) -> None:
    ours = {checkpoint.prefix + key: list(value.shape) for key, value in checkpoint.network().state_dict().items()}
    published = {our_key(key): spec["shape"] for key, spec in manifest(checkpoint)["tensors"].items()}
    assert ours == published


def test_audio_encoder() -> None:
    encoder, data = network(checkpoints.AUDIO_ENCODER), golden("audio_encoder")
    windows = torch.from_numpy(published_windows())
    layers = sorted(name.removesuffix("_stats") for name in data if name.endswith("_stats"))
    assert_close(array(encoder(windows)), data["features"], 1e-5)
    with capture(encoder, *(name.removeprefix("layer") for name in layers)) as seen:
        encoder(windows[:4])
    assert layers
    for name in layers:
        assert_sampled(array(seen.outputs[name.removeprefix("layer")]), data, name, 1e-5)


def published_windows() -> np.ndarray:
    data = golden("audio")
    sound = data["pcm16"][: int(data["n_used"])].astype(np.float32) / 32768
    return mel_windows(log_mel(sound), KDTALKER.mel, len(sound) // 640)


def test_motion_extractor() -> None:
    extractor, data = network(checkpoints.MOTION_EXTRACTOR), golden("motion_extractor")
    with capture(extractor, "norm", "stages.0", "stages.1", "stages.2", "stages.3") as seen:
        heads = extractor(picture(data))
    for stage in range(4):
        assert_sampled(array(seen.outputs[f"stages.{stage}"]), data, f"stage{stage}", 1e-5)
    assert_close(array(seen.outputs["norm"]), data["pooled"], 1e-5)
    for name, value in heads._asdict().items():
        assert_close(array(value), data[f"raw_{name}"], 1e-5)
    motion = array(heads.motion())
    for index, name in enumerate(("yaw", "pitch", "roll"), start=1):
        np.testing.assert_allclose(motion[:, index], data[f"info_{name}"].reshape(-1), atol=1e-3)
    assert_close(motion[:, :1], data["info_scale"], 1e-5)
    assert_close(motion[:, 4:7], data["info_t"], 1e-5)
    assert_close(motion[:, 7:], data["info_exp"], 1e-5)


def test_angle_bins() -> None:
    data = golden("keypoints")
    assert_close(array(degrees(torch.from_numpy(data["bin_logits"]))), data["bin_degrees"].reshape(-1), 1e-6)


def test_appearance_extractor() -> None:
    extractor, data = network(checkpoints.APPEARANCE), golden("appearance")
    with capture(extractor, "down_blocks.0", "down_blocks.1", "second") as seen:
        volume = extractor(picture(data))
    assert_sampled(array(seen.inputs["down_blocks.0"]), data, "first", 1e-5)
    assert_sampled(array(seen.inputs["down_blocks.1"]), data, "down0", 1e-5)
    assert_sampled(array(seen.inputs["second"]), data, "down1", 1e-5)
    assert_sampled(array(volume), data, "feature_3d", 1e-5)


def test_warping() -> None:
    warping, data = network(checkpoints.WARPING), golden("warping")
    source = warping.prepare(normal("warp.feature_3d", (1, 32, 16, 64, 64)), torch.from_numpy(data["kp_source"]))
    inner = "dense_motion_network"
    with capture(warping, inner, f"{inner}.hourglass", f"{inner}.mask", "third") as seen:
        out = warping(source, torch.from_numpy(data["kp_driving"]))
    assert_sampled(array(seen.inputs[f"{inner}.hourglass"]), data, "hourglass_in", 1e-4)
    assert_sampled(array(seen.outputs[f"{inner}.hourglass"]), data, "hourglass_out", 1e-4)
    assert_sampled(array(seen.outputs[f"{inner}.mask"].softmax(dim=1)), data, "mask", 1e-4)
    deformation, occlusion = seen.outputs[inner]
    assert_sampled(array(deformation), data, "deformation", 1e-4)
    assert_close(array(occlusion), data["occlusion_map"], 1e-4)
    assert_sampled(array(seen.inputs["third"].unflatten(1, (32, 16))), data, "warped", 1e-4)
    assert_sampled(array(out), data, "out", 1e-4)


def test_decoder() -> None:
    decoder, data = network(checkpoints.DECODER), golden("spade")
    names = ("fc", "G_middle_0", "G_middle_5", "up_0", "up_1")
    with capture(decoder, *names) as seen:
        image = array(decoder(normal("spade.feature", (1, 256, 64, 64))))
    for name in names:
        assert_sampled(array(seen.outputs[name]), data, name, 1e-4)
    assert_sampled(image, data, "image", 1e-4)
    corner = data["image_corner"]
    assert_close(image[..., : corner.shape[-2], : corner.shape[-1]], corner, 1e-4)


def test_stitching_and_retargeting() -> None:
    stitching, data = network(checkpoints.STITCHING), golden("stitching")
    source, driving, eyes, lips = (
        torch.from_numpy(data[name]) for name in ("kp_source", "kp_driving", "eye_ratio", "lip_ratio")
    )
    with capture(stitching, "retarget_shoulder") as seen:
        stitched = stitching.stitch(source, driving)
    assert_close(array(seen.outputs["retarget_shoulder"]), data["stitch_delta"], 1e-5)
    assert_close(array(stitched), data["stitched"], 1e-5)
    assert_close(array(stitching.eyes(source, eyes).flatten(1)), data["eye_delta"], 1e-5)
    assert_close(array(stitching.lips(source, lips).flatten(1)), data["lip_delta"], 1e-5)


# Parameters and billions of operations per call (2 x multiply-adds, sampling not counted).
PUBLISHED_SIZES = {
    checkpoints.MOTION_EXTRACTOR: (28_118_728, 11.64),
    checkpoints.APPEARANCE: (836_224, 64.11),
    checkpoints.WARPING: (45_529_829, 342.07),
    checkpoints.DECODER: (55_365_388, 891.57),
    checkpoints.STITCHING: (45_249, 0.00009),
    checkpoints.AUDIO_ENCODER: (2_812_672, 0.186),
    checkpoints.DENOISER: (42_926_284, 5.70),
}


@pytest.mark.parametrize(("checkpoint", "size"), PUBLISHED_SIZES.items(), ids=lambda v: getattr(v, "file", ""))
def test_size_is_the_published_one(checkpoint: Checkpoint[Any], size: tuple[int, float]) -> None:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape)

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        sized = checkpoint.network().eval()
        if checkpoint is checkpoints.STITCHING:
            sized = sized.retarget_shoulder  # the published table counts stitching alone
            sized(zeros(1, 126))
        elif checkpoint is checkpoints.AUDIO_ENCODER:
            sized(zeros(1, 80, 16))
        elif checkpoint is checkpoints.DENOISER:
            sized(zeros(1, 66, 70), zeros(1, 66, 512), zeros(1))
        elif checkpoint is checkpoints.WARPING:
            sized(sized.prepare(zeros(1, 32, 16, 64, 64), zeros(1, 21, 3)), zeros(1, 21, 3))
        elif checkpoint is checkpoints.DECODER:
            sized(zeros(1, 256, 64, 64))
        else:
            sized(zeros(1, 3, 256, 256))
    parameters, giga = size
    assert sum(parameter.numel() for parameter in sized.parameters()) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(giga, rel=0.02)
