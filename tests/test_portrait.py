"""Real pictures through the whole of portrait preparation: what passes, what is refused and in which words."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import FOREHEAD, HEADROOM, INNER_LIPS, cut, face_height, hair_top, prepare
from engines.types import FRAME_SIZE, ByteArray, Portrait, PortraitError
from tests.pictures import AVATARS, COVERS, covered, eye_distance, picture, png, resized, rotated, turned

SHIPPED = ("iris.png", "astronaut.jpg")
PORTRAITS = Path(os.environ.get("KDTALKER_DATA", "../shared/data")) / "portraits"
REASONS = {"unreadable", "no_face", "several_faces", "turned", "small", "blurred", "covered", "cut"}


@pytest.fixture(scope="module")
def landmarker() -> Iterator[FaceLandmarker]:
    with FaceLandmarker() as opened:
        yield opened


@pytest.fixture(scope="module")
def portraits(landmarker: FaceLandmarker) -> dict[str, Portrait]:
    return {name: prepare((AVATARS / name).read_bytes(), landmarker) for name in SHIPPED}


def refusal(landmarker: FaceLandmarker, pixels: ByteArray) -> tuple[str, str]:
    with pytest.raises(PortraitError) as caught:
        prepare(png(pixels), landmarker)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_avatar_becomes_a_portrait(portraits: dict[str, Portrait], name: str) -> None:
    portrait = portraits[name]
    assert (portrait.crop.shape, portrait.crop.dtype) == ((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    assert (portrait.mesh.shape, portrait.mesh.dtype) == ((478, 3), np.float32)
    assert (portrait.to_photo.shape, portrait.to_photo.dtype) == ((2, 3), np.float32)
    assert len(portrait.digest) == 64
    assert {"face_height", "sharpness", "yaw", "pitch", "roll", "mouth_doubt"} <= portrait.report.keys()
    assert abs(portrait.report["yaw"]) < 5
    assert 0.4 < face_height(portrait.mesh) / FRAME_SIZE < 0.48


@pytest.mark.parametrize("name", SHIPPED)
def test_the_same_photo_gives_the_same_portrait_whoever_holds_the_graphs(
    portraits: dict[str, Portrait], name: str
) -> None:
    again = prepare((AVATARS / name).read_bytes())
    np.testing.assert_array_equal(again.crop, portraits[name].crop)
    np.testing.assert_array_equal(again.mesh, portraits[name].mesh)
    assert (again.digest, again.report) == (portraits[name].digest, portraits[name].report)
    assert portraits["iris.png"].digest != portraits["astronaut.jpg"].digest


@pytest.mark.parametrize("name", SHIPPED)
def test_to_photo_leads_from_crop_pixels_to_the_photo_they_show(portraits: dict[str, Portrait], name: str) -> None:
    portrait, photo = portraits[name], picture(name)
    back = cv2.warpAffine(portrait.crop, portrait.to_photo, photo.shape[1::-1], flags=cv2.INTER_AREA)
    on_photo = portrait.mesh[:, :2] @ portrait.to_photo[:, :2].T + portrait.to_photo[:, 2]
    low, high = on_photo.min(0).astype(int), on_photo.max(0).astype(int)
    face = np.s_[low[1] : high[1], low[0] : high[0]]
    matched = np.abs(back[face].astype(int) - photo[face].astype(int)).mean()
    shifted = np.abs(np.roll(back, 1, 1)[face].astype(int) - photo[face].astype(int)).mean()
    assert matched < 4
    assert matched < 0.7 * shifted, "one pixel off must be worse"


@pytest.mark.parametrize("name", SHIPPED)
def test_there_is_room_above_the_hair_even_where_the_photo_ends(
    landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str
) -> None:
    photo = picture(name)
    mesh = (portraits[name].mesh[:, :2] @ portraits[name].to_photo[:, :2].T + portraits[name].to_photo[:, 2]).astype(
        int
    )
    top_of_hair = hair_top(landmarker, photo, np.column_stack([mesh, mesh[:, 0]]).astype(np.float32))
    low = photo[max(int(top_of_hair), 0) :]
    portrait = prepare(png(low), landmarker)
    top = -portrait.to_photo[1, 2] / portrait.to_photo[1, 1]
    assert top > 0.9 * HEADROOM * FRAME_SIZE
    assert portrait.mesh[FOREHEAD, 1] > top


def test_a_photo_is_continued_without_a_seam_or_a_second_head() -> None:
    photo = picture("iris.png")[150:600, 200:560]
    crop = cut(photo, -100, -80, 600)
    edge = round(100 * FRAME_SIZE / 600)
    step = np.abs(np.diff(crop.astype(int), axis=1)).mean((0, 2))
    assert step[edge - 3 : edge + 3].max() < 12
    assert step[: edge // 2].max() < 1.5, "far outside nothing is left but soft colour"
    kept = crop[round(100 * FRAME_SIZE / 600) : round(500 * FRAME_SIZE / 600), edge + 8 : edge + 280]
    assert kept.std() > 30


@pytest.mark.parametrize("name", SHIPPED)
def test_closed_lips_never_cross_and_open_lips_stay_open(portraits: dict[str, Portrait], name: str) -> None:
    mesh = portraits[name].mesh
    gaps = mesh[INNER_LIPS[:, 1], 1] - mesh[INNER_LIPS[:, 0], 1]
    assert (gaps > 0.5).all()
    if name == "iris.png":
        assert gaps.max() < 1, "drawn with closed lips"
    else:
        assert gaps[4] > 0.08 * eye_distance(portraits[name]), "smiles with teeth"


def test_every_portrait_of_the_collection_passes(landmarker: FaceLandmarker) -> None:
    photos = sorted(PORTRAITS.glob("*.jpg"))
    if not photos:
        pytest.skip(f"no portraits in {PORTRAITS.absolute()}; set KDTALKER_DATA to the folder that holds them")
    assert len(photos) == 8
    for photo in photos:
        portrait = prepare(photo.read_bytes(), landmarker)
        above = portrait.mesh[:, 1].min() / FRAME_SIZE
        assert above > HEADROOM, photo.name


def test_a_sideways_stored_photo_is_the_upright_one(landmarker: FaceLandmarker, portraits: dict[str, Portrait]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(picture("iris.png")).transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(prepare(buffer.getvalue(), landmarker).crop, portraits["iris.png"].crop)


def test_a_small_face_in_a_large_picture_is_found(landmarker: FaceLandmarker) -> None:
    wide = np.full((1800, 2600, 3), (120, 140, 120), np.uint8)
    face = resized(picture("iris.png"), 0.3)
    wide[1100 : 1100 + face.shape[0], 1700 : 1700 + face.shape[1]] = face
    portrait = prepare(png(wide), landmarker)
    assert 80 < portrait.report["face_height"] < 110
    nose = portrait.mesh[1, :2] @ portrait.to_photo[:, :2].T + portrait.to_photo[:, 2]
    np.testing.assert_allclose(nose, (1700 + 0.3 * 384, 1100 + 0.3 * 415), atol=12)


def test_no_face(landmarker: FaceLandmarker) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for pixels in (noise, np.full((400, 400, 3), 200, np.uint8), picture("astronaut.jpg")[250:]):
        reason, message = refusal(landmarker, pixels)
        assert reason == "no_face"
        assert "send a photo" in message


def test_several_faces(landmarker: FaceLandmarker) -> None:
    iris, astronaut = resized(picture("iris.png"), 0.5), picture("astronaut.jpg")[:384, 64:448]
    reason, message = refusal(landmarker, np.hstack([iris, astronaut]))
    assert reason == "several_faces"
    assert "2 faces" in message
    assert "only one person" in message


def test_a_bystander_in_the_background_is_no_second_face(landmarker: FaceLandmarker) -> None:
    group = picture("iris.png").copy()
    small = resized(picture("iris.png")[120:620, 180:590], 0.25)
    group[40 : 40 + small.shape[0], 640 : 640 + small.shape[1]] = small
    assert prepare(png(group), landmarker).report["face_height"] > 300


@pytest.mark.parametrize(("yaw", "pitch"), [(42, 0), (-42, 0), (0, 40), (0, -40)])
@pytest.mark.parametrize("name", SHIPPED)
def test_turned_too_far(
    landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str, yaw: float, pitch: float
) -> None:
    reason, message = refusal(landmarker, turned(portraits[name], yaw, pitch))
    assert reason == "turned"
    assert "straight into the camera" in message


@pytest.mark.parametrize("name", SHIPPED)
def test_turned_a_little_is_accepted_and_measured(
    landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str
) -> None:
    left, right = (prepare(png(turned(portraits[name], yaw, 0)), landmarker).report["yaw"] for yaw in (-15, 15))
    assert left < -6
    assert right > 6


@pytest.mark.parametrize("angle", [-35, 35, 60])
def test_tilted(landmarker: FaceLandmarker, angle: float) -> None:
    reason, message = refusal(landmarker, rotated(picture("iris.png"), angle))
    assert reason == "turned"
    assert "eyes are level" in message


@pytest.mark.parametrize(("name", "factor"), [("iris.png", 0.19), ("astronaut.jpg", 0.5)])
def test_too_small(landmarker: FaceLandmarker, name: str, factor: float) -> None:
    reason, message = refusal(landmarker, resized(picture(name), factor))
    assert reason == "small"
    assert "larger photo" in message


@pytest.mark.parametrize("name", SHIPPED)
def test_blurred(landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str) -> None:
    unit = eye_distance(portraits[name])
    crop = portraits[name].crop
    out_of_focus = np.asarray(cv2.GaussianBlur(crop, (0, 0), 0.045 * unit), np.uint8)
    length = round(0.2 * unit)
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    moved = np.asarray(cv2.filter2D(crop, -1, kernel), np.uint8)
    for pixels in (out_of_focus, moved):
        reason, message = refusal(landmarker, pixels)
        assert reason == "blurred"
        assert "in focus" in message
    slightly = np.asarray(cv2.GaussianBlur(crop, (0, 0), 0.008 * unit), np.uint8)
    assert prepare(png(slightly), landmarker).report["sharpness"] < portraits[name].report["sharpness"]


@pytest.mark.parametrize("cover", COVERS)
@pytest.mark.parametrize("name", SHIPPED)
def test_mouth_covered(landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str, cover: str) -> None:
    reason, message = refusal(landmarker, covered(portraits[name], cover))
    assert reason == "covered"
    assert "hand, mask, scarf or microphone" in message


@pytest.mark.parametrize("name", SHIPPED)
def test_poor_light_and_compression_are_not_taken_for_a_covered_mouth(
    landmarker: FaceLandmarker, portraits: dict[str, Portrait], name: str
) -> None:
    crop = portraits[name].crop
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    lamp = np.clip(1.15 - np.arange(FRAME_SIZE) / FRAME_SIZE * 0.95, 0, 1)[None, :, None]
    squeezed = cv2.imdecode(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)
    for pixels in (grey, (crop * 0.35).astype(np.uint8), (crop * lamp).astype(np.uint8), squeezed):
        assert prepare(png(pixels), landmarker).report["mouth_doubt"] < 0.22


def test_cut_off_by_the_edge(landmarker: FaceLandmarker) -> None:
    for pixels in (picture("iris.png")[:, :400], picture("iris.png")[:, 370:], picture("iris.png")[:505]):
        reason, message = refusal(landmarker, pixels)
        assert reason == "cut"
        assert "whole head" in message


def test_unreadable(landmarker: FaceLandmarker) -> None:
    data = (AVATARS / "astronaut.jpg").read_bytes()
    with pytest.raises(PortraitError, match="save the photo again") as caught:
        prepare(data[: len(data) // 3], landmarker)
    assert caught.value.reason == "unreadable"


def test_threads_share_a_landmarker(landmarker: FaceLandmarker, portraits: dict[str, Portrait]) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda name: prepare((AVATARS / name).read_bytes(), landmarker), SHIPPED * 3))
    for name, portrait in zip(SHIPPED * 3, made, strict=True):
        np.testing.assert_array_equal(portrait.mesh, portraits[name].mesh)


def test_a_closed_landmarker_can_be_used_again(portraits: dict[str, Portrait]) -> None:
    landmarker = FaceLandmarker()
    for _ in range(2):
        np.testing.assert_array_equal(
            prepare((AVATARS / "iris.png").read_bytes(), landmarker).mesh, portraits["iris.png"].mesh
        )
        landmarker.close()


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_mediapipe_is_loaded_at_the_first_use_and_says_nothing() -> None:
    result = python(
        "import sys, pathlib\n"
        "from engines.portrait.prepare import prepare\n"
        "assert not any(name.startswith('mediapipe') for name in sys.modules)\n"
        "sys.stderr.write('kept\\n')\n"
        "prepare(pathlib.Path('engines/avatars/iris.png').read_bytes())\n"
        "assert 'mediapipe' in sys.modules\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "kept\n")


def test_a_missing_mediapipe_is_explained() -> None:
    result = python(
        "import sys, pathlib\n"
        "sys.modules['mediapipe'] = None\n"
        "from engines.portrait.prepare import prepare\n"
        "from engines.types import KDTalkerError\n"
        "try:\n"
        "    prepare(pathlib.Path('engines/avatars/iris.png').read_bytes())\n"
        "except KDTalkerError as error:\n"
        "    print(error)\n"
    )
    assert "make install" in result.stdout, result.stderr
