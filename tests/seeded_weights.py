"""Deterministic stand-in weights and inputs; the golden outputs were computed from exactly these arrays.

Every array has its own generator: NumPy's default one, seeded with the first 16 bytes (little-endian) of the
SHA-256 of ``"{seed}:{key}"`` for weights and of ``"input:{seed}:{name}"`` for inputs. What is drawn depends on the
key alone, so the order of calls never matters. The rules must stay bit for bit as they are: `weights_check.npz`
of a golden set holds the sums they give.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Manifest = Mapping[str, Any]

# Key pattern -> gain of weights, mean of biases, spread of biases; keeps activations in a realistic range.
OVERRIDES = (
    (r"detector\.fc_scale\.", 0.05, 1.5, 1.0),
    (r"detector\.fc_kp\.", 0.25, 0.0, 1.0),
    (r"detector\.fc_exp\.", 0.006, 0.0, 0.02),
    (r"detector\.fc_t\.", 0.05, 0.0, 0.5),
    (r"detector\.fc_(pitch|yaw|roll)\.", 1.0, 0.0, 1.0),
    (r"point_model\.model\.output_projection\.", 0.1, 0.0, 0.3),
    (r"module\.audio_encoder\.", 1.0, 0.0, 1.0),
    (r"dense_motion_network\.mask\.", 2.0, 0.0, 1.0),
    (r"dense_motion_network\.hourglass\.", 1.5, 0.0, 1.0),
    (r"conv_img\.", 1.0, 0.0, 1.0),
    (r"retarget_(shoulder|mouth|eye)/", 1.2, 0.0, 1.0),
)
POWER_ITERATIONS = 30


def load_manifest(path: Path) -> Manifest:
    manifest: Manifest = json.loads(path.read_text())
    return manifest


def make_weights(manifest: Manifest, seed: int) -> dict[str, NDArray[Any]]:
    """Every tensor of a manifest, in its order."""
    tensors = manifest["tensors"]
    made: dict[str, NDArray[Any]] = {}
    for key, spec in tensors.items():
        stem, _, leaf = key.rpartition(".")
        if leaf in ("weight_u", "weight_v"):
            if leaf == "weight_u" or f"{stem}.weight_u" not in made:
                original = f"{stem}.weight_orig"
                weight = made.get(original)
                if weight is None:
                    weight = _array(original, tuple(tensors[original]["shape"]), seed)
                left, right = _leading_vectors(weight.reshape(len(weight), -1), _generator(f"{seed}:{stem}.weight_u"))
            made[key] = left if leaf == "weight_u" else right
        else:
            made[key] = _array(key, tuple(spec["shape"]), seed)
    return made


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def _override(key: str) -> tuple[float, float, float]:
    return next((tuple(row) for pattern, *row in OVERRIDES if re.search(pattern, key)), (1.0, 0.0, 1.0))


def _array(key: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if key.endswith("rotary_emb.freqs"):
        width = 2 * shape[0]
        return (1.0 / np.power(10000.0, np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)
    if key.endswith("positional_encoding.freq_bands"):
        return np.power(2.0, np.linspace(1.0, 9.0, shape[0])).astype(np.float32)
    generator = _generator(f"{seed}:{key}")
    if leaf == "running_var":
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    noise = generator.standard_normal(shape, dtype=np.float32)
    if leaf == "running_mean" or (leaf == "beta"):
        return np.float32(0.1) * noise
    if key.endswith(("relative_attention_bias.weight", "grn.gamma")):
        return np.float32(0.5) * noise
    if leaf == "gamma":
        return np.float32(1.0) + np.float32(0.1) * noise
    gain, mean, spread = _override(key)
    if leaf == "bias":
        return (np.float32(mean) + np.float32(0.1 * spread) * noise).astype(np.float32)
    if len(shape) <= 1:
        return np.float32(1.0) + np.float32(0.1) * noise
    fan_in = int(np.prod(shape[1:]))
    return (noise * np.float32(gain / np.sqrt(fan_in))).astype(np.float32)


def _leading_vectors(
    weight: NDArray[np.float32], generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Leading singular vectors by power iteration, as spectral normalisation stores them."""
    matrix = weight.astype(np.float64)
    left = generator.standard_normal(len(matrix))
    left /= np.linalg.norm(left)
    right = left
    for _ in range(POWER_ITERATIONS):
        right = matrix.T @ left
        right /= np.linalg.norm(right)
        left = matrix @ right
        left /= np.linalg.norm(left)
    return left.astype(np.float32), right.astype(np.float32)


def normal(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return _generator(f"input:{seed}:{name}").standard_normal(shape, dtype=np.float32)


def image(seed: int, name: str, size: int = 256) -> NDArray[np.uint8]:
    """A smooth random picture with weak noise, u8 (size, size, 3)."""
    generator = _generator(f"input:{seed}:{name}")
    coarse = generator.uniform(0, 255, (9, 9, 3))
    position = np.linspace(0, 8, size)
    low = np.clip(np.floor(position).astype(int), 0, 7)
    part = position - low
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    picture = rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]
    picture = picture + generator.normal(0, 4, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
