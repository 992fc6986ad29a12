"""The original's whole-clip routine, end to end, against its numbers."""

from functools import cache

import numpy as np
import pytest
import torch

from engines import motion
from engines.networks.checkpoints import normalisation
from engines.networks.model import assemble
from engines.placing import as_predicted, change_from
from engines.published import exact
from engines.published.networks import PublishedNetworks, torch_networks
from engines.published.talker import PublishedRenderer
from engines.types import Identity
from tests import seeded_weights
from tests.golden import assert_close, assert_sampled, golden, golden_seed
from tests.published import fresh_network


@cache
def networks() -> PublishedNetworks:
    """As loaded for use: folded, on the CPU."""
    data = golden("e2e")
    statistics = {name.removeprefix("norm_"): value for name, value in data.items() if name.startswith("norm_")}
    return torch_networks(assemble(fresh_network, normalisation(statistics), "cpu"))


@cache
def identity() -> Identity:
    return PublishedRenderer(networks()).enrol_face(golden("e2e")["image"], "0" * 64, exact=True)


@cache
def windows() -> np.ndarray:
    """Normalised motion of the whole clip, padding included, with the golden noise."""

    def noise(number: int) -> np.ndarray:
        return seeded_weights.normal(golden_seed(), f"e2e.noise.{number}", (1, 64, 70))[0]

    pcm = golden("e2e")["pcm16"].astype(np.float32) / 32768
    features = exact.clip_features(networks().audio_encoder, pcm)
    return exact.sample_clip(networks().window(exact.STEPS), networks().normalisation, identity(), features, noise)


@cache
def clip() -> np.ndarray:
    """Smoothed motion in physical units."""
    frames = len(golden("e2e")["smooth_t_in"])
    return exact.smooth_clip(networks().normalisation.denormalise(windows()[:frames]))


def source_keypoints() -> np.ndarray:
    return motion.keypoints(identity().canonical, as_predicted(identity().source, identity().source[None]))


def driving(vectors: np.ndarray) -> np.ndarray:
    return motion.keypoints(identity().canonical, vectors)


def test_source() -> None:
    data = golden("e2e")
    assert_close(source_keypoints(), data["kp_source"], 1e-4)
    assert_close(networks().normalisation.canonical_token(identity().canonical), data["ori_token"].reshape(70), 1e-4)
    assert_close(networks().normalisation.normalise(identity().source), data["ref_tokens"][0].reshape(70), 1e-4)
    volume = identity().tables["volumes"].T.reshape(1, 32, 16, 64, 64)
    assert_sampled(volume, data, "feature_3d", 1e-4)


def test_windows_and_what_links_them() -> None:
    data = golden("e2e")
    assert len(windows()) == 64 * int(data["noise_windows"])
    assert_close(windows(), data["windows"].reshape(-1, 70), 1e-4)
    assert_close(windows()[63:-1:64], data["ref_tokens"][1:].reshape(-1, 70), 1e-4)


def test_motion_before_smoothing() -> None:
    data = golden("e2e")
    raw = networks().normalisation.denormalise(windows()[: len(data["smooth_t_in"])])
    for name, columns in {"yaw": [1], "pitch": [2], "roll": [3], "t": range(4, 7), "exp": range(7, 70)}.items():
        assert_close(raw[:, list(columns)], data[f"smooth_{name}_in"], 1e-4)


def test_keypoints_in_every_mode() -> None:
    data = golden("e2e")
    absolute = driving(as_predicted(identity().source, clip()))
    assert_close(absolute, data["kp_driving"], 1e-4)
    assert_close(driving(change_from(clip()[0], identity().source, clip())), data["kp_driving_relative"], 1e-4)
    expected = data["kp_driving_stitched"]
    arrays = {"source": np.repeat(source_keypoints(), len(expected), 0), "keypoints": absolute[: len(expected)]}
    assert_close(networks().stitching.run(**arrays)["stitched"], expected, 1e-4)


@pytest.mark.timeout(900)
def test_frames() -> None:
    data = golden("e2e")
    count = int(data["frames_shape"][0])
    vectors = as_predicted(identity().source, clip())[:count]
    pictures = pictures_of(driving(vectors))
    assert_sampled(pictures, data, "frames", 1e-3)
    frames = (np.clip(pictures, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert np.abs(frames[:, ::8, ::8].astype(int) - data["frames_u8_every8"]).max() <= 1
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), data["frames_u8_mean"].reshape(-1), atol=1)
    rendered = PublishedRenderer(networks()).render([identity()], vectors[:1])
    assert np.abs(rendered.astype(int) - frames[:1]).max() <= 1


def pictures_of(keypoints: np.ndarray) -> np.ndarray:
    """What the renderer's module computes before it makes bytes of it: (N, 3, 512, 512) in [0, 1]."""
    module = networks().renderer._module
    tables = {name: torch.from_numpy(table[None]) for name, table in identity().tables.items()}
    row = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        parts = [module.decode(module.warp(torch.from_numpy(one[None]), row, **tables)) for one in keypoints]
    return torch.cat(parts).numpy()


def test_short_clips_have_all_their_frames() -> None:
    for frames in (1, 5, 31):
        pcm = np.random.default_rng(frames).normal(0, 0.1, 640 * frames + 100).astype(np.float32)
        features = exact.clip_features(networks().audio_encoder, pcm)
        assert features.shape == (frames, 512)
        one_step, statistics = networks().window(1), networks().normalisation
        assert exact.sample_clip(one_step, statistics, identity(), features, exact.seeded_noise(0)).shape == (64, 70)
