"""Opening a profile: its engines, tables and renderer, put together as a `Talker`."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from engines.cache import cache_folder
from engines.contact import contact_model
from engines.emotions import emotion_offsets
from engines.face_mesh import FaceModel, face_model
from engines.gaze import Gaze
from engines.life import life_model
from engines.pipeline import Talker
from engines.placing import RelativePlacing
from engines.profile import KDTALKER, Profile, profile
from engines.published.weights_files import open_model
from engines.renderer import open_renderer
from engines.runtime.base import Engine
from engines.runtime.opening import open_engine
from engines.sampler import Quiet, Sampler
from engines.understanding import Understanding
from engines.voice import voice_model


def open_talker(name: str = "embedded", weights: str | None = None, hop: int | None = None) -> Talker:
    """Open every engine of the profile called `name`, each with one thread. `Talker.warm` prepares them for calls.

    `weights` says which published weights to take, see `open_model`; for the embedded profile it is a folder that
    `kdtalker train --videos` wrote, default: the shipped one. `hop`: ticks a window advances, default: the profile's.
    """
    chosen = profile(name) if hop is None else profile(name).with_hop(hop)
    if chosen.name == KDTALKER.name:
        model = open_model(weights, cache_folder())
        # These need PyTorch, which `open_model` has made sure of.
        from engines.published.networks import FEWER, torch_networks
        from engines.published.talker import published_talker

        networks = torch_networks(model)
        talker = published_talker(networks, hop=hop)[0]
        return replace(talker, sampler=replace(talker.sampler, brief=networks.window(FEWER)))
    own = None if weights is None else Path(weights)
    face = face_model(own)
    folder = own or files("engines") / "weights" / chosen.name
    with as_file(folder / "audio_encoder.onnx") as path:
        encoder = open_engine(path, expect={"profile": chosen.name, "network": "audio_encoder"})
    with as_file(folder / "window.onnx") as path:
        window = open_engine(path, expect={"profile": chosen.name, "network": "window"})
    with as_file(folder / "brief.onnx") as path:
        brief = open_engine(path, expect={"profile": chosen.name, "network": "brief"})
    placing = RelativePlacing(
        face.normalisation, life_model(own), chosen.limits, face.mouth, emotion_offsets(face), Gaze.of(face)
    )
    sampler = replace(sampler_of(window, face, chosen), brief=brief)
    understanding = Understanding(voice_model(own), contact_model(own))
    return Talker(chosen, placing, encoder, sampler, open_renderer(chosen), understanding)


def sampler_of(window: Engine, face: FaceModel, chosen: Profile) -> Sampler:
    """The sampler of a profile whose settings go by parts of the face, around its window network."""
    return Sampler(
        window,
        chosen.window,
        face.per_number(chosen.guidance),
        face.per_number(chosen.temperature),
        limit=chosen.deviations,
        quiet=None
        if chosen.calm is None
        else Quiet(face.rest(), face.per_number(chosen.calm), face.per_number(chosen.rescale)),
        smooth=chosen.smooth,
        contact=contact_model().contact(face),
    )
