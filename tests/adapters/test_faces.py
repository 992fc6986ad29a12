"""The environment of the adapters has another protobuf than MediaPipe asks for; faces are found all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.adapters.conftest import IRIS


def test_a_face_is_found(tmp_path: Path) -> None:
    prepared = subprocess.run(
        [sys.executable, "-m", "kdtalker", "prepare", str(IRIS)],
        cwd=IRIS.parents[2],
        env=os.environ | {"KDTALKER_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert prepared.returncode == 0, prepared.stderr
    assert "is ready" in prepared.stdout
    assert prepared.stderr == ""
