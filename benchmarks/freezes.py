"""Are freezes counted as a browser counts them? One stream with known holes goes to Chromium and to our own measuring.

    kdtalker bench freezes

Chromium's `getStats` (W3C webrtc-stats, `freezeCount` and `totalFreezesDuration`) is compared with `figures.freezes`,
at the moments at which Chromium showed the pictures and at those at which their packets came here.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.figures import freezes
from benchmarks.reference import HeldTrack, encoded
from benchmarks.wire import Line, pictures, tap
from engines.types import FPS, ByteArray, KDTalkerError
from server.aiortc_door import without_mdns
from server.encode import PICTURE_PTS

HOLES = (0.12, 0.25, 0.4, 0.16, 0.9, 0.3)  # seconds that single pictures stay
BETWEEN = 35  # regular pictures after each hole: more than a freeze's average looks back over
SIDE = 128  # pixels
PATIENCE = 20.0  # seconds that a connection may take
FLAGS = ("--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required")
# A viewer that has no page's policy to mind; moments are those at which a picture was given to the screen, in seconds.
OPEN = """async () => {
  const peer = (window.peer = new RTCPeerConnection());
  const video = document.body.appendChild(document.createElement("video"));
  Object.assign(video, { autoplay: true, muted: true });
  window.moments = [];
  const shown = (now, { presentationTime }) => {
    window.moments.push(presentationTime / 1000);
    video.requestVideoFrameCallback(shown);
  };
  video.requestVideoFrameCallback(shown);
  peer.ontrack = ({ track }) => (video.srcObject = new MediaStream([track]));
  peer.addTransceiver("video", { direction: "recvonly" });
  await peer.setLocalDescription();
  while (peer.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 20));
  return peer.localDescription.sdp;
}"""
COUNT = """async () => {
  const entries = [...(await window.peer.getStats()).values()];
  const { freezeCount, totalFreezesDuration } = entries.find(({ type }) => type === "inbound-rtp");
  return { count: freezeCount, seconds: totalFreezesDuration, moments: window.moments };
}"""


@dataclass(frozen=True, slots=True)
class Count:
    """Freezes as somebody counted them."""

    who: str
    count: int
    seconds: float

    @classmethod
    def of(cls, who: str, moments: Sequence[float]) -> Count:
        """By our rule, of the moments at which pictures were there."""
        found = freezes(moments)
        return cls(who, len(found), sum(found))


def schedule(holes: Sequence[float]) -> list[float]:
    """When each picture leaves, seconds from the beginning."""
    stays = [1 / FPS] * BETWEEN
    for hole in holes:
        stays += [hole] + [1 / FPS] * BETWEEN
    return list(np.cumsum([0.0, *stays]))


def bars(count: int) -> list[ByteArray]:
    """Pictures that move."""
    ramp = np.arange(SIDE)[:, None] + np.arange(SIDE)
    return [np.repeat(((ramp + 5 * number) % 256).astype(np.uint8)[..., None], 3, 2) for number in range(count)]


async def compare(holes: Sequence[float] = HOLES) -> list[Count]:
    """One stream to two viewers: how often, and for how long, each finds it frozen; Chromium's own count is first."""
    moments = schedule(holes)
    film = encoded(bars(len(moments)))
    async with async_playwright() as driver:
        program = shutil.which("chromium")
        if program is None:
            raise KDTalkerError("Chromium is not installed (Debian: apt install chromium).")
        browser = await driver.chromium.launch(executable_path=program, args=list(FLAGS))
        here = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        senders: list[RTCPeerConnection] = []
        try:
            line = Line("video")
            here.addTransceiver("video", direction="recvonly")
            tap(here.getTransceivers()[0].receiver, line)
            page = await browser.new_page()
            tracks = [await _connect(senders, *_ours(here)), await _connect(senders, *_chromiums(page))]
            begin = time.monotonic() + 0.5
            for track in tracks:
                for moment, data in zip(moments, film, strict=True):
                    # stamped with their moments, as a server does that leaves pictures out
                    track.put(begin, moment, round(moment * FPS * PICTURE_PTS), data)
            await asyncio.sleep(moments[-1] + 1.5)
            seen: dict[str, Any] = await page.evaluate(COUNT)
        finally:
            for peer in (here, *senders):
                await peer.close()
            await browser.close()
    return [
        Count("Chromium's getStats", seen["count"], seen["seconds"]),
        Count.of("our rule, where Chromium showed the pictures", seen["moments"]),
        Count.of("our rule, where packets came here", sorted(picture.at for picture in pictures(line))),
        Count.of("our rule, as they were sent", sorted(tracks[0].held)),
    ]


def _ours(peer: RTCPeerConnection) -> tuple[Callable[[], Any], Callable[[str], Any]]:
    async def offer() -> str:
        await peer.setLocalDescription(await peer.createOffer())
        return peer.localDescription.sdp

    return offer, lambda answer: peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))


def _chromiums(page: Page) -> tuple[Callable[[], Any], Callable[[str], Any]]:
    async def offer() -> str:
        return without_mdns(await page.evaluate(OPEN))

    return offer, lambda answer: page.evaluate("sdp => window.peer.setRemoteDescription({type: 'answer', sdp})", answer)


async def _connect(
    senders: list[RTCPeerConnection], offer: Callable[[], Any], accept: Callable[[str], Any]
) -> HeldTrack:
    """A sender for one viewer, added to `senders`; its track, once the connection stands."""
    peer, track, up = RTCPeerConnection(RTCConfiguration(iceServers=[])), HeldTrack("video"), asyncio.Event()
    senders.append(peer)
    peer.on("connectionstatechange", lambda: peer.connectionState == "connected" and up.set())
    transceiver = peer.addTransceiver(track, direction="sendonly")
    codecs = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([codec for codec in codecs if codec.name == "VP8"])
    await peer.setRemoteDescription(RTCSessionDescription(await offer(), "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    await accept(peer.localDescription.sdp)
    async with asyncio.timeout(PATIENCE):
        await up.wait()
    return track


def check(argv: list[str]) -> int:
    """Count the freezes of one stream in Chromium and here; 1 where the counts differ, or the time by over 10 %."""
    argparse.ArgumentParser(prog="kdtalker bench freezes", description=check.__doc__).parse_args(argv)
    counts = asyncio.run(compare())
    table = Table(title=f"Freezes, of holes of {', '.join(f'{1000 * hole:.0f}' for hole in HOLES)} ms")
    for heading in ("", "count", "total ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in counts:
        table.add_row(row.who, str(row.count), f"{1000 * row.seconds:.0f}")
    Console().print(table)
    browser = counts[0]
    same = all(
        row.count == browser.count and abs(row.seconds - browser.seconds) <= 0.1 * browser.seconds for row in counts
    )
    return 0 if same else 1
