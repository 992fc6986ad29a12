"""Does the live benchmark measure what is there? A stream of known delay and skew goes through all of it."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import figures, mouth
from benchmarks.babble import babble
from benchmarks.caller import Caller, Door, Voice
from benchmarks.mouth import Curve
from benchmarks.probe import default_face
from benchmarks.reference import Known, encoded, reference
from benchmarks.sound import lags_possible
from benchmarks.wire import pictures
from engines.types import FPS, ByteArray

TOLERANCE = 5.0  # ms
EDGE = 1.0  # seconds at both ends of a call that are not looked at


def selftest(argv: list[str]) -> int:
    """Measure a stream of known delay and skew; 1 where a figure is more than 5 ms from the truth."""
    parser = argparse.ArgumentParser(prog="kdtalker bench selftest", description=selftest.__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="of the call; default: 12")
    parser.add_argument("--sound", type=float, default=120.0, metavar="MS", help="held back; default: 120")
    parser.add_argument("--picture", type=float, default=160.0, metavar="MS", help="held back; default: 160")
    options = parser.parse_args(argv)
    voice = Voice.of(babble(options.seconds))
    film = [picture for _, picture in mouth.rendered(*default_face(), voice.heard, seed=0)]
    rows = asyncio.run(measure(voice, film, Known(options.sound / 1000, options.picture / 1000), options.seconds))
    table = Table(title="Milliseconds, medians")
    for heading in ("", "asked for", "what the sender did", "measured", "error", "count"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        cells = (f"{row[name]:.1f}" for name in ("asked", "did", "measured", "error"))
        table.add_row(row["figure"], *cells, str(row["count"]))
    Console().print(table)
    return 0 if all(abs(row["error"]) <= TOLERANCE for row in rows) else 1


async def measure(
    voice: Voice,
    film: list[ByteArray],
    known: Known,
    seconds: float,
    calibration: Curve | None = None,
) -> list[dict[str, Any]]:
    """One call to the reference: every figure as asked for, as the sender did it and as it was measured, in ms."""
    curve = calibration or mouth.curve((number / FPS, picture) for number, picture in enumerate(film))
    async with reference(encoded(film), known) as server:
        async with Caller(Door(f"{server.url}/offer", "json"), voice) as caller:
            await caller.first("audio", within=30)
            await asyncio.sleep(seconds - 2 * EDGE)
            recording = caller.recording()
        await server.end_all()
        did = {kind: 1000 * float(np.median(held)) for kind, held in server.held[-1].items()}
    begin, end = recording.audio.packets[0].at, recording.audio.packets[-1].at
    seen = mouth.curve(mouth.decoded(pictures(recording.video), recording.codec))
    found = figures.delays(
        recording,
        figures.hear(recording, voice),
        mouth.find(seen, curve, *lags_possible(recording, "video")),
        begin,
        end,
    )
    skew = did["video"] - did["audio"]
    truth = {
        "sound_added_ms": (1000 * known.sound, did["audio"]),
        "picture_added_ms": (1000 * known.picture, did["video"]),
        "skew_received_ms": (1000 * (known.picture - known.sound), skew),
        "skew_aligned_ms": (1000 * (known.picture - known.sound), skew),
    }
    rows = []
    for figure, (asked, was) in truth.items():
        measured = found[figure].get("p50", float("nan"))
        count = found[figure]["count"]
        error = measured - was
        rows.append(
            {"figure": figure, "asked": asked, "did": was, "measured": measured, "error": error, "count": count}
        )
    return rows
