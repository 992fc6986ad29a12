"""Runs of `kdtalker bench live --json` as one page that needs nothing else, and as a Markdown table."""

from __future__ import annotations

import argparse
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engines.types import KDTalkerError

Run = dict[str, Any]
INK, SOUND, PICTURE, REST = "#1c2530", "#2a78b5", "#c8642c", "#9aa7b4"
STYLE = f"""body{{font:16px/1.5 system-ui,sans-serif;color:{INK};max-width:66rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:1rem 0;font-size:.8rem}}
td,th{{padding:.25rem .6rem;border-bottom:1px solid #dde3e8}}
td{{text-align:right;font-variant-numeric:tabular-nums}}td:first-child,th:first-child{{text-align:left}}
svg{{max-width:100%;height:auto}}h2{{margin-top:2.5rem}}.missed{{color:#b3261e}}"""


def report(argv: list[str]) -> int:
    """Write one HTML page about live runs, and print their table in Markdown."""
    parser = argparse.ArgumentParser(prog="kdtalker bench report", description=report.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json", help="what `bench live --json` wrote")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/bench.html"), help="default: build/bench.html")
    options = parser.parse_args(argv)
    runs = {path.stem: read(path) for path in options.runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(runs))
    print(markdown(runs))
    print(f"-> {options.out}")
    return 0


