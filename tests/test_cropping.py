"""Both crops and the paste-back against the numbers of the original."""

from importlib.resources import files

import cv2
import numpy as np
import pytest

from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.photo import read_photo
from engines.portrait.prepare import faces
from engines.published import cropping
from tests import seeded_weights
from tests.golden import golden, golden_seed

PIXELS = 2  # grey levels that OpenCV's versions may differ by


def cases(prefix: str) -> list[str]:
    """Names of the golden cases that begin with `prefix`, in order."""
    return sorted({name.rsplit("_", 2)[0] for name in golden("cropping") if name.startswith(prefix) and "_M_" in name})


def photo() -> np.ndarray:
    return seeded_weights.image(golden_seed(), "crop.photo", 400)


def assert_pixels(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual.astype(int) - expected).max() <= PIXELS


@pytest.mark.parametrize("case", [name.removesuffix("_lm68") for name in golden("cropping") if name.endswith("_lm68")])
def test_kdtalkers_crop(case: str) -> None:
    data = golden("cropping")
    width, height = (int(side) for side in data[f"{case}_size_wh"])
    box = cropping.face_box(cropping.dlib_features(data[f"{case}_lm68"]), width, height)
    assert box.resized == tuple(data[f"{case}_rsize"])
    assert box.crop == tuple(data[f"{case}_crop"])
    np.testing.assert_allclose(box.inner, data[f"{case}_quad"], atol=1e-4)
    cut = cropping.cut_face(np.zeros((height, width, 3), np.uint8), box)
    assert cut.shape[:2] == tuple(data[f"{case}_out_hw"])


@pytest.mark.parametrize("case", cases("lp"))
def test_liveportraits_crop(case: str) -> None:
    data = golden("cropping")
    landmarks = data[f"{case}_lmk"]
    crop = cropping.upright_crop(cropping.liveportrait_features(landmarks), rotate=case.endswith("_rot"))
    np.testing.assert_allclose(crop.to_crop, data[f"{case}_M_o2c"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(crop.to_photo, data[f"{case}_M_c2o"], rtol=1e-4, atol=1e-4)
    moved = landmarks @ crop.to_crop[:2, :2].T + crop.to_crop[:2, 2]
    np.testing.assert_allclose(moved, data[f"{case}_pt_crop"], rtol=1e-4, atol=1e-2)
    assert_pixels(cropping.cut_upright(photo(), crop)[::8, ::8], data[f"{case}_img_crop_every8"])


def test_box_of_a_driving_video() -> None:
    data = golden("cropping")
    crop = cropping.upright_crop(
        cropping.liveportrait_features(data["lp203_rot_lmk"]), scale=2.2, shift=-0.1, rotate=False
    )
    np.testing.assert_allclose(crop.centre, data["bbox203_center"], rtol=1e-4)
    np.testing.assert_allclose([crop.side, crop.side], data["bbox203_size"], rtol=1e-4)
    assert crop.angle == pytest.approx(float(data["bbox203_angle"]), abs=1e-4)
    half = crop.side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    np.testing.assert_allclose(crop.centre + half, data["bbox203_bbox"], atol=1e-2)


def test_paste_back() -> None:
    data = golden("cropping")
    frame = seeded_weights.image(golden_seed(), "crop.animated", 512)
    paste = cropping.PasteBack.into(photo(), data["lp203_rot_M_c2o"])
    assert np.abs(paste.mask[::8, ::8] - data["paste_mask_every8"]).max() <= PIXELS / 255
    assert_pixels(paste(frame)[::4, ::4], data["paste_image"])


def test_unchanged_frame_pasted_back_leaves_the_photo() -> None:
    picture = photo()
    eyes, mouth = np.array([[160.0, 170], [240, 172]]), np.array([202.0, 260])
    box = cropping.face_box(cropping.Features(*eyes, mouth, mouth, eyes), 400, 400)
    frame = cv2.resize(cropping.cut_face(picture, box), (512, 512), interpolation=cv2.INTER_LINEAR)
    pasted = cropping.PasteBack.into(picture, cropping.box_to_photo(box, 400, 400))(frame)
    assert (pasted != picture).any()
    assert np.abs(pasted.astype(int) - picture).mean() < 2.5  # the picture's own noise, blurred by two resamplings


def test_mesh_and_landmarks_agree_on_the_crop_of_a_real_face() -> None:
    """The mesh's stand-ins give a square that holds the whole face, eyes level, in the middle."""
    pixels = read_photo((files("engines") / "avatars" / "astronaut.jpg").read_bytes()).pixels
    with FaceLandmarker() as landmarker:
        mesh = faces(landmarker, pixels)[0]
    features = cropping.mesh_features(mesh)
    crop = cropping.upright_crop(features)
    inside = mesh[:, :2] @ crop.to_crop[:2, :2].T + crop.to_crop[:2, 2]
    assert (inside > 0).all()
    assert (inside < 512).all()
    eyes = [inside[list(eye)].mean(axis=0) for eye in cropping.MESH_EYES]
    assert abs(eyes[0][1] - eyes[1][1]) < 15
    assert abs((eyes[0][0] + eyes[1][0]) / 2 - 256) < 40
    left, _, right, bottom = cropping.face_box(features, pixels.shape[1], pixels.shape[0]).box
    assert left < mesh[:, 0].min()
    assert right > mesh[:, 0].max()
    assert bottom > mesh[:, 1].max()
