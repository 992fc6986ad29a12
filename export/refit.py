"""New weights into a built TensorRT engine: seconds where a build takes minutes.

For ONNX files of one graph that differ in their weights alone. Written to the documented interface and type-checked
against the bindings of 10.16 and 11.4; it has not been run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engines.runtime.engine_file import EngineFacts, Target, read_engine, write_engine
from engines.runtime.opening import source_of
from engines.types import KDTalkerError
from export.to_tensorrt import BuildOptions, check_refit, content, engine_path, facts_for

if TYPE_CHECKING:
    import tensorrt


def refit(place: Path, path: Path, target: Target) -> Path:
    """The weights of the ONNX file `path` into a copy of the engine `place` -> the engine of that file, beside it.

    Raises WeightsError for an engine that is damaged or foreign, KDTalkerError where it was not built to be refitted,
    the graphs differ, or TensorRT refuses.
    """
    facts, plan = read_engine(place, target)
    renewed = refitted_facts(place, facts, path, target)
    refitted = engine_path(path, renewed)
    write_engine(refitted, renewed, _refitted(place, facts, plan, path))
    return refitted


def refitted_facts(place: Path, facts: EngineFacts, path: Path, target: Target) -> EngineFacts:
    """What the engine `place`, built as `facts` say, is with the weights of `path`; raises as `refit` does."""
    if not facts.refit:
        raise KDTalkerError(f"{place.name} was not built to be refitted; build it anew with `kdtalker build --refit`.")
    check_refit(target)
    theirs = facts_for(path, target, BuildOptions(facts.batches))
    if theirs.precision != facts.precision:
        raise KDTalkerError(f"{path.name} is {theirs.precision} and {place.name} was built in {facts.precision}.")
    if theirs.graph_sha256 != facts.graph_sha256:
        raise KDTalkerError(
            f"{path.name} and the file that {place.name} was built from differ in more than their weights; build its "
            "own engine with `kdtalker build`."
        )
    return replace(facts, onnx_sha256=theirs.onnx_sha256, metadata=theirs.metadata)


def choose_file(place: Path, given: Path) -> Path:
    """The ONNX file of a folder that the engine `place` runs, or the very file that is given."""
    path = given / source_of(place).name if given.is_dir() else given
    if not path.is_file():
        raise KDTalkerError(f"There is no {path}, whose weights {place.name} could get; `kdtalker export` writes it.")
    return path


def _refitted(place: Path, facts: EngineFacts, plan: bytes, path: Path) -> bytes:
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    runtime = trt.Runtime(logger)
    if facts.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan carries a part of its own runtime
    engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise KDTalkerError(f"{place.name} was refused by TensorRT; its log above says why.")
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(path)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise KDTalkerError(f"{place.name} does not take the weights of {path.name}: {reasons}")
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        lacking = f"{path.name} lacks {', '.join(missing[:3])}" if missing else "the log above says why"
        raise KDTalkerError(f"TensorRT could not refit {place.name}: {lacking}.")
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # so that it can be refitted again
    serialized: tensorrt.IHostMemory | None = engine.serialize_with_config(config)
    if serialized is None:
        raise KDTalkerError(f"TensorRT could not write {place.name} with its new weights; its log above says why.")
    return content(serialized)