def read(path: Path) -> Run:
    """A live run; raises KDTalkerError for anything else."""
    try:
        run: Run = json.loads(path.read_text())
        if run["tool"] != "kdtalker bench live" or not run["rungs"]:
            raise KeyError("rungs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KDTalkerError(f"{path} is no run of `kdtalker bench live --json`: {error}.") from error
    return run


COLUMNS = (
    ("connected, ms", "connect_ms", "picture"),
    ("sound added p50", "sound_added_ms", "p50"),
    ("p95", "sound_added_ms", "p95"),
    ("picture added p50", "picture_added_ms", "p50"),
    ("p95", "picture_added_ms", "p95"),
    ("skew received", "skew_received_ms", "p50"),
    ("aligned", "skew_aligned_ms", "p50"),
    ("interval p99", "interval_ms", "p99"),
)


def table(runs: dict[str, Run]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one a rung: the worst call by each figure."""
    headings = ["run", "calls", "fps", *(name for name, _, _ in COLUMNS), "freezes", "server cores a call", "levels"]
    lines = []
    for name, run in runs.items():
        for rung in run["rungs"]:
            calls = rung["calls"]
            cells = [name, str(rung["sessions"]), _worst([call["fps"] for call in calls], smallest=True)]
            cells += [_worst([call.get(figure, {}).get(point) for call in calls]) for _, figure, point in COLUMNS]
            cells.append(_worst([call["freezes"]["count"] for call in calls]))
            cells.append(str(rung["usage"].get("server_cores_per_call", "-")))
            cells.append("met" if rung["met"] else "missed")
            lines.append(cells)
    return headings, lines


def markdown(runs: dict[str, Run]) -> str:
    headings, lines = table(runs)
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(runs: dict[str, Run]) -> str:
    """One HTML document with its plots inside."""
    headings, lines = table(runs)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
    body = "".join(
        f"<tr{' class=missed' if line[-1] == 'missed' else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        + "</tr>"
        for line in lines
    )
    parts = [f"<h2>Calls</h2><p>The worst call of each row, milliseconds.</p><table><tr>{head}</tr>{body}</table>"]
    for name, run in runs.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f"<h3>Added latency</h3>{_svg(_latency, run)}")
        if any(_stages(rung) for rung in run["rungs"]):
            parts.append(f"<h3>Where a picture's time goes</h3>{_svg(waterfall, run)}")
        if len(run["rungs"]) > 1:
            parts.append(f"<h3>Capacity</h3>{_svg(_capacity, run)}")
        if interrupted := _interrupted(run):
            parts.append(f"<h3>Interrupted</h3><p>{interrupted}</p>")
        facts = {**run["machine"], **run["settings"]}
        listed = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(v))}</td></tr>" for key, v in facts.items()
        )
        parts.append(f"<details><summary>Machine and settings</summary><table>{listed}</table></details>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kdtalker bench</title><style>{STYLE}</style>'
        f"<h1>Live calls, measured</h1>{''.join(parts)}</html>\n"
    )


def _interrupted(run: Run) -> str:
    """How soon the avatar fell silent, where that was measured."""
    found = run.get("barge_in") or {}
    parts = [
        f"{meaning} after {spread['p50']:.0f} ms, {spread['p95']:.0f} ms at p95 (of {spread['count']})"
        for figure, meaning in (("barge_in_ms", "mouth closed"), ("barge_in_sound_ms", "silent"))
        if (spread := found.get(figure, {})).get("count")
    ]
    return "; ".join(parts)


def waterfall(axes: Axes, run: Run) -> None:
    """The stages of the first rung that has them, medians, each beginning where the one before ends."""
    stages = next(stages for rung in run["rungs"] if (stages := _stages(rung)))
    begin = 0.0
    names = [name for name in stages if name != "total"]
    for place, name in enumerate(names):
        middle, late = stages[name]["p50"], stages[name]["p95"]
        axes.barh(place, middle, left=begin, color=PICTURE if middle >= 5 else REST, height=0.6)
        axes.plot([begin + middle, begin + max(middle, late)], [place, place], color=INK, linewidth=1)
        axes.annotate(f"{middle:.0f}", (begin + middle, place), (4, 6), textcoords="offset points", fontsize=8)
        begin += middle
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("ms since the sound came in; bars: medians, lines: to p95 of the stage")


def _latency(axes: Axes, run: Run) -> None:
    """Share of sounds and pictures that came within so many milliseconds, a rung a line."""
    for rung in run["rungs"]:
        for figure, colour in (("sound_added_ms", SOUND), ("picture_added_ms", PICTURE)):
            values = np.sort(
                np.concatenate([call.get(figure, {}).get("samples", []) for call in rung["calls"]] or [[]])
            )
            if len(values):
                fade = 1.0 if rung is run["rungs"][0] else 0.45
                label = f"{figure.partition('_')[0]}, {rung['sessions']} calls"
                axes.plot(values, np.linspace(0, 100, len(values)), color=colour, alpha=fade, label=label)
    axes.set_xlabel("added latency, ms")
    axes.set_ylabel("% that came within")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _capacity(axes: Axes, run: Run) -> None:
    """The worst call's pictures a second and p99 interval by number of calls."""
    rungs = sorted((rung for rung in run["rungs"] if rung["calls"]), key=lambda rung: rung["sessions"])
    calls = [rung["sessions"] for rung in rungs]
    axes.plot(calls, [min(call["fps"] for call in rung["calls"]) for rung in rungs], "o-", color=PICTURE, label="fps")
    axes.set_ylabel("pictures a second, worst call")
    axes.set_xlabel("calls at once")
    axes.set_ylim(bottom=0)
    if run.get("capacity"):
        axes.axvline(run["capacity"], color=REST, linestyle=":", label=f"capacity {run['capacity']}")
    axes.legend(frameon=False, fontsize=8)


def _stages(rung: dict[str, Any]) -> dict[str, dict[str, float]] | None:
    for call in rung["calls"]:
        if isinstance(call.get("server_says"), dict) and call["server_says"].get("stages_ms"):
            stages: dict[str, dict[str, float]] = call["server_says"]["stages_ms"]
            return stages
    return None


def _svg(draw: Any, run: Run) -> str:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, run)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)


def _worst(values: Sequence[float | None], smallest: bool = False) -> str:
    known = [value for value in values if value is not None]
    return f"{(min if smallest else max)(known):g}" if known else "-"
