"""The page as a person meets it: Chromium, a spoken WAV file for a microphone, and a real server behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import av
import httpx
import numpy as np
import pytest

from tests.browser import ALLOW, RATE, Visit, launch, visit, write_wave
from tests.conftest import LiveServer, start_server, stop_server
from tests.page_line import PageLine

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright


# For every second: the mean and the greatest level of the microphone, and how much the mouth's part of the picture
# varied (standard deviation of a pixel over the pictures shown, mean over pixels).
WATCH = """
() => {
  const [video, meter] = [document.getElementById("video"), document.getElementById("meter")];
  const canvas = new OffscreenCanvas(32, 24);
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  let [begun, levels, pictures] = [performance.now(), [], []];
  window.seconds = [];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const look = () => {
    const side = video.videoWidth;
    draw.drawImage(video, 0.34 * side, 0.56 * side, 0.32 * side, 0.24 * side, 0, 0, 32, 24);
    pictures.push(draw.getImageData(0, 0, 32, 24).data);
    levels.push(Number(meter.getAttribute("aria-valuenow")));
    if (performance.now() - begun > 1000) {
      const variances = Array.from(pictures[0], (_, i) => {
        const values = pictures.map((picture) => picture[i]);
        return mean(values.map((value) => value * value)) - mean(values) ** 2;
      });
      if (pictures.length > 3)
        window.seconds.push([mean(levels), Math.max(...levels), mean(variances.map((v) => Math.sqrt(Math.max(0, v))))]);
      [begun, levels, pictures] = [performance.now(), [], []];
    }
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}
"""
SHOWN = "document.getElementById('video').getVideoPlaybackQuality().totalVideoFrames"
HEARD = """
async () => [...(await window.peers.at(-1).getStats()).values()]
  .find((entry) => entry.type === "inbound-rtp" && entry.kind === "audio").totalAudioEnergy
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for one call at a time."""
    live = start_server(tmp_path_factory.mktemp("small"), max_sessions=1, retry_after=30)
    yield live
    stop_server(live)


def ended(session: str) -> bool:
    return httpx.get(f"{session}/stats").status_code == 404


def test_a_face_is_there_before_any_click(visitor: Visit) -> None:
    page = visitor.open()
    visitor.until("document.getElementById('picture').naturalWidth === 512")
    assert page.is_visible("#picture")
    assert page.inner_text("#call") == "Start"
    assert page.is_enabled("#call")
    assert "your voice" in page.inner_text("#headline")
    assert page.locator("input[name=face]:checked").count() == 1
    assert visitor.sessions == []


def test_a_call_shows_pictures_that_keep_coming(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    assert page.inner_text("#call") == "Stop"
    for _ in range(3):
        shown = page.evaluate(SHOWN)
        visitor.until(f"{SHOWN} >= {shown + 10}")
    visitor.until("/\\d+ fps.*\\d+ ms delay.*skew \\d+ ms/.test(document.getElementById('line').textContent)")
    page.click("#line")
    visitor.until("document.querySelectorAll('#list dd').length > 10")
    assert "VP8, 512 x 512" in page.inner_text("#list")


def test_the_mouth_moves_with_the_voice_and_rests_without(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    page.evaluate(WATCH)

    def changes() -> tuple[list[float], list[float]]:
        """Of the seconds with a voice, and of those in silence that follow one in silence."""
        seconds = page.evaluate("window.seconds")
        talking = [change for mean, _, change in seconds if mean > 25]
        resting = [after[2] for before, after in pairwise(seconds) if max(before[1], after[1]) < 10]
        return talking, resting

    def told_apart() -> bool:
        # The head sways a little in silence too, and on a busy machine the picture may stand still for a while.
        talking, resting = changes()
        return min(len(talking), len(resting)) >= 5 and median(talking) > max(3, 1.3 * median(resting))

    visitor.until(told_apart, 200)


def test_the_meter_follows_the_microphone(visitor: Visit) -> None:
    page = visitor.open()
    level = "Number(document.getElementById('meter').getAttribute('aria-valuenow'))"
    assert page.evaluate(level) == 0
    visitor.call()
    visitor.until(f"{level} > 30")
    visitor.until(f"{level} < 5")
    assert page.locator("#microphone option").count() > 1


def test_the_returned_voice_is_muted_until_headphones_are_on(visitor: Visit) -> None:
    page = visitor.open()
    assert page.is_disabled("#headphones")
    visitor.call()
    assert page.evaluate("document.getElementById('video').muted")
    assert "loudspeakers" in page.inner_text("#ear-note")
    page.get_by_role("button", name="I wear headphones").click()
    assert not page.evaluate("document.getElementById('video').muted")
    visitor.until(lambda: page.evaluate(HEARD) > 0, 20)
    page.get_by_role("button", name="Mute the returned voice").click()
    assert page.evaluate("document.getElementById('video').muted")


def test_stop_ends_the_call_on_both_sides(visitor: Visit) -> None:
    page = visitor.open()
    page.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wishes) => (window.opened = await open(wishes));
        }"""
    )
    visitor.call()
    (session,) = visitor.sessions
    assert not ended(session)
    page.click("#call")
    visitor.state("idle")
    assert page.evaluate("window.opened.getTracks().every((track) => track.readyState === 'ended')")
    visitor.until(lambda: ended(session), 5)
    assert page.inner_text("#call") == "Start"


