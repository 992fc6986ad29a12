"""TensorRT is not at hand in tests: a recorder with the few names the build uses stands in for the package.

The calls are checked against the stubs of the published bindings by mypy in `make lint`; what it stands in for was
never run.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from engines.runtime.engine_file import Target

HERE = Target("10.16.1.11", "9.0", "NVIDIA H100")


class StandIn(ModuleType):
    """Records the build's calls; `plan` is what it gives, None where TensorRT fails."""

    def __init__(self, plan: bytes | None = b"plan", readable: bool = True, missing: tuple[str, ...] = ()) -> None:
        super().__init__("tensorrt")
        calls: list[tuple[Any, ...]] = []
        self.calls, self.__version__ = calls, HERE.tensorrt
        self.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda _, level: None})
        self.Dims = tuple
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE="version", REFIT="refit", TF32="tf32")
        self.SerializationFlag = SimpleNamespace(INCLUDE_REFIT="refittable")
        self.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere+")
        self.IProgressMonitor = type("IProgressMonitor", (), {})

        class Profile:
            def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
                assert low == best == high
                calls.append(("shape", name, low))

        class Config:
            progress_monitor: Any = None
            hardware_compatibility_level: Any = None

            def set_flag(self, flag: str) -> None:
                calls.append(("flag", flag))

            def clear_flag(self, flag: str) -> None:
                calls.append(("clear", flag))

            def add_optimization_profile(self, profile: Profile) -> int:
                calls.append(("profile",))
                return 0

            def create_timing_cache(self, blob: bytes) -> Any:
                calls.append(("timings", blob))
                return SimpleNamespace(blob=blob, serialize=lambda: b"measured")

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                self.cache = cache
                return cache.blob != b"of another GPU"

            def get_timing_cache(self) -> Any:
                return self.cache

        class Builder:
            def __init__(self, logger: Any) -> None: ...

            def create_network(self, flags: int) -> object:
                calls.append(("network", flags))
                return object()

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: object, config: Config) -> bytes | None:
                calls.append(("level", config.hardware_compatibility_level))
                config.progress_monitor.phase_start("Building", None, 10)
                assert config.progress_monitor.step_complete("Building", 9) is True
                config.progress_monitor.phase_finish("Building")
                return plan

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: object, logger: Any) -> None: ...

            def parse_from_file(self, path: str) -> bool:
                calls.append(("parse", Path(path).name))
                return readable

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: "no importer for GridSample")

        class Serialization:
            def set_flag(self, flag: str) -> bool:
                calls.append(("serialization", flag))
                return True

        class Engine:
            def create_serialization_config(self) -> Serialization:
                return Serialization()

            def serialize_with_config(self, config: Serialization) -> bytes:
                return b"plan with other weights"

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger: Any) -> None: ...

            def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
                calls.append(("deserialize", plan, self.engine_host_code_allowed))
                return Engine()

        class Refitter:
            def __init__(self, engine: Engine, logger: Any) -> None: ...

            def get_missing_weights(self) -> list[str]:
                return list(missing)

            def refit_cuda_engine(self) -> bool:
                calls.append(("refit",))
                return True

        class OnnxParserRefitter(OnnxParser):
            def refit_from_file(self, path: str) -> bool:
                return self.parse_from_file(path)

        self.Builder, self.OnnxParser = Builder, OnnxParser
        self.Runtime, self.Refitter, self.OnnxParserRefitter = Runtime, Refitter, OnnxParserRefitter
