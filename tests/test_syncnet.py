"""LSE-D and LSE-C: the arithmetic around SyncNet, and the network's shape. Published weights were not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.face_mesh import face_model  # noqa: E402
from engines.types import WeightsError  # noqa: E402
from training.syncnet import REACH, SIDE, SyncNet, agreement, cepstra, cut, face_square, lip_sync, load_syncnet  # noqa: E402

REFERENCE = Path(__file__).resolve().parent / "data" / "cepstra.npz"


@pytest.fixture(scope="module")
def network() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval()


def test_cepstra_equal_those_of_the_library_the_original_uses() -> None:
    """The reference came out of python_speech_features 0.6: ``mfcc(pcm, 16000)``."""
    with np.load(REFERENCE) as reference:
        ours = cepstra(reference["pcm"].astype(np.float32) / 32768)
        np.testing.assert_allclose(ours.T, reference["cepstra"], atol=1e-4)


def test_embeddings_have_the_published_shape(network: SyncNet) -> None:
    with torch.inference_mode():
        assert network.hear(torch.zeros(2, 1, 13, 20)).shape == (2, 1024)
        assert network.see(torch.zeros(1, 3, 5, SIDE, SIDE)).shape == (1, 1024)
    keys = network.state_dict()
    assert keys["netcnnaud.18.weight"].shape == (512, 256, 5, 4)
    assert keys["netcnnlip.0.weight"].shape == (96, 3, 5, 7, 7)
    assert keys["netcnnlip.18.weight"].shape == (512, 256, 1, 6, 6)
    assert keys["netfclip.3.weight"].shape == (1024, 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == 13_631_616


def test_a_file_is_loaded_whole_or_refused(network: SyncNet, tmp_path: Path) -> None:
    whole = network.state_dict()
    torch.save(whole, tmp_path / "good.model")
    loaded = load_syncnet(tmp_path / "good.model")
    assert all(torch.equal(value, whole[name]) for name, value in loaded.state_dict().items())
    torch.save({name: value for name, value in whole.items() if name != "netfcaud.0.bias"}, tmp_path / "bad.model")
    with pytest.raises(WeightsError, match=r"netfcaud\.0\.bias"):
        load_syncnet(tmp_path / "bad.model")
    with pytest.raises(WeightsError, match="There is no file"):
        load_syncnet(tmp_path / "nowhere.model")


@pytest.mark.parametrize("late", [-9, 0, 4])
def test_a_planted_offset_is_found(late: int) -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((120, 64)).astype(np.float32)
    heard, seen = common[20:100], common[20 + late : 100 + late]
    noisy = seen + 0.3 * rng.standard_normal(seen.shape).astype(np.float32)
    found = agreement(noisy, heard)
    assert found.offset == late
    assert found.confidence > 3
    apart = agreement(rng.standard_normal((80, 64)).astype(np.float32), heard)
    assert apart.distance > found.distance
    assert apart.confidence < found.confidence


def test_a_clip_is_cut_into_windows_of_five_pictures(network: SyncNet) -> None:
    """At the farthest shift four windows meet no sound at all: the distance is then the length of what was seen."""
    crops = np.random.default_rng(1).integers(0, 255, (9, SIDE, SIDE, 3), dtype=np.uint8)
    scored = lip_sync(network, crops, np.zeros(9 * 640, np.float32))
    windows = np.stack([crops[k : k + 5] for k in range(4)]).transpose(0, 4, 1, 2, 3).astype(np.float32)
    with torch.inference_mode():
        seen = network.see(torch.from_numpy(windows))
        heard = network.hear(torch.from_numpy(cepstra(np.zeros(9 * 640, np.float32))[None, None, :, :20]))
    lengths = float(seen.norm(dim=1).mean()), float((seen - heard).norm(dim=1).mean())
    assert scored.distance == pytest.approx(min(lengths), rel=0.02)
    assert abs(scored.offset) <= REACH


def test_the_face_fills_the_square_with_room_below() -> None:
    mesh = face_model().template * 200 + np.array([300, 300, 0], np.float32)
    left, top, side = face_square(mesh)
    points = (mesh[:, :2] - (left, top)) / side
    assert points.min() > -0.05
    assert points[:, 1].max() < 0.8
    picture = np.full((600, 600, 3), (10, 20, 30), np.uint8)
    assert cut(picture, (left, top, side))[SIDE // 2, SIDE // 2].tolist() == [30, 20, 10], "blue comes first"
