"""A photo of one's own on the page: chosen or taken, agreed to, and refused with the reason."""

from __future__ import annotations

from pathlib import Path

import cv2
import httpx
import numpy as np

from tests.browser import Visit
from tests.conftest import PORTRAIT


def sends(visitor: Visit) -> list[str]:
    """Becomes the photos that the page sends."""
    sent: list[str] = []
    visitor.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    return sent


def test_a_photo_is_sent_when_its_person_agreed_and_becomes_the_face(visitor: Visit) -> None:
    page = visitor.open()
    sent = sends(visitor)
    page.set_input_files("#photo", PORTRAIT)
    page.get_by_role("heading", name="Use this photo?").wait_for()
    assert page.is_disabled("#use")
    assert sent == [], "nothing leaves before somebody agreed"
    page.get_by_role("checkbox", name="agreed to be shown").check()
    page.get_by_role("button", name="Use this photo").click()
    page.get_by_text("Your photo suits").wait_for(timeout=60_000)
    assert not page.is_visible("#shoot")
    chosen = page.input_value("input[name=face]:checked")
    assert page.get_attribute("#picture", "src") == f"/avatars/{chosen}/picture"
    assert chosen not in [avatar["id"] for avatar in httpx.get(f"{visitor.origin}/avatars").json()["avatars"]]
    visitor.call()
    assert httpx.get(f"{visitor.sessions[0]}/stats").json()["avatar"] == chosen


def test_a_photo_that_does_not_suit_says_why(visitor: Visit, tmp_path: Path) -> None:
    visitor.refusals.add(422)
    page = visitor.open()
    before = page.input_value("input[name=face]:checked")
    photo = tmp_path / "wall.png"
    cv2.imwrite(str(photo), np.full((600, 600, 3), 180, np.uint8))
    page.set_input_files("#photo", photo)
    page.keyboard.press("Space")  # the question has the focus
    page.get_by_role("button", name="Use this photo").click()
    note = page.locator("#shoot-note.refused")
    note.wait_for(timeout=60_000)
    assert "face" in note.inner_text()
    page.keyboard.press("Escape")
    assert not page.is_visible("#shoot")
    assert page.input_value("input[name=face]:checked") == before


def test_the_camera_takes_a_photo_and_takes_it_again(visitor: Visit) -> None:
    page = visitor.open()
    sent = sends(visitor)
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("button", name="Take the photo").click()
    page.get_by_role("checkbox", name="agreed to be shown").check()
    page.get_by_role("button", name="Retake").click()
    page.get_by_role("button", name="Take the photo").click()
    page.get_by_role("heading", name="Use this photo?").wait_for()
    assert not page.is_checked("#consent input"), "another photo is another question"
    assert page.evaluate("document.getElementById('finder').srcObject") is None, "the camera is off"
    assert sent == []
    page.get_by_role("checkbox", name="agreed to be shown").check()
    page.get_by_role("button", name="Use this photo").click()
    page.get_by_text("Your photo suits").wait_for(timeout=60_000)
    assert len(sent) == 1
