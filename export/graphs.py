"""Which graphs the published profile consists of, and how each is described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import nn

from engines.networks import published_graphs as graphs
from engines.networks.ddim import Ddim, published_sampling
from engines.networks.model import PublishedModel
from engines.networks.published_graphs import spec, window_inputs
from engines.networks.renderer_graph import Frames, Sampling
from engines.networks.window_graph import MOST_UNROLLED, StepGraph, WindowGraph
from engines.runtime.base import BATCH, IDENTITIES
from engines.types import MOTION_WIDTH
from export.examples import FRAMES as FREE_FRAMES
from export.onnx_file import Graph

FRAMES = 64  # of a window, the length the published denoiser was trained on
STEPS = 10
NORMALISED = "deviations of the training data (norm.npz)"
WINDOW_UNITS = {
    "tokens": f"canonical and reference token, {NORMALISED}",
    "sound": "audio encoder's features",
    "noise": "unit normal",
    "committed": NORMALISED,
    "mask": "1 settled, 0 to be generated",
    "guidance": "weight of the step from no sound to sound, per number",
    "temperature": "scale of the noise, per number",
    "motion": NORMALISED,
}
GRID = "grid coordinates: -1 and 1 are the outermost cells"


def window_graph(
    loop: Ddim, frames: int, *, fixed: bool = True, stepped: bool = False, tolerance: float = 1e-4
) -> Graph:
    """The sampler of a denoiser with `loop`'s schedule: all steps in one graph, or one step (`stepped`).

    Windows have `frames` frames, or (not `fixed`) any number up to that.
    """
    network = loop.denoiser
    size = frames if fixed else FREE_FRAMES
    inputs = window_inputs(size, network.config.audio_width)
    facts: dict[str, object] = {"frames": frames, "steps": loop.config.steps, "timesteps": loop.config.timesteps()}
    if stepped:
        inputs += (
            spec("state", BATCH, size, MOTION_WIDTH),
            spec("step", 1, dtype=np.int64),
            spec("following", 1, dtype=np.int64),
        )
    name, output = ("step", "next") if stepped else ("window", "motion")
    return Graph(
        name,
        (StepGraph if stepped else WindowGraph)(loop, frames, fixed=fixed),
        inputs,
        (spec(output, BATCH, size, MOTION_WIDTH),),
        sum(parameter.numel() for parameter in network.parameters()),
        WINDOW_UNITS | ({"step": "diffusion step 0..999", "following": "the next, 1000 at the end"} if stepped else {}),
        facts,
        tolerance,
        bounded=True,
    )


def published(
    model: PublishedModel,
    *,
    frames: int = FRAMES,
    steps: int = STEPS,
    sampling: Sampling = "decomposed",
    pixels: Frames = "rgb",
) -> Iterator[Graph]:
    """Every graph of the published profile, made one after the other; `model` float32 on the CPU."""

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    yield Graph(
        *graphs.audio_encoder(model),
        count(model.audio_encoder),
        {"mel": "log-mel in [-4, 4], 80 bands by 16 columns of 12.5 ms", "feature": "none"},
    )
    loop = published_sampling(steps, guided=True)
    if steps <= MOST_UNROLLED:
        yield window_graph(graphs.sampling_loop(model, loop), frames)
    yield window_graph(graphs.sampling_loop(model, replace(loop, order=1)), frames, stepped=True)
    yield Graph(
        *graphs.motion_extractor(model),
        count(model.motion_extractor),
        {"picture": "RGB 0..255", "canonical": "keypoint units", "motion": "scale, degrees, keypoint units"},
        half=False,  # its errors are divided by deviations as small as 6e-7
    )
    yield Graph(
        *graphs.enrolment(model, sampling),
        count(model.appearance, model.warping.dense_motion_network.compress),
        {"picture": "RGB 0..255", "keypoints": GRID, "volumes": "features", "heatmaps": "0..1"},
        {"sampling": sampling},
    )
    renderer = graphs.renderer(model, sampling, pixels)
    yield Graph(
        *renderer,
        count(model.warping, model.decoder),
        {"keypoints": GRID, "rows": "row of the tables, 0-based", "frames": f"{pixels.upper()} 0..255"},
        {
            "sampling": sampling,
            "pixels": pixels,
            "tables": [each.name for each in renderer.inputs if each.shape[0] == IDENTITIES],
        },
        batches=(1,),  # a frame is 1.1 TFLOP
    )
    small = count(model.stitching)
    yield Graph(*graphs.stitching(model), small, {"source": GRID, "keypoints": GRID, "stitched": GRID})
    for part, ratios in (("lips", 2), ("eyes", 3)):
        units = {"keypoints": GRID, "ratios": "opening over width", "delta": GRID}
        yield Graph(*graphs.retargeting(model, part, ratios), small, units)
