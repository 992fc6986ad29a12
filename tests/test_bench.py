"""The live benchmark: known delays are found again, and what it says of a call is what the packets say."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.contrib.media import MediaRelay
from fastapi import FastAPI, Request

from benchmarks import figures, mouth
from benchmarks.babble import babble
from benchmarks.barge_in import settled
from benchmarks.caller import PACKET_SECONDS, Recording, Voice
from benchmarks.cli import bench
from benchmarks.compare import changes
from benchmarks.levels import levels
from benchmarks.live import climb, live
from benchmarks.mouth import Curve
from benchmarks.probe import default_face
from benchmarks.reference import Known, encoded, served
from benchmarks.report import read
from benchmarks.selftest import measure
from benchmarks.sound import lags_possible
from benchmarks.wire import Line, Packet, Report, pictures, unwrapped
from engines.types import FPS, TICK_SECONDS, ByteArray, KDTalkerError
from tests.browser import left_out
from tests.conftest import LiveServer

pytestmark = pytest.mark.timeout(180)

SECONDS = 8.0
TOLERANCE = 5.0  # ms
BEGUN = 100.0  # the moment at which made-up calls begin


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice.of(babble(SECONDS, seed=3))


@pytest.fixture(scope="module")
def film(voice: Voice) -> list[ByteArray]:
    """A face that says what the voice says, a picture each 40 ms."""
    return [picture for _, picture in mouth.rendered(*default_face(), voice.heard, seed=0)]


@pytest.fixture(scope="module")
def calibration(film: Sequence[ByteArray]) -> Curve:
    return mouth.curve((number / FPS, picture) for number, picture in enumerate(film))


@pytest.fixture(scope="module")
def stream(film: Sequence[ByteArray]) -> list[bytes]:
    return encoded(film)


def made_up(voice: Voice, stream: Sequence[bytes], sound: float, picture: float, stamped: float) -> Recording:
    """A call without a network: sound and picture come back so many seconds later, give or take 10 ms, and the sender's
    reports say that the picture belongs `stamped` seconds after its sound.
    """
    random = np.random.default_rng(5)
    sent = tuple(BEGUN + PACKET_SECONDS * number for number in range(len(voice.packets)))
    audio, video = Line("audio"), Line("video")
    for number, (moment, data) in enumerate(zip(sent, voice.packets, strict=True)):
        at, stamp = moment + sound + random.uniform(-0.01, 0.01), (2**32 - 4800 + 960 * number) % 2**32
        audio.packets.append(Packet(at, number, stamp, False, len(data), data))
        if number % 2 == 0:
            shown = stream[number // 2]
            at = moment + picture + random.uniform(-0.01, 0.01)
            for part in range(2):
                half = shown[: len(shown) // 2] if part == 0 else shown[len(shown) // 2 :]
                stamp = (2**32 - 1800 + 1800 * number) % 2**32
                video.packets.append(Packet(at + 0.001 * (part - 1), number + part, stamp, part == 1, len(half), half))
    for line, first, offset in ((audio, 2**32 - 4800, 0.0), (video, 2**32 - 1800, stamped)):
        rate = {"audio": 48_000, "video": 90_000}[line.kind]
        line.reports.extend(
            Report(BEGUN + at, 3.9e9 + at + offset, round(first + at * rate) % 2**32) for at in (1.1, 3.7, 6.2)
        )
    return Recording("made-up", BEGUN, {}, sent, (), audio, video, "vp8")


def test_known_delays_and_both_skews_are_found_in_a_made_up_call(
    voice: Voice, stream: list[bytes], calibration: Curve
) -> None:
    recording = made_up(voice, stream, sound=0.213, picture=0.1804, stamped=0.015)
    seen = mouth.curve(mouth.decoded(pictures(recording.video), "vp8"))
    places = mouth.find(seen, calibration, *lags_possible(recording, "video"))
    found = figures.delays(recording, figures.hear(recording, voice), places, BEGUN, BEGUN + SECONDS + 1)
    truth = {"sound_added_ms": 213, "picture_added_ms": 180.4, "skew_received_ms": -32.6, "skew_aligned_ms": 15}
    for figure, value in truth.items():
        assert found[figure]["count"] > 100, figure
        assert found[figure]["p50"] == pytest.approx(value, abs=TOLERANCE), figure
    assert found["sound_added_ms"]["p99"] <= 213 + 10 + TOLERANCE


def test_sound_that_is_not_the_callers_own_is_not_recognised(voice: Voice, stream: list[bytes]) -> None:
    other = made_up(Voice.of(babble(SECONDS, seed=4)), stream, 0.2, 0.2, 0)
    found = figures.delays(other, figures.hear(other, voice), None, BEGUN, BEGUN + SECONDS)
    assert found["sound_added_ms"] == {"count": 0, "samples": []}


async def test_known_delays_are_found_on_the_wire(voice: Voice, film: list[ByteArray], calibration: Curve) -> None:
    rows = await measure(voice, film, Known(0.120, 0.165), SECONDS, calibration)
    for row in rows:
        assert row["count"] > 50, row
        assert abs(row["error"]) <= 2 * TOLERANCE, row  # of what the sender did, on a machine that may be busy


def test_what_a_call_was_like_is_counted_from_its_packets(voice: Voice, stream: list[bytes]) -> None:
    recording = made_up(voice, stream, 0.2, 0.2, 0)
    whole = figures.call(recording, BEGUN + 1, BEGUN + 5)
    assert whole["fps"] == pytest.approx(FPS, abs=0.5)
    assert whole["sound_gaps"] == 0
    assert whole["freezes"]["count"] == 0
    del recording.audio.packets[100:103]
    del recording.video.packets[150:182]  # 16 pictures
    holed = figures.call(recording, BEGUN + 1, BEGUN + 5)
    assert holed["sound_gaps"] == 1
    assert holed["pictures"] == whole["pictures"] - 16
    assert holed["freezes"]["count"] == 1
    assert holed["freezes"]["total_ms"] == pytest.approx(17 * 40, abs=25)


def test_a_freeze_is_three_times_the_average_and_150_ms_more() -> None:
    def moments(last: float) -> np.ndarray:
        return np.cumsum([0.04] * 40 + [last])

    # average of 29 x 40 ms and the last one: at 190 ms it is 45 ms, and 45 + 150 is more than that
    assert figures.freezes(moments(0.190)) == []
    assert figures.freezes(moments(0.200)) == [pytest.approx(0.2)]
    slow = np.cumsum([0.2] * 40 + [0.55, 0.2, 0.7])
    assert figures.freezes(slow) == [pytest.approx(0.7)], "slow pictures freeze at three times their duration"


async def test_chromium_counts_the_same_freezes_of_the_same_stream() -> None:
    if find_spec("playwright") is None or shutil.which("chromium") is None:
        left_out("playwright or chromium is not installed, so no browser counts beside us")
    from benchmarks.freezes import compare

    for count in await compare((0.5, 0.9)):
        # a machine that is busy may add some of its own, to either
        assert count.count >= 2, count
        assert count.seconds > 1.3, count


def test_what_settles_is_what_stays() -> None:
    moments = np.arange(5.0)
    assert settled(moments, np.array([False, True, False, True, True]), 9.0) == 3
    assert settled(moments, np.full(5, True), 9.0) == 0
    assert settled(moments, np.array([True, True, True, True, False]), 9.0) == 9, "it never settled"


def test_pictures_are_whole_in_order_or_not_there() -> None:
    def packet(sequence: int, stamp: int, marker: bool) -> Packet:
        return Packet(float(sequence % 100), sequence, stamp, marker, 1, bytes([sequence % 256]))

    ordered = [packet(65534, 2**32 - 100, False), packet(65535, 2**32 - 100, True)]
    swapped = [packet(1, 3500, True), packet(0, 3500, False)]
    holed = [packet(2, 7100, False), packet(4, 7100, True)]
    cut = [packet(5, 10700, False)]
    made = pictures(Line("video", [*ordered, *swapped, *holed, *cut]))
    assert [picture.data for picture in made] == [bytes([254, 255]), bytes([0, 1])]
    assert [picture.media for picture in made] == [0, pytest.approx(0.04)]


def test_time_stamps_run_through_their_wrapping() -> None:
    assert unwrapped([2**32 - 960, 0, 960, 2**32 - 960, 1920], 2**32 - 960) == [0, 960, 1920, 0, 2880]


def test_what_the_server_says_is_compared_with_what_was_seen() -> None:
    seen = {"picture_added_ms": {"count": 9, "p50": 204.0, "p95": 215.0}}
    stages = {"cut": {"p50": 44.0, "p95": 50.0}, "total": {"p50": 194.0, "p95": 219.0}}
    assert figures.agreement(seen, stages) == {"p50": 10.0, "p95": -4.0}
    assert figures.agreement({"picture_added_ms": {"count": 0}}, stages) == {}
    assert figures.agreement(seen, None) == {}
    (within,) = levels("trace_gap_p95<=30")
    assert within.judge([{"outside_less_trace_ms": {"p50": 10.0, "p95": -4.0}}])["worst"] == 4.0


def test_service_levels_are_read_and_judged() -> None:
    fine, slow = (
        {"fps": fps, "sound_added_ms": {"p50": 150}, "picture_added_ms": {"p50": late}}
        for fps, late in ((25, 140), (23.5, 230))
    )
    wanted = levels("fps>=24, added_p50<=200, connect<1000")
    assert [level.judge([fine])["met"] for level in wanted] == [True, True, False], "what was not measured is not met"
    judged = [level.judge([fine, slow]) for level in wanted]
    assert [(level["worst"], level["met"]) for level in judged] == [(23.5, False), (230, False), (None, False)]
    for text in ("fps", "fps=24", "speed>=3", "fps>=fast"):
        with pytest.raises(KDTalkerError, match="is no service level"):
            levels(text)


@pytest.mark.parametrize(("holds", "first"), [(5, 1), (1, 1), (3, 4), (0, 2), (8, 1)])
def test_capacity_is_the_last_number_of_calls_that_holds(holds: int, first: int) -> None:
    tried: list[int] = []

    def rung(calls: int) -> bool:
        tried.append(calls)
        return calls <= holds

    assert climb(rung, first, stop=lambda: False) == holds
    assert len(tried) == len(set(tried)) <= 2 * math.log2(holds + first + 1) + 2


class Drawing(VideoStreamTrack):
    """Grey pictures that change, as a server without a face would send."""

    async def recv(self) -> av.VideoFrame:
        pts, base = await self.next_timestamp()
        frame = av.VideoFrame.from_ndarray(np.full((96, 64), pts // 3000 % 200, np.uint8), format="gray")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = pts, Fraction(base)
        return frame


def echo_server() -> FastAPI:
    """What aiortc's example server is: an offer as JSON, the caller's own sound relayed through aiortc's codecs."""
    app, relay, peers = FastAPI(), MediaRelay(), set[RTCPeerConnection]()

    @app.post("/offer")
    async def offer(request: Request) -> dict[str, str]:
        body = await request.json()
        peer = RTCPeerConnection()
        peers.add(peer)

        @peer.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            if track.kind == "audio":
                peer.addTrack(relay.subscribe(track))
                peer.addTrack(Drawing())

        @peer.on("connectionstatechange")
        async def changed() -> None:
            if peer.connectionState in ("failed", "closed"):
                await peer.close()
                peers.discard(peer)

        await peer.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
        await peer.setLocalDescription(await peer.createAnswer())
        return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}

    return app


