"""LSE-C and LSE-D of a trained model: its lips on rendered film, beside the real film with the same sound."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from engines.media import load_speech
from engines.offline import motions, render_file
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from training.syncnet import LipSync, SyncNet, lip_sync_of
from training.videos import Track, track

AVATAR = "iris.png"
MOST = 4  # films; each is rendered in full


def measure(network: SyncNet, films: Sequence[tuple[Path, Track]], weights: Path) -> dict[str, dict[str, Any]]:
    """By film: the real one, and the model of the folder `weights` speaking its sound with the face that ships."""
    talker = open_talker("embedded", str(weights))
    identity = talker.renderer.enrol(prepare((files("engines") / "avatars" / AVATAR).read_bytes()))
    found: dict[str, dict[str, Any]] = {}
    for path, tracked in films[:MOST]:
        speech = load_speech(path)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made.mp4"
            rows = (tick.motion for tick in motions(talker, identity, speech, seed=0))
            render_file(talker, identity, speech, rows, made)
            ours: LipSync = lip_sync_of(network, made, track(made))
        found[path.name] = {"real": asdict(lip_sync_of(network, path, tracked)), "this model": asdict(ours)}
    return found
