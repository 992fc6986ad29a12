"""The 21 implicit keypoints, learned without labels.

The offsets of the dense mesh are explained as ``mixing (478 x 21) @ exp (21 x 3)``, one non-negative
sparse matrix for all three axes, found by alternating least squares on the 478 x 478 Gram matrix of the
training offsets. Sharing the matrix over the axes makes it commute with rotation; non-negativity and a
little l1 make each keypoint the handle of one part of the face.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.face_mesh import FaceModel
from engines.motion import EXPRESSION, pack
from engines.types import KEYPOINTS, MOTION_WIDTH, FloatArray
from training.shapes import Shape, lip_gap, mirrored

WEIGHTS = Path(__file__).resolve().parent.parent / "engines" / "weights" / "embedded"
L1 = 0.01
DEPTH_WEIGHT = 0.35  # the tracker guesses z
SHARES = {"grid_s1": 0.20, "lrcar": 0.40, "clips": 0.40}  # of the evidence, whatever the minutes
POSE_FROM = ("grid_s1", "clips")  # 1.2 s clips say nothing about head motion
RIDGE = 1e-2  # keeps keypoints from cancelling each other

LIPS = np.array([
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88, 178,
    87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
])  # fmt: skip
LIDS = np.array([
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173, 263, 249, 390, 373, 374, 380,
    381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
])  # fmt: skip
BROWS = np.array([
    46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336,
])  # fmt: skip
IRISES = np.arange(468, 478)


@dataclass(frozen=True, slots=True)
class Tables:
    """What ``keypoints.npz`` holds; see `engines.face_mesh.FaceModel`."""

    mixing: FloatArray
    reading: FloatArray
    placing: FloatArray
    template: FloatArray
    mouth: np.ndarray
    mean: FloatArray
    std: FloatArray
    canonical_mean: FloatArray
    canonical_std: FloatArray

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{name: getattr(self, name) for name in self.__slots__})


def point_weights() -> FloatArray:
    """How much each mesh point counts, f32 (478,): speech, blinks, brows and gaze before cheeks."""
    weights = np.full(478, 0.5, np.float32)
    weights[LIPS], weights[LIDS], weights[BROWS], weights[IRISES] = 2, 8, 3.5, 1
    return weights


def gram(shapes: list[Shape], mirror: np.ndarray) -> FloatArray:
    """Second moments (478, 478) of the offsets and of their mirror images, data sets weighted by `SHARES`."""
    total = np.zeros((478, 478))
    axis = np.sqrt([1.0, 1.0, DEPTH_WEIGHT]).astype(np.float32)
    for dataset, share in SHARES.items():
        members = [shape for shape in shapes if shape.clip.dataset == dataset]
        frames = sum(len(shape.offsets) for shape in members)
        for shape in members:
            flat = np.moveaxis(shape.offsets * axis, 1, 0).reshape(478, -1)
            total += share / frames * (flat @ flat.T)
    return 0.5 * (total + total[np.ix_(mirror, mirror)])


def _project(mixing: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted pseudo-inverse (21, 478) with a small ridge."""
    normal = mixing.T @ (weights[:, None] * mixing)
    normal += RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    return np.linalg.solve(normal, mixing.T * weights)


def fit_mixing(moments: FloatArray, weights: FloatArray, count: int = KEYPOINTS, rounds: int = 600) -> FloatArray:
    """Non-negative mixing matrix (478, count) whose columns have maximum 1.

    Starts from the mesh points that explain most when picked greedily (pivoted Cholesky), then
    alternates the keypoints' least-squares offsets with coordinate descent on the matrix.
    """
    rest = moments * np.sqrt(weights[:, None] * weights[None])
    picked: list[int] = []
    for _ in range(count):
        gain = (rest**2).sum(0) / np.maximum(np.diag(rest), 1e-12)
        gain[picked] = 0
        pick = int(gain.argmax())
        picked.append(pick)
        rest = rest - np.outer(rest[:, pick], rest[pick]) / rest[pick, pick]
    mixing = np.zeros((len(moments), count))
    mixing[picked, np.arange(count)] = 1
    reading = np.eye(len(moments))[picked]
    for _ in range(rounds):
        for _ in range(2):  # sweeps per reading
            cross = moments @ reading.T
            inner = reading @ cross
            size = np.sqrt(np.diag(inner))
            for k in range(count):
                residual = cross[:, k] - mixing @ inner[:, k] + mixing[:, k] * inner[k, k]
                penalty = L1 * np.sqrt(np.diag(moments).mean()) * size[k] / weights
                mixing[:, k] = np.maximum(residual - penalty, 0) / inner[k, k]
        mixing /= np.maximum(mixing.max(0), 1e-9)
        reading = _project(mixing, weights)
    return mixing.astype(np.float32)


def opening_gains(shapes: list[Shape]) -> dict[str, float]:
    """Per person the factor that brings the mouth's amplitude to the typical one (.6 to 1.6)."""
    gaps: dict[str, list[FloatArray]] = {}
    for shape in shapes:
        gap = lip_gap(shape.rest + shape.offsets) - lip_gap(shape.rest)
        gaps.setdefault(shape.clip.person, []).append(gap)
    wide = {person: float(np.quantile(np.concatenate(values), 0.9)) for person, values in gaps.items()}
    typical = float(np.median(list(wide.values())))
    return {person: float(np.clip(typical / max(value, 1e-3), 0.6, 1.6)) for person, value in wide.items()}


