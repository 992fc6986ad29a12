"""The networks of the published profile behind the engine contract: in PyTorch from the weights, or from files that
`kdtalker export` and `kdtalker build` wrote, in whichever runtime those are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.motion import Normalisation
from engines.profile import KDTALKER
from engines.runtime.base import Engine, fact
from engines.runtime.opening import open_engine
from engines.runtime.stepped import SteppedWindow
from engines.types import EngineError, WeightsError

if TYPE_CHECKING:
    from engines.networks.model import PublishedModel
    from engines.networks.published_graphs import Network

STEPS = 10  # of one streamed window; `engines.published.exact` takes the original's 50
FEWER = 4  # when the machine cannot keep up
NORMALISATION = "normalisation.npz"  # beside the files, by the published names
ENDINGS = {"cpu": (".onnx", ".pt2"), "cuda": (".engine", ".onnx", ".pt2")}  # the first that is there is taken


@dataclass(frozen=True, slots=True)
class PublishedNetworks:
    """Engines by what they do. `window`: the sampler of that many diffusion steps.

    `rows`: frames rendered in one call; `identities`: photos whose tables stay where the renderer runs.
    """

    normalisation: Normalisation
    audio_encoder: Engine
    window: Callable[[int], Engine]
    motion_extractor: Engine
    enrolment: Engine
    renderer: Engine
    stitching: Engine
    rows: int
    identities: int


def torch_networks(model: PublishedModel, *, guided: bool = False) -> PublishedNetworks:
    """The networks of a loaded model on its device, which are the engines' from then on.

    `guided`: windows compute the branch without speech too, which guidance other than 1 needs; files always do.
    """
    from engines.networks import published_graphs as graphs
    from engines.runtime.torch import TorchEngine

    device = str(model.device)

    def engine(network: Network, *, half: bool = False) -> Engine:
        return TorchEngine(*network, device=device, half=model.half if half else None)

    return PublishedNetworks(
        model.normalisation,
        engine(graphs.audio_encoder(model)),
        lambda steps: engine(graphs.window(model, steps, KDTALKER.window.length, guided=guided), half=True),
        engine(graphs.motion_extractor(model)),  # its errors are divided by deviations as small as 6e-7
        engine(graphs.enrolment(model), half=True),
        engine(graphs.renderer(model), half=True),
        engine(graphs.stitching(model)),
        *_room(model.device.type),
    )


def open_networks(folder: Path, device: str = "cpu", precision: str = "float32") -> PublishedNetworks:
    """The networks of the files in `folder`.

    On a GPU engines of TensorRT go before ONNX files. Raises WeightsError where one is missing, foreign or stale,
    EngineError for a device that no runtime has.
    """
    from engines.networks.checkpoints import load_normalisation
    from engines.networks.ddim import published_sampling

    if device not in ENDINGS:
        raise EngineError(f"Network files run on {' or '.join(ENDINGS)}, not on '{device}'.")

    def engine(name: str, **expect: object) -> Engine:
        path = _find(folder, name, device, precision)
        return open_engine(path, device=device, expect={"profile": KDTALKER.name, "network": name, **expect})

    def window(steps: int) -> Engine:
        sampling = published_sampling(steps)
        if sampling.order == 1:
            return SteppedWindow(engine("step"), sampling.timesteps())
        return engine("window", steps=steps)  # its solver looks back a step, which a graph of one step cannot

    enrolment, renderer = engine("enrolment"), engine("renderer", pixels="rgb")
    if fact(enrolment.metadata, "sampling") != fact(renderer.metadata, "sampling"):
        raise WeightsError(
            f"{enrolment.name} and {renderer.name} in {folder} come from different exports and do not fit together; "
            "run `kdtalker export` again."
        )
    return PublishedNetworks(
        load_normalisation(folder / NORMALISATION),
        engine("audio_encoder"),
        window,
        engine("motion_extractor"),
        enrolment,
        renderer,
        engine("stitching"),
        *_room(device),
    )


def _room(device: str) -> tuple[int, int]:
    """Frames a call, and photos kept. A batch fills a GPU; on a CPU it only takes memory, a third of a GB a frame."""
    return (8, 16) if device == "cuda" else (1, 4)


def _find(folder: Path, name: str, device: str, precision: str) -> Path:
    found = candidates(folder, name, device, precision)
    if not found:
        raise WeightsError(f"{folder} holds no file of the network '{name}'; `kdtalker export --out` writes it.")
    return found[0]


def candidates(folder: Path, name: str, device: str, precision: str) -> list[Path]:
    """Files of a network, best first: by runtime, then precision, then age. Engines have the precision they were built
    in, so of them either is taken."""
    found: list[Path] = []
    for ending in ENDINGS[device]:
        half = precision == "float16"
        for stem in sorted([name, f"{name}.float16"], key=len, reverse=half):
            if stem != name and not half and ending != ".engine":
                continue
            key = f".{'[0-9a-f]' * 16}" if ending == ".engine" else ""
            found += sorted(folder.glob(f"{stem}{key}{ending}"), key=lambda path: -path.stat().st_mtime)
    return found
