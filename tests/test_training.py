"""Training in small: it learns, it repeats, and what is exported is what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from engines.face_mesh import face_model  # noqa: E402
from engines.networks.denoiser import DenoiserConfig  # noqa: E402
from engines.profile import EMBEDDED  # noqa: E402
from engines.runtime.opening import open_engine  # noqa: E402
from export.to_onnx import export_embedded, load_embedded, window_example  # noqa: E402
from training.batches import LENGTHS, WINDOW, Batches, amplitude, from_amplitude  # noqa: E402
from training.corpus import Item, measuring_matrix, mirror_matrix, mouth_numbers  # noqa: E402
from training.shapes import mirror_index  # noqa: E402
from training.tracks import Clip, held_out_names  # noqa: E402
from training.train import MotionModel, Objective, Recipe, train  # noqa: E402

TINY = DenoiserConfig(
    width=32, layers=1, heads=2, time_width=16, audio_width=EMBEDDED.feature_width, rotary=8, time_per_token=True
)
RECIPE = Recipe(network=TINY, steps=40, frames=200, warm_up=5, rate=5e-3, check_every=20, mix={"clips": 1.0})


def talking_items(count: int = 6, frames: int = 60) -> list[Item]:
    """Mouths that open with the loudness of a buzz: enough to learn from in seconds."""
    face, items = face_model(), []
    mouth, rest = mouth_numbers(face), face.rest()
    for index in range(count):
        rng = np.random.default_rng(index)
        loud = np.convolve(rng.standard_normal(frames + 8), np.ones(9) / 3, "valid").astype(np.float32)
        motion = np.tile(rest, (frames, 1)) + 0.1 * rng.standard_normal((frames, 70)).astype(np.float32)
        motion[:, mouth] += loud[:, None]
        level = np.interp(np.arange(1 + int(frames * 3.2)), 3.2 * np.arange(frames), loud)
        mel = np.clip(level[:, None] + 0.1 * rng.standard_normal((len(level), 80)), -4, 4).astype(np.float32)
        split = "val" if index == 0 else "train"
        mesh = np.tile(face.template, (frames, 1, 1))
        clip = Clip("clips", f"buzz{index}", f"p{index}", split, mesh, np.zeros(frames * 640, np.float32))
        items.append(Item(clip, motion, mel, np.zeros(70, np.float32)))
    return items


@pytest.fixture(scope="module")
def mirror() -> np.ndarray:
    """Mirror index of the template with its mouth open."""
    face = face_model()
    mesh = face.template.copy()
    mesh[np.flatnonzero(mesh[:, 1] > mesh[13, 1] + 0.03)] += np.array([0, 0.12, 0], np.float32)
    return mirror_index(mesh)


@pytest.fixture(scope="module")
def checkpoint(mirror: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "motion.pt"
    train(RECIPE, talking_items(), mirror, path)
    return path


def test_batches_are_a_function_of_the_seed(mirror: np.ndarray) -> None:
    items, face = talking_items(), face_model()
    batches = Batches(items, face, mirror, 1, {"clips": 1.0})
    first, again = batches.draw(200, 1), Batches(items, face, mirror, 1, {"clips": 1.0}).draw(200, 1)
    other = batches.draw(200, 2)
    np.testing.assert_array_equal(batches.draw(200, 1).mel, first.mel)
    np.testing.assert_array_equal(first.mel, again.mel)
    np.testing.assert_array_equal(first.motion, again.motion)
    assert first.mel.shape != other.mel.shape or not np.array_equal(first.mel, other.mel)


def test_batches_are_windows_of_sound_and_motion(mirror: np.ndarray) -> None:
    batches = Batches(talking_items(), face_model(), mirror, 0, {"clips": 1.0})
    lengths = set()
    for step in range(30):
        batch = batches.draw(300, step)
        count, length = batch.motion.shape[:2]
        lengths.add(length)
        assert batch.starts.shape == (count, length)
        assert batch.starts.max() + WINDOW.columns <= batch.mel.shape[2]
        assert np.isfinite(batch.mel).all()
        assert np.abs(batch.mel).max() <= 4
    assert min(lengths) >= LENGTHS[0]
    assert max(lengths) <= LENGTHS[1]
    assert len(lengths) > 5


def test_amplitude_and_mel_are_inverse() -> None:
    mel = np.linspace(-3.9, 3.9, 50, dtype=np.float32)
    np.testing.assert_allclose(from_amplitude(amplitude(mel)), mel, atol=1e-4)
    assert amplitude(np.float32([-4.0]))[0] == 0


def test_mirrored_twice_is_the_same_motion(mirror: np.ndarray) -> None:
    face = face_model()
    matrix, offset = mirror_matrix(face, mirror)
    measures = measuring_matrix(face)
    motion = np.random.default_rng(0).standard_normal((50, 70)).astype(np.float32)
    once = motion @ matrix + offset
    twice = once @ matrix + offset
    np.testing.assert_allclose(twice[:, :7], motion[:, :7], atol=1e-4)
    assert np.corrcoef((once @ measures)[:, 0], (motion @ measures)[:, 0])[0, 1] > 0.95
    np.testing.assert_allclose(once[:, 1], -motion[:, 1], atol=1e-4)


def test_the_loss_falls_and_the_mouth_follows_the_sound(checkpoint: Path, mirror: np.ndarray) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    first, last = saved["history"][0], saved["history"][-1]
    assert last["loss"] < first["loss"]
    assert saved["step"] in {entry["step"] for entry in saved["history"]}


def test_training_repeats(mirror: np.ndarray) -> None:
    items, face = talking_items(), face_model()
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        objective, batches = Objective(face, items, RECIPE), Batches(items, face, mirror, 0, RECIPE.mix)
        losses.append(objective(MotionModel(TINY), batches.draw(200, 1))[0].item())
    assert losses[0] == losses[1]


def test_export_is_what_was_trained(checkpoint: Path, tmp_path: Path) -> None:
    encoder_path, window_path, _ = export_embedded(checkpoint, tmp_path)
    encoder, loop = load_embedded(checkpoint)
    mel = torch.randn(3, 80, EMBEDDED.mel.columns)
    with torch.inference_mode():
        expected = encoder(mel).numpy()
    np.testing.assert_allclose(open_engine(encoder_path).run(mel=mel.numpy())["feature"], expected, atol=1e-4)
    window = open_engine(window_path)
    for batch in (1, 3):
        inputs = window_example(EMBEDDED, batch, seed=batch)
        with torch.inference_mode():
            expected = loop(**inputs).numpy()
        motion = window.run(**{name: value.numpy() for name, value in inputs.items()})["motion"]
        np.testing.assert_allclose(motion, expected, atol=1e-4)
        committed = EMBEDDED.window.committed
        np.testing.assert_array_equal(motion[:, :committed], inputs["committed"][:, :committed].numpy())
    facts = {key: json.loads(value) for key, value in window.metadata.items()}
    assert (facts["committed"], facts["new"], facts["lookahead"]) == (6, 2, 1)
    assert facts["steps"] == RECIPE.sampling.steps


def test_unrolled_steps_share_their_weights(checkpoint: Path, tmp_path: Path) -> None:
    _, window_path, _ = export_embedded(checkpoint, tmp_path)
    _, loop = load_embedded(checkpoint)
    stored = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(window_path).graph.initializer)
    parameters = sum(parameter.numel() for parameter in loop.parameters())
    assert stored < 1.2 * parameters


def test_held_out_clips_are_named() -> None:
    assert len(held_out_names()) >= 4
