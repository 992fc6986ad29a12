"""A call through the kernel's own bad network, where it has one: another judge than the relay of these tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BAD = "netem delay 10ms 5ms loss 5%"  # on the loopback device, which carries what this machine sends to itself
# ICE leaves loopback addresses out (RFC 8445, 5.1.1.1), so the machine gets one that leads nowhere else.
CALL = """
ip link set lo up
ip link add calls type veth peer name unused
ip address add 10.0.0.1/24 dev calls
ip link set calls up
ip link set unused up
tc qdisc add dev lo root {bad}
exec {python} -m kdtalker bench live --settle 2 --seconds 4 --json {report}
"""


def in_a_network_of_its_own(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that sees no network but a loopback device of its own; needs root."""
    return subprocess.run(
        ["unshare", "--net", "sh", "-e", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def netem() -> None:
    missing = [tool for tool in ("unshare", "ip", "tc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the kernel's netem cannot be asked for here: no {', '.join(missing)}")
    tried = in_a_network_of_its_own(f"tc qdisc add dev lo root {BAD}")
    if tried.returncode:
        pytest.skip(f"no netem in this kernel, or no right to it: {tried.stderr.strip()}")


@pytest.mark.usefixtures("netem")
def test_a_call_lives_through_netem(tmp_path: Path) -> None:
    report = tmp_path / "call.json"
    done = in_a_network_of_its_own(CALL.format(bad=BAD, python=sys.executable, report=report))
    assert done.returncode == 0, done.stderr
    call = json.loads(report.read_text())["rungs"][0]["calls"][0]
    assert call["server_says"]["state"] == "live"
    assert call["pictures"] > 0
    assert call["server_says"]["microphone"]["lost"] > 0, "what netem loses on the way to the server"
