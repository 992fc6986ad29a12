"""The simulation of a fleet, against what queueing theory knows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.cli import bench
from benchmarks.fleet import Demand, Outcome, Service, Simulation, arrivals
from server.placement import Bounds


def erlang_b(places: int, load: float) -> float:
    """Share refused by `places` without a queue (Erlang 1917), whatever the distribution of lengths."""
    blocked = 1.0
    for number in range(1, places + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def simulated(pattern: str = "steady", load: float = 0.8, minimum: int = 5, maximum: int = 5, **more: float) -> Outcome:
    demand = Demand(pattern, load, talk=more.pop("talk", 60.0), hours=more.pop("hours", 48.0))
    spare = int(more.pop("spare", 2))
    bounds = Bounds(minimum, maximum, spare, calm=60)
    return Simulation(demand, Service(cores_a_call=0.9, cores=4), bounds, int(more.pop("ingresses", 1))).run()


@pytest.mark.parametrize("load", [0.7, 0.9, 1.2])
def test_a_fixed_fleet_refuses_as_erlang_says(load: float) -> None:
    outcome = simulated(load=load)
    places = 5 * Service(cores_a_call=0.9, cores=4).places
    assert places == 20
    assert outcome.refused == pytest.approx(erlang_b(places, load * places), rel=0.08)
    assert outcome.utilisation == pytest.approx(load * (1 - outcome.refused), rel=0.03)


def test_ingresses_that_know_half_a_second_less_refuse_hardly_more() -> None:
    one, many = simulated(ingresses=1), simulated(ingresses=8)
    assert many.refused <= one.refused * 1.5 + 0.002
    assert many.offers < 1.1


def test_a_day_pays_for_fewer_workers_where_they_come_and_go() -> None:
    fixed = simulated("day", minimum=20, maximum=20, hours=24, talk=360)
    elastic = simulated("day", minimum=1, maximum=20, hours=24, talk=360, spare=8)
    assert elastic.workers_mean < 0.85 * fixed.workers_mean
    assert elastic.hour < fixed.hour
    assert elastic.workers_most <= 20, "those that drain are among them"
    assert elastic.refused < 0.02


def test_bursts_are_more_than_the_day() -> None:
    assert simulated("bursts", hours=48).refused > simulated("day", hours=48).refused


def test_one_seed_is_one_day() -> None:
    demand = Demand("bursts", 0.5, hours=2)
    one, two = (list(arrivals(demand, 0.1, random.Random(3))) for _ in range(2))
    assert one == two
    assert one == sorted(one)
    assert len(one) > 0


def test_the_command_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = tmp_path / "live.json"
    live.write_text(json.dumps({"rungs": [{"usage": {"server_cores_per_call": 0.6}}]}))
    given = ["--workers", "3", "--patterns", "steady", "--hours", "1", "--live", str(live), "--price", "0.05"]
    assert bench(["fleet", *given, "--json", str(tmp_path / "fleet.json")]) == 0
    written = json.loads((tmp_path / "fleet.json").read_text())
    assert written["service"]["cores_a_call"] == 0.6
    assert [(row["workers"], row["elastic"]) for row in written["rows"]] == [(3, False), (3, True)]
    assert "cost of an hour of talk" in " ".join(capsys.readouterr().out.split())
