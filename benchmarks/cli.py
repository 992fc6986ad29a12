"""`kdtalker bench`: one short program for each question."""

from __future__ import annotations

import argparse
import importlib

QUESTIONS = {
    "soak": ("benchmarks.soak:soak", "what hundreds of calls leave behind; sound while photos are prepared"),
    "workers": ("benchmarks.workers:workers", "four calls on threads and on processes"),
    "live": ("benchmarks.live:live", "calls on a running wire: latency, skew, smoothness, capacity; any server"),
    "selftest": ("benchmarks.selftest:selftest", "the same measuring on a stream of known delay and skew"),
    "freezes": ("benchmarks.freezes:check", "freezes as Chromium counts them and as we do, of one stream"),
    "fleet": ("benchmarks.fleet_cli:fleet", "a simulation of 10 to 10,000 workers: refusals, utilisation, cost"),
    "report": ("benchmarks.report:report", "runs of `live` as a page with plots and a table"),
    "compare": ("benchmarks.compare:compare", "two runs of `live`: what changed beyond the noise"),
    "encoders": ("benchmarks.encoders:encoders", "VP8 and the presets of H.264: what a picture costs"),
    "growth": ("benchmarks.growth:growth", "cost by batch, denoising steps and calls; share of the machine's peak"),
    "views": ("benchmarks.views:views", "the whole photo, other backgrounds, a recording: what a picture costs"),
    "offline": ("benchmarks.offline:offline", "the published routine against the streamed one"),
    "compute": ("benchmarks.compute:compute", "milliseconds of every network file"),
    "quality": ("benchmarks.quality:quality", "lips, seams and compute of streamed motion by hop, context and steps"),
}


def bench(argv: list[str]) -> int:
    """Measure latency and throughput on this machine."""
    lines = "\n".join(f"  {name:<8} {line}" for name, (_, line) in QUESTIONS.items())
    parser = argparse.ArgumentParser(
        prog="kdtalker bench",
        description=bench.__doc__,
        epilog=f"questions (each has its own --help):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", choices=list(QUESTIONS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options")
    options = parser.parse_args(argv)
    module, function = QUESTIONS[options.question][0].split(":")
    return int(getattr(importlib.import_module(module), function)(options.rest))
