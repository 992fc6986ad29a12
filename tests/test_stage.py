"""The face before other backgrounds and back in its photo: what may change there, and what may not."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import kdtalker
from engines import motion
from engines.controls import BACKGROUNDS, CROP, GREEN, ORIGINAL, PHOTO
from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.photo import read_photo
from engines.portrait.prepare import prepare
from engines.profile import EMBEDDED
from engines.renderer import Renderer, open_renderer
from engines.types import FRAME_SIZE, Identity, Portrait

ASTRONAUT = Path(__file__).resolve().parent.parent / "engines" / "avatars" / "astronaut.jpg"


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    with FaceLandmarker() as landmarker:
        return prepare(ASTRONAUT.read_bytes(), landmarker)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return open_renderer(EMBEDDED)


@pytest.fixture(scope="module")
def identity(renderer: Renderer, portrait: Portrait) -> Identity:
    return renderer.enrol(portrait)


def moved(identity: Identity) -> np.ndarray:
    """The photo's motion with the head turned."""
    frame = identity.source.copy()
    frame[motion.ANGLES] += (8, 3, 4)
    return frame


def test_the_scene_is_the_photo_and_knows_the_crop_in_it(portrait: Portrait) -> None:
    scene = portrait.scene
    height, width = scene.photo.shape[:2]
    assert (height % 2, width % 2) == (0, 0)
    assert scene.person.shape == (height, width)
    photo = read_photo(ASTRONAUT.read_bytes()).pixels
    again = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC)
    assert np.abs(scene.photo.astype(int) - again).mean() < 2
    left, top, right, bottom = (
        max(scene.left, 0),
        max(scene.top, 0),
        min(scene.left + scene.side, width),
        min(scene.top + scene.side, height),
    )
    crop = cv2.resize(portrait.crop, (scene.side, scene.side), interpolation=cv2.INTER_AREA)
    part = crop[top - scene.top : bottom - scene.top, left - scene.left : right - scene.left]
    assert np.abs(part.astype(int) - scene.photo[top:bottom, left:right]).mean() < 4
    middle, corner = scene.matte[200:300, 200:300], scene.matte[:40, :40]
    assert (middle.min(), corner.max()) == (255, 0), "a face in the middle, nobody in the corner"


def test_the_crop_as_it_is_stays_bit_for_bit(renderer: Renderer, identity: Identity) -> None:
    frame = moved(identity)
    staged = renderer.staged(identity, CROP, ORIGINAL)
    assert staged.size == (FRAME_SIZE, FRAME_SIZE)
    assert np.array_equal(staged(frame), renderer.render([identity], frame[None])[0])


@pytest.mark.parametrize("background", [*BACKGROUNDS[1:], "#102030"])
def test_a_background_changes_nothing_of_the_face(renderer: Renderer, identity: Identity, background: str) -> None:
    frame = moved(identity)
    plain = renderer.render([identity], frame[None])[0].astype(int)
    shown = renderer.staged(identity, CROP, background)(frame).astype(int)
    whole = np.asarray(identity.tables["scene.matte"] == 255, np.uint8)
    face = cv2.erode(whole, np.ones((61, 61)), borderType=cv2.BORDER_CONSTANT, borderValue=0)[:330] > 0
    assert face.sum() > 10_000
    assert np.abs(shown[:330][face] - plain[:330][face]).max() <= 1
    if background == GREEN:
        assert np.abs(shown[:60, :60] - (0, 177, 64)).max() <= 1
    if background == "#102030":
        assert np.abs(shown[:60, :60] - (16, 32, 48)).max() <= 1


def test_the_outline_goes_with_the_head(renderer: Renderer, identity: Identity) -> None:
    """Against green, what is not green is the person: where the head turns, the outline turns."""
    staged = renderer.staged(identity, CROP, GREEN)
    middles = []
    for yaw in (-12, 12):
        frame = identity.source.copy()
        frame[motion.ANGLES][0] += yaw
        person = np.abs(staged(frame)[60:200].astype(int) - (0, 177, 64)).sum(-1) > 90
        middles.append(np.flatnonzero(person.any(0)).mean())
    assert abs(middles[0] - middles[1]) > 1.5


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_in_the_photo_only_the_crop_moves_and_its_edge_stays(
    renderer: Renderer, identity: Identity, portrait: Portrait, background: str
) -> None:
    staged = renderer.staged(identity, PHOTO, background)
    scene = portrait.scene
    width, height = staged.size
    pictures = []
    for yaw in (-10, 0, 10):
        frame = identity.source.copy()
        frame[motion.ANGLES][0] += yaw
        pictures.append(staged(frame).astype(int))
    assert pictures[0].shape == (height, width, 3)
    change = np.ptp(np.array(pictures), axis=0).max(-1)
    outside = np.ones((height, width), bool)
    outside[max(scene.top, 0) : scene.top + scene.side, max(scene.left, 0) : scene.left + scene.side] = False
    assert change[outside].max() == 0
    edge = change[max(scene.top, 0) : scene.top + scene.side, scene.left : scene.left + 6]
    assert change.max() > 40
    assert edge.max() <= 4, "where the crop ends, nothing moves"
    if background == ORIGINAL:
        still = pictures[1]
        assert np.abs(still - scene.photo)[outside].max() == 0
        assert np.abs(still - scene.photo).mean() < 3, "colours are the photo's"


def test_a_still_face_leaves_no_seam(renderer: Renderer, identity: Identity, portrait: Portrait) -> None:
    """Across the crop's border the picture steps no more than the photo itself does."""
    scene = portrait.scene
    picture = renderer.staged(identity, PHOTO, ORIGINAL)(identity.source).astype(int)
    rows = slice(max(scene.top, 0) + 10, scene.top + scene.side - 10)

    def step(image: np.ndarray, column: int) -> float:
        return float(np.abs(image[rows, column] - image[rows, column - 1]).mean())

    for column in (scene.left, scene.left + scene.side):
        assert step(picture, column) < step(scene.photo.astype(int), column) + 1


def test_render_takes_a_view_and_a_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech, out = tmp_path / "tone.wav", tmp_path / "out.mp4"
    with wave.open(str(speech), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.full(6400, 100, "<i2").tobytes())
    arguments = ["render", str(ASTRONAUT), str(speech), "-o", str(out), "--view", "photo", "--background"]
    assert kdtalker.main([*arguments, "green"]) == 0
    with av.open(str(out)) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [picture.shape for picture in pictures] == [(768, 768, 3)] * 10
    assert np.abs(pictures[-1][:40, :40].astype(int) - (0, 177, 64)).mean() < 12
    assert kdtalker.main([*arguments, "pink"]) == 1
    assert "background must be one of original, blurred, plain, green, not 'pink'" in capsys.readouterr().err
