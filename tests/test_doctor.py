"""`kdtalker doctor`: what it says of this machine, and of machines with other tools and taken ports."""

import os
import socket
import stat
from pathlib import Path

import pytest

from export.cli import doctor as doctor_command
from export.doctor import Fact, examine


def found(port: int) -> dict[str, Fact]:
    return {fact.topic: fact for fact in examine(port)}


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put a program of that name first on the search path."""
    tool = folder / "nvidia-smi"
    tool.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_every_topic_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_command(["--port", "0"]) == 0
    shown = capsys.readouterr().out
    for topic in ("system", "GPU", "ONNX Runtime", "torch", "TensorRT", "codecs", "port", "UDP"):
        assert topic in shown
    assert "CPUExecutionProvider" in shown
    assert all((fact.found and fact.means) or fact.topic == "system" for fact in examine(0))


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert found(port)["port"].found.startswith(f"{port} is taken")
    assert found(port)["port"].found == f"{port} is free on 127.0.0.1"


def test_codecs_are_those_that_encode() -> None:
    assert "libvpx" in found(0)["codecs"].found
    assert "libopus" in found(0)["codecs"].found


@pytest.mark.parametrize(
    ("capability", "means"), [("9.0", "runs the published profile"), ("6.1", "older than TensorRT")]
)
def test_a_gpu_is_described(capability: str, means: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, f"echo 'NVIDIA Thing, 81559 MiB, 580.65.06, {capability}'")
    gpu = found(0)["GPU"]
    assert gpu.found == f"NVIDIA Thing, 81559 MiB, driver 580.65.06, compute capability {capability}"
    assert gpu.means.startswith(means)


def test_a_driver_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'driver/library version mismatch' >&2", "exit 18")
    assert found(0)["GPU"].found == "nvidia-smi fails: driver/library version mismatch"
    nvidia_smi(tmp_path, monkeypatch, "sleep 60")
    monkeypatch.setattr("export.doctor.PATIENCE", 0.2)
    assert "timed out" in found(0)["GPU"].found
