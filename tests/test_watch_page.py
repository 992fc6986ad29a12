"""The viewer's page in Debian's Chromium, which also is a publisher by WHIP that nobody here wrote."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.browser import ALLOW, NOTE_PEERS, RATE, launch, playwright, visit, write_wave
from tests.conftest import LiveServer

pytestmark = pytest.mark.timeout(240)

# WHIP as RFC 9725 describes it, with nothing but what a browser has.
PUBLISH = """async (room) => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { noiseSuppression: false } });
  const peer = (window.publisher = new RTCPeerConnection());
  peer.addTransceiver(stream.getAudioTracks()[0], { direction: "sendonly", streams: [stream] });
  await peer.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  const answer = await fetch(`/whip/${room}`, { method: "POST", headers, body: peer.localDescription.sdp });
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  return answer.headers.get("Location");
}"""
HEARD = """async () => {
  const stats = [...(await window.peers.at(-1).getStats()).values()];
  const of = (kind) => stats.find((entry) => entry.type === "inbound-rtp" && entry.kind === kind) ?? {};
  return { energy: of("audio").totalAudioEnergy ?? 0, decoded: of("video").framesDecoded ?? 0 };
}"""


def test_a_browser_publishes_and_another_watches(server: LiveServer, tmp_path: Path) -> None:
    tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(5 * RATE) / RATE)).astype(np.int16)
    microphone = write_wave(tmp_path / "tone.wav", tone)
    with playwright() as driver:
        browser = launch(driver, ALLOW, f"--use-file-for-fake-audio-capture={microphone}")
        with visit(browser, server.url) as watcher, visit(browser, server.url) as publisher:
            page = watcher.page
            watcher.refusals = {404}
            for event, heard in (("console", watcher._said), ("response", watcher._answered)):
                page.on(event, heard)
            page.add_init_script(NOTE_PEERS)
            page.goto(f"{server.url}/watch.html#stage")
            page.wait_for_selector("body[data-state=waiting]")
            assert page.text_content("#headline") == "Nobody is on."

            publisher.page.goto(server.url)
            location = publisher.page.evaluate(PUBLISH, "stage")
            page.wait_for_selector("video.shown", timeout=60_000)
            watcher.until(lambda: page.evaluate(HEARD)["decoded"] > 10, 60)
            assert page.evaluate("document.querySelector('video').videoWidth") == 512
            page.click("#sound")
            assert not page.evaluate("document.querySelector('video').muted")
            watcher.until(lambda: page.evaluate(HEARD)["energy"] > 0, 60)

            assert httpx.delete(f"{server.url}{location}").status_code == 204
            page.wait_for_selector("body[data-state=waiting]", timeout=60_000)
        browser.close()
    assert server.metric("kdtalker_viewers") == server.metric("kdtalker_sessions") == 0
