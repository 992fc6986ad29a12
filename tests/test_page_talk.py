"""Conversation on the page: who is heard, who speaks, and the presenter's script."""

from __future__ import annotations

import httpx

from tests.browser import Visit

VOICE = "window.peers.at(-1).getSenders()[0].track"
ENERGY = """async () => [...(await window.peers.at(-1).getStats()).values()]
  .find((entry) => entry.type === "inbound-rtp" && entry.kind === "audio")?.totalAudioEnergy ?? 0"""
SCRIPT = """Welcome to this hall.
This second line is so long that there is time enough to stop it before it has come to its end, whatever happens.
Thank you."""


def stats(visitor: Visit) -> dict[str, object]:
    figures: dict[str, object] = httpx.get(f"{visitor.sessions[-1]}/stats").json()
    return figures


def mode(visitor: Visit) -> str:
    return str(stats(visitor)["conversation"]["mode"])  # type: ignore[index]


def test_the_microphone_is_muted_and_push_to_talk_opens_it(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    page.get_by_role("button", name="Mute microphone").click()
    assert page.get_attribute("#mute", "aria-pressed") == "true"
    assert not page.evaluate(f"{VOICE}.enabled")
    page.get_by_text("Your microphone is muted.").wait_for()
    page.get_by_role("switch", name="Push to talk").focus()
    page.keyboard.press("Space")
    assert page.is_checked("#push"), "on the switch the space bar is the switch's"
    page.locator("#talk").hover()
    page.mouse.down()
    assert page.evaluate(f"{VOICE}.enabled")
    page.mouse.up()
    assert not page.evaluate(f"{VOICE}.enabled")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.down("Space")
    assert page.evaluate(f"{VOICE}.enabled")
    page.keyboard.up("Space")
    assert not page.evaluate(f"{VOICE}.enabled")


def test_a_presenter_needs_no_microphone_and_speaks_line_by_line(visitor: Visit) -> None:
    page = visitor.open()
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('not asked for')); }")
    page.get_by_role("link", name="Presenter").click()
    page.get_by_label("Script: each line").fill(SCRIPT)
    page.get_by_role("switch", name="Sign: AI avatar").check(force=True)
    page.get_by_role("button", name="Go on stage").click()
    page.wait_for_selector("video.shown", timeout=60_000)
    assert mode(visitor) == "speak"
    page.select_option("#voice", index=7)
    visitor.until(lambda: stats(visitor)["conversation"]["voice"] == page.input_value("#voice"))  # type: ignore[index]
    visitor.until(lambda: stats(visitor)["controls"]["mark"] is True)  # type: ignore[index]
    assert page.get_attribute("#invite", "href").startswith("watch.html#")  # type: ignore[union-attr]

    page.get_by_role("button", name="Speak the next line").click()
    page.get_by_text("Now: Welcome to this hall.").wait_for()
    page.locator("#turn[data-turn=speaking]").wait_for()
    assert page.inner_text("#subtitles") == "Welcome to this hall."
    page.locator("#captions").uncheck(force=True)
    assert not page.is_visible("#subtitles")
    page.locator("#prompter [data-state=spoken]").wait_for()
    visitor.until(lambda: page.evaluate(ENERGY) > 0)
    page.locator("#turn[data-turn=idle]").wait_for()

    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("PageDown")  # what a clicker sends
    page.locator("#prompter [data-state=speaking]").wait_for()
    page.keyboard.press("Escape")
    page.locator("#prompter [data-state=interrupted]").wait_for()
    assert page.locator("#prompter [aria-current]").inner_text().startswith("Thank you.")
    page.get_by_label("Text to speak").fill("And one more thing.")
    page.keyboard.press("Enter")
    page.get_by_text("Now: And one more thing.").wait_for()
    assert page.input_value("#words") == ""


def test_a_mode_that_is_not_set_up_is_told_in_words_and_the_call_stays(visitor: Visit) -> None:
    page = visitor.open()
    visitor.call()
    page.get_by_role("radio", name="The assistant").click(force=True)  # the server says no at once
    page.wait_for_selector("#trouble:not(:empty)")
    assert "language model" in page.inner_text("#trouble")
    visitor.until("document.querySelector('[name=mode][value=mirror]').checked")
    page.get_by_role("radio", name="What I type").check(force=True)
    visitor.until(lambda: mode(visitor) == "speak")
    assert page.evaluate("window.peers.at(-1).getSenders()[0].track") is None, "the microphone is off"
    page.get_by_role("radio", name="My own voice").check(force=True)
    visitor.until(lambda: mode(visitor) == "mirror")
    assert page.evaluate(f"{VOICE}.enabled")
    assert len(visitor.sessions) == 1
