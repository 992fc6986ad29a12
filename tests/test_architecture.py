"""What must hold for the tree as a whole."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TORCH_ROOMS = (
    "engines/networks/",
    "engines/runtime/captured.py",
    "engines/runtime/torch.py",
    "engines/runtime/tensorrt.py",
    "training/",
    "export/",
    "tests/",
    "benchmarks/",
)


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this copy is no git checkout, so tracked files cannot be listed")
    return listed.stdout.split()


def imports_of(path: Path) -> set[str]:
    """Top-level names a module imports when it is itself imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_torch_stays_in_its_rooms() -> None:
    outside = [path for path in tracked("*.py") if not path.startswith(TORCH_ROOMS)]
    assert outside
    assert [path for path in outside if "torch" in imports_of(REPOSITORY / path)] == []


def test_engines_know_nothing_of_asyncio_or_http() -> None:
    forbidden = {"asyncio", "aiortc", "fastapi", "starlette", "uvicorn", "websockets"}
    engines = tracked("engines/*.py")
    assert engines
    assert {path: sorted(found) for path in engines if (found := imports_of(REPOSITORY / path) & forbidden)} == {}


def test_no_path_of_one_machine_and_no_registry_host_is_committed() -> None:
    forbidden = re.compile(rb"/(?:w[o]rk|r[o]ot)/|py" + rb"pi\.org|download\.py" + rb"torch\.org|npm" + rb"js\.org")
    found = {}
    for name in tracked():
        path = REPOSITORY / name
        if path.suffix in (".png", ".jpg", ".npz", ".onnx", ".woff2"):
            continue
        if match := forbidden.search(path.read_bytes()):
            found[name] = match.group().decode()
    assert found == {}