async def run_live(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "live.json"
    code = await asyncio.to_thread(live, [*options, "--settle", "0.5", "--seconds", "2", "--json", str(file)])
    return code, json.loads(file.read_text())


async def test_another_server_is_measured_and_missed_levels_are_told(tmp_path: Path) -> None:
    require = "fps>=1,sound_added_p50<=60000,picture_added_p50<=60000"
    async with served(echo_server()) as url:
        code, result = await run_live(tmp_path, "--url", f"{url}/offer", "--offer-format", "json", "--require", require)
    (rung,) = result["rungs"]
    (call,) = rung["calls"]
    assert code == 1
    assert [level["met"] for level in rung["levels"]] == [True, True, False], "there is no mouth to look at"
    assert call["sound_added_ms"]["count"] > 20
    assert call["sound_added_ms"]["p50"] > 0
    assert call["picture_added_ms"]["count"] == 0
    assert result["machine"]["cores"]
    assert result["settings"]["offer_format"] == "json"


async def test_our_own_server_is_measured(tmp_path: Path, server: LiveServer) -> None:
    options = ("--url", f"{server.url}/sessions", "--pid", str(server.process.pid), "--probed", "0", "--barge-in", "1")
    required = "connect<=60000,sound_gaps<=1000,barge_in_sound_p95<=4000"
    code, result = await run_live(tmp_path, *options, "--require", required)
    interrupted = result["barge_in"]
    assert interrupted["barge_in_sound_ms"]["count"] == 1, "the avatar spoke, and was interrupted"
    assert interrupted["barge_in_sound_ms"]["p50"] > 0
    assert interrupted["levels"][0]["met"], interrupted
    (rung,) = result["rungs"]
    (call,) = rung["calls"]
    assert code == 0
    marks = call["connect_ms"]
    assert marks["offered"] < marks["answered"] < marks["ice"] <= marks["dtls"] < marks["sound"]
    assert marks["dtls"] < marks["picture"]
    assert call["audio_kbps"] > 0
    if call["sound_added_ms"]["count"]:  # a starved server conceals more than could be recognised
        assert call["sound_added_ms"]["p50"] > 1000 * 3 * TICK_SECONDS, "a hop and its look-ahead are longer than that"
    stages = call["server_says"]["stages_ms"]
    assert list(stages) == ["cut", "feature", "sampled", "rendered", "encoded", "released", "sent", "total"]
    assert stages["feature"]["p50"] > 1000 * TICK_SECONDS / 2, "a frame listens ahead"
    assert stages["total"]["p50"] > 1000 * 3 * TICK_SECONDS
    assert rung["usage"]["server_cores"] > 0
    assert rung["usage"]["server_memory_mb"] > 50


async def test_a_server_that_takes_no_calls_is_a_failure_and_no_crash(tmp_path: Path, server: LiveServer) -> None:
    code, result = await run_live(tmp_path, "--url", f"{server.url}/nowhere", "--probed", "0")
    assert code == 1
    assert "404" in result["rungs"][0]["failures"][0] or "405" in result["rungs"][0]["failures"][0]


def test_runs_become_a_page_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spread = {"count": 3, "p50": 200.0, "p95": 210.0, "p99": 212.0, "samples": [199.0, 200.0, 212.0]}
    stages = {stage: {"p50": 20.0, "p95": 30.0, "p99": 31.0} for stage in ("cut", "sampled", "sent", "total")}

    def rung(sessions: int, fps: float, met: bool) -> dict[str, Any]:
        call = {
            "connect_ms": {"picture": 400},
            "fps": fps,
            "interval_ms": spread,
            "sound_added_ms": spread,
            "picture_added_ms": spread,
            "freezes": {"count": 0},
            "server_says": {"stages_ms": stages},
        }
        return {"sessions": sessions, "calls": [call | {"fps": fps + 1}, call], "usage": {}, "met": met}

    run = {
        "tool": "kdtalker bench live",
        "machine": {"cpu": "<fast>"},
        "settings": {},
        "rungs": [rung(1, 25, True), rung(2, 19, False)],
        "capacity": 1,
    }
    file = tmp_path / "quiet.json"
    file.write_text(json.dumps(run))
    assert bench(["report", str(file), "-o", str(tmp_path / "out.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:3] for line in lines[2:4]] == [["1", "25"], ["2", "19"]], "the worst call of each rung"
    page = (tmp_path / "out.html").read_text()
    assert page.count("<svg") == 3
    assert "&lt;fast&gt;" in page
    assert "http" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE.*?>|<metadata>.*?</metadata>', "", page, flags=re.DOTALL
    )
    file.write_text("{}")
    with pytest.raises(KDTalkerError, match="no run"):
        bench(["report", str(file)])


def test_every_encoder_is_timed_on_the_same_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pictures", "12", "--sizes", "256,512", "--presets", "ultrafast,medium"]
    assert bench(["encoders", *options, "--json", str(tmp_path / "e.json")]) == 0
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert [(row["encoder"], row["size"]) for row in rows] == [
        (name, size) for size in (256, 512) for name in ("vp8", "h264 ultrafast", "h264 medium")
    ]
    assert all(row["psnr"] > 25 and row["cpu"] > 0 and row["p50"] <= row["p95"] for row in rows)
    assert "h264 medium" in capsys.readouterr().out


def test_two_runs_differ_where_the_difference_is_more_than_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(2)

    def run(name: str, sound: float, picture: float) -> str:
        calls = [
            {
                figure: {"count": 500, "samples": list(centre + 5 * random.standard_normal(500))}
                for figure, centre in (("sound_added_ms", sound), ("picture_added_ms", picture))
            }
        ]
        path = tmp_path / name
        path.write_text(json.dumps({"tool": "kdtalker bench live", "rungs": [{"sessions": 1, "calls": calls}]}))
        return str(path)

    before, after = run("a.json", 200, 210), run("b.json", 200, 204)
    rows = {row["figure"]: row for row in changes(read(Path(before)), read(Path(after)))}
    assert not rows["sound_added_ms p50"]["beyond noise"]
    assert rows["picture_added_ms p50"]["beyond noise"]
    assert rows["picture_added_ms p50"]["low"] < -6 < rows["picture_added_ms p50"]["high"]
    assert bench(["compare", before, after]) == 0
    assert "picture_added_ms p95" in capsys.readouterr().out
