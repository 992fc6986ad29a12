"""What deploy/ names is there: files, settings, options and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


def parsed(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_named_is_one(path: Any) -> None:
    names = {name.lower() for name in re.findall(r"\bKDTALKER_([A-Z_]+)\b", path.read_text())}
    assert names <= set(Settings.model_fields)


def test_the_compose_file_sets_what_the_server_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    (compose,) = parsed("docker-compose.yml")
    given = {"ADDRESS": "203.0.113.7", "TOKEN": "t" * 32, "SECRET": "s" * 32}
    for name, value in compose["services"]["avatar"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{(\w+)[^}]*\}", lambda found: given[found[1]], value))
    settings = Settings()
    assert settings.turn_urls == ("turn:203.0.113.7:3478", "turn:203.0.113.7:3478?transport=tcp")
    assert compose["services"]["avatar"]["stop_grace_period"] == "40s"
    assert settings.drain < 40


def test_every_option_of_the_manifest_is_one() -> None:
    cluster, service, monitor = parsed("kuberay.yaml")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (worker,) = cluster["spec"]["workerGroupSpecs"]
    pod = worker["template"]["spec"]
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    options = {"serve": re.findall(r"--[a-z-]+", head["args"][0]), "drain": [each for each in hook if each[0] == "-"]}
    for command, given in options.items():
        told = [sys.executable, "-m", "kdtalker", command, "--help"]
        shown = subprocess.run(told, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        assert given
        assert [each for each in given if each not in shown] == []
    assert pod["terminationGracePeriodSeconds"] > float(hook[-1])
    assert pod["hostNetwork"] is True
    assert {service["spec"]["ports"][0]["name"]} == {each["port"] for each in monitor["spec"]["endpoints"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_files_that_are_mounted_or_copied_are_there() -> None:
    (compose,) = parsed("docker-compose.yml")
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert parsed("grafana/datasources.yml")[0]["datasources"][0]["type"] == "prometheus"
    board = compose["services"]["grafana"]["volumes"][2].split(":")[1]
    assert board.startswith(parsed("grafana/dashboards.yml")[0]["providers"][0]["options"]["path"])


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_installs_as_a_person_does(name: str) -> None:
    lines = (DEPLOY / name).read_text()
    assert "make install" in lines
    extras = re.search(r"--editable '\.\[([a-z,]+)\]'", lines)
    assert extras is not None
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))
