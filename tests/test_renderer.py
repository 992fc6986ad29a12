"""The embedded renderer, on the portrait that ships and, where they lie, on the others."""

from __future__ import annotations

import threading
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines import motion
from engines.face_mesh import face_model, to_pixels, to_unit
from engines.portrait.prepare import prepare
from engines.types import FRAME_SIZE, KEYPOINTS, Identity, Portrait
from engines.warp.enrolment import eyelids_of
from engines.warp.eyelids import EYES, closure_rows, draw_eyelids
from engines.warp.head_field import coefficients, place
from engines.warp.lip_line import LipLine
from engines.warp.lips import LipModel, gaps_of
from engines.warp.mesh_warp import MeshWarp
from engines.warp.warp_field import supersample

REST = np.zeros((KEYPOINTS, 3), np.float32)


@pytest.fixture(scope="module")
def renderer() -> MeshWarp:
    return MeshWarp(face_model())


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return prepare((files("engines") / "avatars" / "astronaut.jpg").read_bytes())


@pytest.fixture(scope="module")
def identity(renderer: MeshWarp, portrait: Portrait) -> Identity:
    return renderer.enrol(portrait)


def frame_of(
    identity: Identity, expression: np.ndarray = REST, angles: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """Motion of this photo, turned by `angles` and with exp (21, 3) from closed rest."""
    frame = identity.source.copy()
    frame[motion.ANGLES] += angles
    frame[motion.EXPRESSION] = expression.reshape(-1)
    return frame


def mouth_opening(amount: float) -> np.ndarray:
    """exp (21, 3) that parts the middle of the lips by about `amount` eye distances, jaw included."""
    model = LipModel.of(face_model())
    arch = np.array([0.35, 0.6, 0.85, 1, 1, 1, 0.85, 0.6, 0.35], np.float32)
    expression = REST.copy()
    expression[:, 1] = model.change(amount * arch)
    return expression


def blink() -> np.ndarray:
    """exp (21, 3) that closes both eyes."""
    rows = closure_rows(face_model())
    expression = REST.copy()
    expression[:, 1] = np.linalg.pinv(rows) @ np.array([1.1, 1.1])
    return expression


def corrected(portrait: Portrait) -> np.ndarray:
    """The portrait's mesh in half crop widths, its inner lips where the photo has them."""
    return to_unit(LipLine.of(portrait.mesh, supersample(portrait.crop)).applied(portrait.mesh))


def box(mesh: np.ndarray, points: list[int], margin: int) -> tuple[slice, slice]:
    low = mesh[points, :2].min(0).astype(int) - margin
    high = mesh[points, :2].max(0).astype(int) + margin
    return slice(low[1], high[1]), slice(low[0], high[0])


def enrolled(renderer: MeshWarp, portraits: Path) -> list[tuple[Portrait, Identity]]:
    chosen = [prepare(path.read_bytes()) for path in sorted(portraits.glob("p[235]*.jpg"))]
    return [(portrait, renderer.enrol(portrait)) for portrait in chosen]


def test_source_motion_gives_the_photo_back(renderer: MeshWarp, portrait: Portrait, identity: Identity) -> None:
    frame = renderer.render([identity], identity.source[None])[0]
    error = np.abs(frame.astype(int) - portrait.crop)
    assert error.mean() < 0.1
    assert np.quantile(error, 0.999) <= 4


def test_other_portraits_give_themselves_back(renderer: MeshWarp, data: Path) -> None:
    for portrait, identity in enrolled(renderer, data / "portraits"):
        error = np.abs(renderer.render([identity], identity.source[None])[0].astype(int) - portrait.crop)
        assert error.mean() < 0.1
        assert np.quantile(error, 0.999) <= 4


def test_rest_has_closed_lips(portrait: Portrait, identity: Identity) -> None:
    face = face_model()
    unposed = face.pose(to_unit(portrait.mesh)).remove(corrected(portrait))
    assert gaps_of(unposed).max() > 0.06  # the astronaut smiles with her teeth
    rest = unposed - face.offsets(motion.expression(identity.source))
    assert np.abs(gaps_of(rest)).max() < 0.02
    assert identity.canonical == pytest.approx(face.canonical_keypoints(rest), abs=1e-5)


def test_nodes_move_as_the_mesh_does(renderer: MeshWarp, portrait: Portrait, identity: Identity) -> None:
    """Flow at a turned head against the posed mesh, where the head is rigid: nose, cheeks, brows."""
    face = face_model()
    points = np.array([1, 4, 5, 195, 197, 6, 50, 280, 117, 346, 151, 9])
    frame = frame_of(identity, motion.expression(identity.source), (10, 8, 0))
    unposed = face.pose(to_unit(portrait.mesh)).remove(to_unit(portrait.mesh))
    rest = unposed - face.offsets(motion.expression(identity.source))
    expected = place(rest[points], face.mixing[points], frame)[:, :2] - portrait.mesh[points, :2]
    flow = coefficients(identity.source, frame).T @ identity.tables["rows"]
    grid = np.ascontiguousarray(flow.T).reshape(128, 128, 2)
    where = ((portrait.mesh[points, :2] - 1.5) / 4).astype(np.float32)[None]
    moved = cv2.remap(grid, where, None, cv2.INTER_LINEAR)[0]
    length = identity.source[motion.SCALE] * FRAME_SIZE / 2
    assert np.abs(moved - expected).max() / length < 0.03  # depth is smoothed on purpose


def test_keypoints_place_the_photo(portrait: Portrait, identity: Identity) -> None:
    """x = scale * (x_c R + exp) + t of the source motion lies where the mesh has its keypoints."""
    face = face_model()
    placed = motion.keypoints(identity.canonical, motion.turn_expression(identity.source))
    unposed_exp = face.placing @ face.offsets(motion.expression(identity.source))
    difference = (unposed_exp - motion.expression(identity.source)) @ motion.rotation(identity.source[motion.ANGLES])
    expected = face.placing @ corrected(portrait) - identity.source[motion.SCALE] * difference
    assert to_pixels(placed) == pytest.approx(to_pixels(expected), abs=0.05)


def test_the_mouth_opens_steadily(renderer: MeshWarp, portrait: Portrait, identity: Identity) -> None:
    """Pixels that differ from closed lips, inside the mouth's box, grow with the opening."""
    amounts = (0.0, 0.04, 0.08, 0.12, 0.16)
    motions = np.stack([frame_of(identity, mouth_opening(amount)) for amount in amounts])
    frames = renderer.render([identity] * len(motions), motions).astype(int)
    place_of_mouth = box(portrait.mesh, [78, 308, 13, 14], 14)
    changed = [np.abs(frame[place_of_mouth] - frames[0][place_of_mouth]).max(-1).mean() for frame in frames]
    assert changed == sorted(changed)
    assert changed[1] > 1
    assert changed[-1] > 2 * changed[1]


def test_eyes_outside_the_picture_are_not_drawn(identity: Identity) -> None:
    picture, elsewhere = np.full((512, 512, 3), 90, np.uint8), np.zeros((2, 512, 512), np.float32)
    draw_eyelids(eyelids_of(identity.tables), blink(), elsewhere, picture)
    assert (picture == 90).all()


def test_a_blink_covers_the_iris(renderer: MeshWarp, portrait: Portrait, identity: Identity) -> None:
    open_frame, closed_frame = renderer.render(
        [identity] * 2, np.stack([frame_of(identity), frame_of(identity, blink())])
    ).astype(int)
    rows = closure_rows(face_model())
    assert (rows @ blink()[:, 1] > 1).all()
    for eye, iris in zip(EYES, (468, 473), strict=True):
        x, y = portrait.mesh[iris, :2].astype(int)
        pupil = (slice(y - 2, y + 3), slice(x - 2, x + 3))
        skin = np.median(open_frame[box(portrait.mesh, [50 if iris == 468 else 280], 6)])
        assert np.median(open_frame[pupil]) < 0.5 * skin
        assert np.median(closed_frame[pupil]) > 0.6 * skin
        above = (slice(0, int(portrait.mesh[list(eye[0]), 1].min()) - 40), slice(None))
        assert np.abs(open_frame[above] - closed_frame[above]).max() <= 40


@pytest.mark.parametrize("size", [1e6, np.inf, np.nan])
def test_extreme_motion_is_still_a_picture(renderer: MeshWarp, identity: Identity, size: float) -> None:
    rng = np.random.default_rng(1)
    wild = np.stack([rng.normal(0, 1, 70), rng.normal(0, 30, 70), np.full(70, size), np.full(70, -size), np.zeros(70)])
    frames = renderer.render([identity] * len(wild), wild.astype(np.float32))
    assert frames.shape == (5, FRAME_SIZE, FRAME_SIZE, 3)
    assert frames.dtype == np.uint8


def test_rows_are_independent_and_repeatable(renderer: MeshWarp, identity: Identity) -> None:
    motions = np.stack(
        [
            frame_of(identity, mouth_opening(0.1), (6, 2, 1)),
            frame_of(identity, blink(), (-4, 3, 0)),
            frame_of(identity),
        ]
    )
    together = renderer.render([identity] * 3, motions)
    out = np.full((1, FRAME_SIZE, FRAME_SIZE, 3), 7, np.uint8)
    for row in (2, 0, 1):
        assert renderer.render([identity], motions[row : row + 1], out) is out
        assert np.array_equal(out[0], together[row])


def test_enrolment_is_repeatable_and_holds_arrays_only(
    renderer: MeshWarp, portrait: Portrait, identity: Identity
) -> None:
    again = renderer.enrol(portrait)
    assert again.tables.keys() == identity.tables.keys()
    for name, table in identity.tables.items():
        assert isinstance(table, np.ndarray)
        assert table.dtype != object
        assert np.array_equal(table, again.tables[name])
    assert np.array_equal(again.source, identity.source)


def test_tiny_motion_is_a_tiny_difference(renderer: MeshWarp, identity: Identity) -> None:
    base = frame_of(identity, mouth_opening(0.08), (3, 1, 0))
    moved = frame_of(identity, mouth_opening(0.0805), (3.02, 1, 0))
    first, second = renderer.render([identity] * 2, np.stack([base, moved])).astype(int)
    assert np.abs(first - second).mean() < 0.5
    assert np.abs(first - second).max() < 40


def test_threads_do_not_disturb_each_other(renderer: MeshWarp, identity: Identity) -> None:
    rng = np.random.default_rng(2)
    motions = [
        np.stack(
            [frame_of(identity, mouth_opening(a) + blink() * a * 8, (10 * a, 0, 0)) for a in rng.uniform(0, 0.12, 6)]
        )
        for _ in range(4)
    ]
    alone = [renderer.render([identity] * 6, part) for part in motions]
    beside: list[np.ndarray | None] = [None] * 4

    def work(index: int) -> None:
        beside[index] = renderer.render([identity] * 6, motions[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, got in zip(alone, beside, strict=True):
        assert got is not None
        assert np.array_equal(expected, got)


def test_wrong_shapes_are_named(renderer: MeshWarp, identity: Identity) -> None:
    with pytest.raises(ValueError, match=r"motions of shape \(1, 70\)"):
        renderer.render([identity], np.zeros((2, 70), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        renderer.render([identity], identity.source[None], np.zeros((1, 512, 512, 3), np.float32))