def motion_of(shape: Shape, reading: FloatArray, mouth: np.ndarray, gain: float) -> FloatArray:
    """Motion relative to rest, (T, 70) in physical units, the mouth brought to typical amplitude."""
    exp = reading @ shape.offsets
    exp[:, mouth] *= gain
    return pack(shape.scale, shape.angles, shape.translation, exp)


def _statistics(motions: list[tuple[str, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation (70,) with every data set at its share; weak numbers get a floor."""
    mean, square = np.zeros(MOTION_WIDTH), np.zeros(MOTION_WIDTH)
    for first, last, shares in ((0, 7, {k: SHARES[k] for k in POSE_FROM}), (7, MOTION_WIDTH, SHARES)):
        for dataset, share in shares.items():
            values = np.concatenate([motion[:, first:last] for name, motion in motions if name == dataset])
            mean[first:last] += share / sum(shares.values()) * values.mean(0)
            square[first:last] += share / sum(shares.values()) * (values.astype(np.float64) ** 2).mean(0)
    std = np.sqrt(square - mean**2)
    mean[:7] = [1, 0, 0, 0, 0, 0, 0]
    exp = std[EXPRESSION].reshape(KEYPOINTS, 3)
    exp = np.maximum(exp, 0.25 * np.median(exp))
    exp[:, 2] = np.maximum(exp[:, 2], 0.5 * exp[:, :2].max(1))
    std[EXPRESSION] = exp.reshape(-1)
    return mean.astype(np.float32), std.astype(np.float32)


def fit(shapes: list[Shape], template: FloatArray, mirror: np.ndarray) -> Tables:
    """All tables of the embedded profile from the shapes of the training clips."""
    weights = point_weights()
    mixing = fit_mixing(gram(shapes, mirror), weights)
    reading = _project(mixing, weights).astype(np.float32)
    placing = (mixing / mixing.sum(0)).T.astype(np.float32)
    heights = template[:, 1]
    energy = mixing**2 * weights[:, None]
    mouth = energy[heights > template[1, 1]].sum(0) > 0.5 * energy.sum(0)  # below the tip of the nose
    gains = opening_gains(shapes)
    motions = [(s.clip.dataset, motion_of(s, reading, mouth, gains[s.clip.person])) for s in shapes]
    mean, std = _statistics(motions)
    people = {shape.clip.person: shape.rest for shape in shapes}
    both = [placing @ rest for rest in people.values()] + [placing @ mirrored(r, mirror) for r in people.values()]
    canonical = np.stack(both).reshape(len(both), -1)
    floor = np.full(canonical.shape[1], 0.01, np.float32)
    return Tables(
        mixing=mixing,
        reading=reading,
        placing=placing,
        template=template.astype(np.float32),
        mouth=mouth,
        mean=mean,
        std=std,
        canonical_mean=canonical.mean(0).astype(np.float32),
        canonical_std=np.maximum(canonical.std(0), floor).astype(np.float32),
    )


def explained(tables: Tables | FaceModel, shapes: list[Shape]) -> dict[str, float]:
    """R2 of the reconstruction within clips: face, lips, lids, brows, opening and width of the mouth."""
    parts = {"face": np.arange(478), "lips": LIPS, "lids": LIDS, "brows": BROWS}
    axis = np.array([1, 1, DEPTH_WEIGHT])
    error, total = dict.fromkeys([*parts, "opening", "width"], 0.0), dict.fromkeys([*parts, "opening", "width"], 0.0)

    def width(mesh: FloatArray) -> FloatArray:
        return np.linalg.norm(mesh[:, 61] - mesh[:, 291], axis=-1)

    for shape in shapes:
        rebuilt = tables.mixing @ (tables.reading @ shape.offsets)
        for name, points in parts.items():
            true, ours = shape.offsets[:, points], rebuilt[:, points]
            error[name] += float((axis * (true - ours) ** 2).sum())
            total[name] += float((axis * (true - true.mean(0)) ** 2).sum())
        for name, measure in (("opening", lip_gap), ("width", width)):
            true, ours = measure(shape.rest + shape.offsets), measure(shape.rest + rebuilt)
            error[name] += float(((true - ours) ** 2).sum())
            total[name] += float(((true - true.mean()) ** 2).sum())
    return {name: round(1 - error[name] / total[name], 4) for name in error}


def describe(tables: Tables) -> list[str]:
    """One line per keypoint: where it sits and how strongly it moves."""
    centres = tables.placing @ tables.template
    spread = tables.std[EXPRESSION].reshape(-1, 3)
    return [
        json.dumps({"keypoint": k, "mouth": bool(tables.mouth[k]), "at": np.round(centres[k], 2).tolist(),
                    "strongest": int(tables.mixing[:, k].argmax()), "points": int((tables.mixing[:, k] > 0.1).sum()),
                    "deviation": np.round(spread[k], 4).tolist()})
        for k in range(KEYPOINTS)
    ]  # fmt: skip
