"""What a server tells about itself: figures for Prometheus, the dashboard that reads them, calls in the terminal."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from rich.console import Console

from benchmarks.peer import Peer
from server.clock import AHEAD
from server.metrics import CallMetrics, Metrics
from server.sight import LABEL
from server.top import table
from server.trace import STAGES
from tests.conftest import REPOSITORY, LiveServer, start_server, stop_server

pytestmark = pytest.mark.timeout(180)

DASHBOARD = REPOSITORY / "docs" / "grafana.json"
PORTRAIT = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"
TOKEN = "the token of whoever runs it"


def run_top(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdtalker", "top", "--once", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={"COLUMNS": "160", "PATH": ""})


async def test_a_call_is_seen_without_the_names_that_open_it(
    server: LiveServer, speak: Callable[[str], np.ndarray]
) -> None:
    counted = "kdtalker_frame_interval_seconds_count"
    intervals, pictures = server.metric(counted), server.metric('kdtalker_packets_released_total{kind="video"}')
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        sent = await client.post("/avatars", files={"photo": ("me.jpg", PORTRAIT.read_bytes(), "image/jpeg")})
    own = sent.json()["id"]
    sound = speak("Whoever runs the server sees that somebody speaks.")
    async with Peer(server.url, sound, query=f"?avatar={own}") as peer:
        await peer.pictures(30, within=60)
        async with httpx.AsyncClient(base_url=server.url) as client:
            listed = (await client.get("/sessions")).json()
        name = peer.location.rpartition("/")[2]
        assert listed["capacity"] == 2
        (call,) = listed["calls"]
        assert call["label"] == name[:LABEL]
        assert name not in json.dumps(listed), "it would be the right to end the call"
        assert own not in json.dumps(listed), "it would be the right to see the photo"
        assert call["avatar"] == "own photo"
        assert call["state"] == "live"
        assert call["frames"] >= 30
        assert call["microphone"]["connected"]
        shown = await asyncio.to_thread(run_top, "--url", server.url)
        assert shown.returncode == 0, shown.stderr
        assert "1 of 2 calls" in shown.stdout
        assert re.search(rf"{re.escape(name[:LABEL])}\s+\w+\s+{call['avatar']}", shown.stdout)
    released = server.metric('kdtalker_packets_released_total{kind="video"}') - pictures
    assert server.metric(counted) - intervals == released - 1, "one interval between each two pictures"
    assert server.metric("kdtalker_skew_seconds_count") >= released
    assert server.metric("kdtalker_added_latency_seconds_count") > 0
    ways = {stage: server.metric(f'kdtalker_picture_stage_seconds_count{{stage="{stage}"}}') for stage in STAGES}
    assert len(set(ways.values())) == 1, "every picture that was sent went through every stage"
    assert ways["sent"] > 0


def test_the_table_is_for_people() -> None:
    metrics = CallMetrics(Metrics())
    metrics.released("audio", 0.001)
    metrics.released("video", 0.031 + AHEAD)
    call = {"label": "abc", "state": "reconnecting", "avatar": "own photo", "microphone": None, **metrics.snapshot()}
    call |= {"seconds": 3725, "drops": {"late": 3}, "effort": "384 pixels", "viewers": {"count": 7}}
    console = Console(width=160, record=True)
    console.print(table({"capacity": 4, "viewer_capacity": 50, "calls": [call]}))
    text = console.export_text()
    for part in (
        "1 of 4 calls, 7 of 50 viewers",
        "reconnecting",
        "own photo",
        "1:02:05",
        "30",
        "late 3",
        "falling behind: 384 pixels",
    ):
        assert part in text


def test_only_who_has_a_token_sees_the_calls_of_all(tmp_path: Path) -> None:
    own = start_server(tmp_path, tokens=TOKEN)
    try:
        refused = run_top("--url", own.url)
        assert refused.returncode == 1
        assert refused.stderr.startswith("kdtalker top: ")
        assert "--token" in refused.stderr
        assert "0 of" in run_top("--url", own.url, "--token", TOKEN).stdout
    finally:
        stop_server(own)
    gone = run_top("--url", own.url)
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
    assert "no address" in run_top("--url", "file:///etc/hostname").stderr


def test_the_dashboard_reads_figures_that_there_are(server: LiveServer) -> None:
    page = httpx.get(f"{server.url}/metrics").text
    there = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    read = {name for text in expressions for name in re.findall(r"\b(?:kdtalker|process)_\w+", text)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in read} <= there
    watched = ("sessions", "capacity", "stage", "lateness", "frame_interval", "added_latency", "skew", "dropped")
    for figure in (*watched, "effort"):
        assert any(name.startswith(f"kdtalker_{figure}") for name in read), figure
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
