"""A built TensorRT engine on disk: what it was built from and for, then TensorRT's own bytes.

TensorRT's plans fit one version and one kind of GPU and say so only by failing to load. The header in front lets us
refuse with a sentence instead.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.types import WeightsError

MAGIC = b"KDTENGN1"
BATCHES = (1, 2, 4, 8)  # what an engine is built for; rows between are padded to the next


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is bound to. `compute_capability` as "9.0"; `gpu` is for people."""

    tensorrt: str
    compute_capability: str
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Everything that decides a plan. `sizes`: the free sizes other than the batch; `metadata`: of the ONNX file;
    `graph_sha256`: of its graph without the weights."""

    onnx_sha256: str
    target: Target
    precision: str
    batches: tuple[int, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    graph_sha256: str = ""

    @property
    def key(self) -> str:
        """Names the plan among all plans of a network: another key, another engine."""
        decisive = asdict(self)
        del decisive["metadata"], decisive["graph_sha256"], decisive["target"]["gpu"]  # follow from the others
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    def file_name(self, network: str) -> str:
        return f"{network}.{self.key}.engine"

    def refusal(self, here: Target) -> str | None:
        """Why the plan cannot run `here`, or None."""
        theirs, ours = self.target.tensorrt, here.tensorrt
        forward = self.version_compatible and _major(theirs) <= _major(ours)
        if theirs != ours and not forward:
            return f"it was built with TensorRT {theirs} and this machine has {ours}"
        theirs, ours = self.target.compute_capability, here.compute_capability
        # The compatible mode covers Ampere and everything after it.
        if theirs != ours and not (self.hardware_compatible and min(_major(theirs), _major(ours)) >= 8):
            return f"it was built for compute capability {theirs} ({self.target.gpu}) and this GPU has {ours}"
        return None


def write_engine(path: Path, facts: EngineFacts, plan: bytes) -> None:
    """Write header and plan; the file appears whole or not at all."""
    header = json.dumps(asdict(facts)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.partial")
    with draft.open("wb") as file:
        file.write(MAGIC + struct.pack("<I", len(header)) + header)
        file.write(plan)
    draft.replace(path)


def read_facts(path: Path) -> EngineFacts:
    """The header of an engine file; raises WeightsError where it has none."""
    return _read(path)[0]


def read_engine(path: Path, here: Target, onnx: Path | None = None) -> tuple[EngineFacts, bytes]:
    """Header and plan of an engine that may run `here`.

    `onnx`: the file it should have been built from, where that is at hand. Raises WeightsError for a foreign, stale or
    damaged file, with the command that builds it again.
    """
    facts, plan = _read(path)
    reason = facts.refusal(here)
    if reason is None and onnx is not None and onnx.is_file() and file_hash(onnx) != facts.onnx_sha256:
        reason = f"{onnx.name} has changed since"
    if reason is None and not plan:
        reason = "it breaks off"
    if reason is not None:
        raise WeightsError(f"{path.name} cannot be used: {reason}. {rebuild(path)}")
    return facts, plan


def rebuild(path: Path) -> str:
    return f"Build it again with `kdtalker build {path.parent}`."


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[EngineFacts, bytes]:
    try:
        content = path.read_bytes()
        start = len(MAGIC) + 4
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError("it has no header")
        (length,) = struct.unpack("<I", content[len(MAGIC) : start])
        return _facts(json.loads(content[start : start + length])), content[start + length :]
    except FileNotFoundError:
        raise WeightsError(f"There is no engine {path}. {rebuild(path)}") from None
    except (ValueError, KeyError, TypeError, struct.error, OSError) as error:
        raise WeightsError(
            f"{path.name} is no engine written by `kdtalker build` or is damaged ({error}). {rebuild(path)}"
        ) from error


def _facts(content: dict[str, Any]) -> EngineFacts:
    content["target"] = Target(**content["target"])
    content["batches"] = tuple(content["batches"])
    return EngineFacts(**content)


def _major(version: str) -> int:
    return int(version.split(".")[0])
