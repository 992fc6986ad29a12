"""`kdtalker bench fleet`."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import fleet as simulated
from benchmarks.fleet import CORES_A_CALL, START, Demand, Outcome, Service, Simulation
from benchmarks.machine import machine
from server.placement import Bounds

SIZES = (10, 100, 1000, 10_000)
PATTERNS = ("steady", "day", "bursts")


def fleet(argv: list[str]) -> int:
    """Refusals, utilisation and cost of fleets of 10 to 10,000 workers."""
    parser = argparse.ArgumentParser(
        prog="kdtalker bench fleet", description=simulated.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=_numbers, default=SIZES, help="at most; default: 10,100,1000,10000")
    parser.add_argument("--patterns", type=lambda text: text.split(","), default=PATTERNS, help="steady, day, bursts")
    parser.add_argument("--load", type=float, default=0.8, help="calls by places at the peak; default: %(default)s")
    parser.add_argument("--talk", type=float, default=360, metavar="SECONDS", help="of a call, mean; default: 360")
    parser.add_argument("--hours", type=float, default=24, help="default: %(default)s")
    parser.add_argument("--begin", type=float, default=0, help="hour of the day; default: midnight")
    parser.add_argument("--spare", type=float, default=0.1, help="places kept free, by all; default: %(default)s")
    parser.add_argument("--calm", type=float, default=300, metavar="SECONDS", help="before workers go; default: 300")
    parser.add_argument("--ingresses", type=int, default=2)
    parser.add_argument("--cores", type=float, default=4, help="of a worker; default: 4")
    parser.add_argument("--cores-a-call", type=float, default=CORES_A_CALL, help="default: %(default)s, as measured")
    parser.add_argument(
        "--live", type=Path, metavar="FILE", help="of `kdtalker bench live --json`: takes it from there"
    )
    parser.add_argument(
        "--start", type=float, default=START, metavar="SECONDS", help="of a worker; default: as measured"
    )
    parser.add_argument("--price", type=float, metavar="MONEY", help="of a core for an hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    cost = options.cores_a_call if options.live is None else cores_a_call(json.loads(options.live.read_text()))
    service = Service(cost, options.start, options.cores)
    title = f"{service.places} calls a worker of {service.cores:g} cores; a call needs {cost:.2f}"
    table = Table(title=title)
    headings = ["workers", "pattern", "fleet", "calls", "refused %", "used %", "workers mean", "most", "offers a call"]
    headings.append("core hours an hour of talk" if options.price is None else "cost of an hour of talk")
    for heading in headings:
        table.add_column(heading, justify="right")
    outcomes = []
    for workers in options.workers:
        for pattern in options.patterns:
            for elastic in (False, True):
                spare = math.ceil(options.spare * workers * service.places)
                bounds = Bounds(1 if elastic else workers, workers, spare, options.calm)
                demand = Demand(pattern, options.load, options.talk, hours=options.hours, begin=options.begin)
                outcome = Simulation(demand, service, bounds, options.ingresses, options.seed).run()
                outcomes.append(outcome)
                table.add_row(*cells(outcome, service, options.price))
    Console(width=140).print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        about = {"tool": "kdtalker bench fleet", "machine": machine(), "service": asdict(service)}
        given = {"load": options.load, "talk": options.talk, "hours": options.hours, "spare": options.spare}
        rows = [asdict(outcome) for outcome in outcomes]
        options.json.write_text(json.dumps({**about, "given": given, "rows": rows}, indent=1) + "\n")
    return 0


def cells(outcome: Outcome, service: Service, price: float | None) -> list[str]:
    return [
        str(outcome.workers),
        outcome.pattern,
        "elastic" if outcome.elastic else "fixed",
        str(outcome.calls),
        f"{100 * outcome.refused:.3f}",
        f"{100 * outcome.utilisation:.1f}",
        f"{outcome.workers_mean:.1f}",
        str(outcome.workers_most),
        f"{outcome.offers:.2f}",
        f"{outcome.hour * service.cores * (1.0 if price is None else price):.3f}",
    ]


def cores_a_call(result: dict[str, Any]) -> float:
    """The dearest of the runs in a result of `kdtalker bench live`."""
    found = [rung["usage"].get("server_cores_per_call") for rung in result["rungs"]]
    return max(float(value) for value in found if value is not None)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
