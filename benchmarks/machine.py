"""What figures depend on beside the code, and what a program uses of the machine while it runs (Linux)."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

PACKAGES = ("aiortc", "av", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "numpy", "opencv-python-headless")
EVERY = 0.5  # seconds between looks


def machine() -> dict[str, Any]:
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    here = str(Path(__file__).parent)
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "gpu": output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "packages": packages,
        "commit": output("git", "-C", here, "rev-parse", "--short", "HEAD"),
        "changed": bool(output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def output(*command: str) -> str:
    """What a program says; nothing where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def memory(pid: int) -> int:
    """Resident bytes of a process; 0 where it is gone."""
    lines = [line for line in _lines(Path(f"/proc/{pid}/status")) if line.startswith("VmRSS")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


class Usage:
    """Looks at a server, this process and the machine for as long as `follow` runs. `pid` None: no server here."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._memory: list[int] = []
        self._gpu: list[tuple[float, float]] = []
        self._begun = self._ended = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        """Moment, and seconds of cores: the server's, this process's, the machine's."""
        server = sum(cpu_seconds(member) for member in family(self._pid)) if self._pid else 0.0
        return time.monotonic(), server, cpu_seconds(os.getpid()), _busy()

    async def follow(self) -> None:
        self._begun = self._ended = self._now()
        while True:
            await asyncio.sleep(EVERY)
            if self._pid:
                self._memory.append(sum(memory(member) for member in family(self._pid)))
            if text := await asyncio.to_thread(_gpu):
                self._gpu.append(text)

    def report(self, calls: int) -> dict[str, Any]:
        """Cores used since `follow` began, memory and GPU at most."""
        ended = self._now()
        seconds, server, own, all_cores = (after - before for before, after in zip(self._begun, ended, strict=True))
        found = {
            "caller_cores_per_call": round(own / seconds / calls, 3),
            "machine_cores_busy": round(all_cores / seconds, 2),
        }
        if self._pid:
            found["server_cores"] = round(server / seconds, 3)
            found["server_cores_per_call"] = round(server / seconds / calls, 3)
            found["server_memory_mb"] = round(max(self._memory, default=0) / 1e6)
        if self._gpu:
            found["gpu_percent"] = max(percent for percent, _ in self._gpu)
            found["gpu_memory_mb"] = max(used for _, used in self._gpu)
        return found


def _busy() -> float:
    """Seconds of all cores in use since the machine started."""
    lines = _lines(Path("/proc/stat"))
    if not lines:
        return 0.0
    ticks = [int(field) for field in lines[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def _gpu() -> tuple[float, float] | None:
    query = "--query-gpu=utilization.gpu,memory.used"
    said = output("nvidia-smi", query, "--format=csv,noheader,nounits") if _has_gpu() else ""
    percent, _, used = said.partition("\n")[0].partition(",")
    try:
        return float(percent), float(used)
    except ValueError:
        return None


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia").exists() or Path("/dev/nvidia0").exists()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
