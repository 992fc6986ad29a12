"""What this machine has, and what that allows."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

PORT = 8080
PATIENCE = 20  # seconds for nvidia-smi, which hangs where a driver is broken


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the report: what was looked for, what was found, and what it means for the user."""

    topic: str
    found: str
    means: str = ""


def examine(port: int = PORT) -> Iterator[Fact]:
    """All facts, in the order a person would ask."""
    yield Fact("system", f"{platform.platform()}, Python {platform.python_version()}, {_cores()}")
    yield from _gpu()
    yield _onnx_runtime()
    yield from _torch()
    yield _tensorrt()
    yield _codecs()
    yield _port(port)
    yield _media_ports()


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} cores to use"


def _gpu() -> Iterator[Fact]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Fact("GPU", "no NVIDIA driver", "the embedded profile runs; the published one would take seconds a frame")
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Fact("GPU", f"nvidia-smi fails: {error}", "repair the driver first")
        return
    if answer.returncode != 0 or not answer.stdout.strip():
        yield Fact(
            "GPU", f"nvidia-smi fails: {(answer.stderr or answer.stdout).strip()[:200]}", "repair the driver first"
        )
        return
    for line in answer.stdout.strip().splitlines():
        name, memory, driver, capability = (part.strip() for part in line.split(","))
        means = (
            "runs the published profile" if float(capability) >= 7.5 else "older than TensorRT and our float16 ask for"
        )
        yield Fact("GPU", f"{name}, {memory}, driver {driver}, compute capability {capability}", means)


def _onnx_runtime() -> Fact:
    try:
        import onnxruntime
    except ImportError as error:
        return Fact("ONNX Runtime", f"missing ({error})", "nothing runs; install the project again")
    providers = onnxruntime.get_available_providers()
    means = "embedded profile on the CPU"
    if "CUDAExecutionProvider" in providers:
        means += "; network files on CUDA"
    return Fact("ONNX Runtime", f"{onnxruntime.__version__}: {', '.join(providers)}", means)


def _torch() -> Iterator[Fact]:
    try:
        import torch
    except ImportError:
        yield Fact(
            "torch", "not installed", "needed for the published profile and for export: pip install -e '.[kdtalker]'"
        )
        return
    if torch.cuda.is_available():
        cuda = f"CUDA {torch.version.cuda} on {torch.cuda.get_device_name()}"
        yield Fact("torch", f"{torch.__version__}, {cuda}", "published profile without TensorRT")
    else:
        yield Fact(
            "torch", f"{torch.__version__}, no CUDA device", "export, checks and training; no live published profile"
        )


def _tensorrt() -> Fact:
    from engines.types import EngineError

    try:
        from engines.runtime.tensorrt import require_tensorrt

        version = require_tensorrt()
    except (ImportError, EngineError):
        return Fact("TensorRT", "not installed", "no `kdtalker build`; torch or ONNX Runtime run the same networks")
    grid = "reads both exports" if _numbers(version) >= (11, 2) else "needs exports with `--target any`"
    return Fact("TensorRT", version, grid)


def _codecs() -> Fact:
    try:
        av = import_module("av")
        version = importlib.metadata.version("aiortc")
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        return Fact("codecs", f"missing ({error})", "no live call; install the project again")
    wanted = ("libvpx", "libx264", "libopus", "h264_nvenc")
    present = [name for name in wanted if name in av.codecs_available]
    return Fact(
        "codecs",
        f"aiortc {version}, PyAV {av.__version__}: {', '.join(present)}",
        "VP8 and H.264 are encoded on the CPU",
    )


def _port(port: int) -> Fact:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return Fact("port", f"{port} is taken ({error.strerror})", "serve on another: PORT=8081 make serve")
    return Fact("port", f"{port} is free on 127.0.0.1", "the page and its offers")


def _media_ports() -> Fact:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        try:
            first.bind(("", 0))
        except OSError as error:
            return Fact(
                "UDP", f"no port can be opened ({error.strerror})", "no live call: sound and picture travel by UDP"
            )
    return Fact("UDP", "ports can be opened", "live calls, where a firewall lets UDP between browser and server")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