def test_leaving_the_page_ends_the_call(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    (session,) = visitor.sessions
    page.reload()
    visitor.until(lambda: ended(session), 5)


def test_another_face_in_the_middle_of_a_call(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    page.locator("input[name=face]:not(:checked)").first.focus()
    page.keyboard.press("Space")
    visitor.until(lambda: len(visitor.sessions) == 2, 20)
    page.wait_for_selector("video.shown")
    chosen = page.input_value("input[name=face]:checked")
    assert httpx.get(f"{visitor.sessions[1]}/stats").json()["avatar"] == chosen
    assert ended(visitor.sessions[0])


def controls(session: str) -> dict[str, object]:
    held: dict[str, object] = httpx.get(f"{session}/stats").json()["controls"]
    return held


def test_the_manner_of_the_face_is_set_by_keyboard_alone(visitor: Visit) -> None:
    page = visitor.open()
    page.get_by_role("slider", name="Expression").focus()
    page.keyboard.press("Home")  # before the call, which then begins with it
    visitor.call()
    (session,) = visitor.sessions
    visitor.until(lambda: controls(session)["expression_scale"] == 0)
    page.get_by_role("radio", name="Neutral").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("slider", name="Head").focus()
    page.keyboard.press("End")
    page.get_by_role("switch", name="Eyes stay on you").focus()
    page.keyboard.press("Space")
    visitor.until(lambda: controls(session)["gaze"] == "fixed")
    assert controls(session) == {
        "pose_scale": 2,
        "expression_scale": 0,
        "mouth_scale": 1,
        "gaze": "fixed",
        "emotion": "happy",
        "emotion_strength": 0.7,
        "view": "crop",
        "background": "original",
        "mark": False,
    }
    assert page.get_by_role("slider", name="Head").get_attribute("aria-valuetext") == "200 %"
    page.get_by_role("button", name="Reset").click()
    visitor.until(lambda: controls(session)["gaze"] == "free")
    assert controls(session)["emotion"] == "neutral"
    assert page.get_by_role("slider", name="Expression").input_value() == "1"


def test_the_whole_photo_and_another_background_are_shown(visitor: Visit) -> None:
    page = visitor.open()
    page.locator("input[name=face]:not(:checked)").first.check(force=True)
    visitor.call()
    page.get_by_role("radio", name="Green").check(force=True)
    corner = """() => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d");
      canvas.drawImage(document.getElementById("video"), 4, 4, 8, 8, 0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    }"""
    visitor.until(lambda: (lambda colour: colour[1] > 130 > 100 > max(colour[0], colour[2]))(page.evaluate(corner)))
    page.get_by_role("radio", name="The whole photo").check(force=True)
    visitor.until(lambda: controls(visitor.sessions[0])["view"] == "photo")
    shown = page.evaluate(SHOWN)
    visitor.until(f"{SHOWN} >= {shown + 10}")


def test_the_manner_is_kept_from_call_to_call(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    page.get_by_role("radio", name="Sad").check(force=True)
    visitor.until(lambda: controls(visitor.sessions[0])["emotion"] == "sad")
    page.click("#call")
    visitor.state("idle")
    visitor.call()
    visitor.until(lambda: controls(visitor.sessions[1])["emotion"] == "sad")


def test_a_call_is_recorded_and_saved(visitor: Visit, tmp_path: Path) -> None:
    page = visitor.open()
    assert page.is_disabled("#record")
    visitor.call()
    page.get_by_role("button", name="Record").click()
    visitor.until("/Recording, 0:0[2-9]/.test(document.getElementById('record-note').textContent)", 60)
    page.get_by_role("button", name="Stop recording").click()
    page.get_by_text("Only you can fetch it").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the recording").click()
    download.value.save_as(tmp_path / "call.mp4")
    with av.open(str(tmp_path / "call.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) > 25
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Stop recording").wait_for()
    page.click("#call")
    visitor.state("idle")
    page.get_by_role("link", name="Save the recording").wait_for()
    assert page.is_disabled("#record")


def test_a_sound_file_is_spoken_and_stopped(visitor: Visit, tmp_path: Path) -> None:
    visitor.refusals.add(422)
    page = visitor.open()
    assert page.is_disabled("#sound")
    visitor.call()
    (tmp_path / "text.wav").write_text("no sound at all")
    page.set_input_files("#sound", tmp_path / "text.wav")
    page.get_by_text("cannot be read as sound").wait_for()
    page.set_input_files("#sound", write_wave(tmp_path / "long.wav", np.zeros(60 * RATE, np.int16)))
    page.get_by_text("Speaking in place of the microphone, 5").wait_for()
    page.get_by_role("button", name="Stop the file").click()
    page.locator("#speak").wait_for()
    assert httpx.get(f"{visitor.sessions[0]}/stats").json()["speech"] is None


def test_the_keyboard_alone_makes_a_call(visitor: Visit) -> None:
    page = visitor.open()
    reached = []
    while not reached or reached[-1] != "call":  # past the two views and the button that fills the screen
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.hash"))
        assert len(reached) < 6, reached
    assert reached[:2] == ["#call", "#presenter"]
    page.keyboard.press("Enter")
    page.wait_for_selector("video.shown", timeout=60_000)
    page.keyboard.press("Enter")
    visitor.state("idle")


@pytest.mark.parametrize("width", [360, 840, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk(chromium: Browser, server: LiveServer, width: int, scheme: str) -> None:
    with visit(
        chromium, server.url, viewport={"width": width, "height": 640}, color_scheme=scheme, reduced_motion="reduce"
    ) as visitor:
        page = visitor.open()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in (".frame", "#call"):
            box = page.locator(part).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 640


def test_a_blocked_microphone_is_explained(driver: Playwright, server: LiveServer) -> None:
    browser = launch(driver, "--deny-permission-prompts")
    with visit(browser, server.url) as visitor:
        page = visitor.open()
        page.click("#call")
        visitor.state("failed")
        assert page.inner_text("#headline") == "The microphone is blocked"
        assert "allow the microphone" in page.inner_text("#advice")
        assert page.inner_text("#call") == "Start"
        assert visitor.sessions == []
        page.click("#camera")
        page.get_by_text("The camera is blocked").wait_for()
        assert page.is_disabled("#shutter")
        page.get_by_role("button", name="Cancel").click()
        assert page.evaluate("document.activeElement.id") == "camera"
    browser.close()


def test_a_page_without_https_says_so(driver: Playwright, server: LiveServer) -> None:
    browser = launch(driver, ALLOW, "--host-resolver-rules=MAP avatar.test 127.0.0.1")
    with visit(browser, server.url.replace("127.0.0.1", "avatar.test")) as visitor:
        page = visitor.open()
        page.click("#call")
        visitor.state("failed")
        assert page.inner_text("#headline") == "This page needs HTTPS"
        # Chromium says on such pages that it leaves out a protection which only HTTPS can give.
        visitor.complaints[:] = [said for said in visitor.complaints if "Cross-Origin-Opener-Policy" not in said]
    browser.close()


def test_a_full_house_counts_down_and_a_place_that_becomes_free_is_taken(chromium: Browser, small: LiveServer) -> None:
    with visit(chromium, small.url) as guest, visit(chromium, small.url) as second:
        guest.open()
        guest.call()
        second.refusals.add(503)
        page = second.open()
        page.click("#call")
        second.state("waiting")
        assert page.inner_text("#headline") == "Full house"
        second.until("/in 2\\d s/.test(document.getElementById('countdown').textContent)")
        guest.page.click("#call")
        second.until(lambda: ended(guest.sessions[0]), 5)
        page.click("#retry")
        page.wait_for_selector("video.shown", timeout=60_000)
        page.click("#call")
        second.until(lambda: ended(second.sessions[0]), 5)


def test_a_lost_connection_is_made_anew(chromium: Browser, small: LiveServer) -> None:
    with visit(chromium, small.url) as visitor:
        page = visitor.open()
        visitor.call()
        small.process.send_signal(signal.SIGSTOP)  # to the page, a network that lets nothing through
        try:
            visitor.state("reconnecting")
            assert page.inner_text("#headline") == "Connection lost"
        finally:
            small.process.send_signal(signal.SIGCONT)
        page.wait_for_selector("video.shown", timeout=60_000)
        shown = page.evaluate(SHOWN)
        visitor.until(f"{SHOWN} >= {shown + 10}")
        (session,) = visitor.sessions
        assert not ended(session), "it is the same call"


def test_a_network_lost_for_five_seconds_costs_no_call(chromium: Browser, small: LiveServer) -> None:
    with visit(chromium, small.url) as visitor, PageLine(visitor.page).opened() as line:
        page = visitor.open()
        visitor.call()
        shown = page.evaluate(SHOWN)
        visitor.until(f"{SHOWN} >= {shown + 10}")
        line.lost()
        visitor.state("reconnecting")
        page.wait_for_timeout(5000)
        assert page.get_attribute("body", "data-state") == "reconnecting"
        line.restored()
        page.wait_for_selector("video.shown", timeout=60_000)
        shown = page.evaluate(SHOWN)
        visitor.until(f"{SHOWN} >= {shown + 10}")
        assert page.evaluate("window.peers.length") > 1
        (session,) = visitor.sessions
        assert not ended(session), "it is the same call"
        visitor.complaints[:] = [said for said in visitor.complaints if "ERR_INTERNET_DISCONNECTED" not in said]


def test_a_server_that_goes_away_is_told_in_words(chromium: Browser, tmp_path: Path) -> None:
    brief = start_server(tmp_path)
    with visit(chromium, brief.url) as visitor:
        page = visitor.open()
        visitor.call()
        stop_server(brief)
        visitor.state("failed", timeout=90)
        assert page.inner_text("#headline") in ("The server does not answer", "The call is over")
        assert "Start" in page.inner_text("#advice")
        visitor.complaints[:] = [said for said in visitor.complaints if "ERR_CONNECTION_REFUSED" not in said]
