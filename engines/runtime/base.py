"""The engine contract: named arrays in, named arrays out, close.

An engine keeps no caller's state: rows come in with a call and leave with it. Every runtime takes the
same names, order and dtypes, so callers have no branch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.types import EngineError, WeightsError

Array = NDArray[Any]
BATCH = "batch"  # the free size that every graph has
IDENTITIES = "identities"  # the free size of tables of enrolled photos


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one input or output; a word in the shape stands for any size, the same wherever
    the word occurs."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def accepts(self, array: Array) -> bool:
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(isinstance(want, str) or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with its words replaced."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    @classmethod
    def parse(cls, name: str, text: str) -> TensorSpec:
        """The spec that `str` wrote as `text`."""
        dtype, _, shape = text.partition(" (")
        sizes = [size.strip() for size in shape.removesuffix(")").split(",") if size.strip()]
        return cls(name, np.dtype(dtype), tuple(int(size) if size.isdigit() else size for size in sizes))

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"


class Engine(Protocol):
    """One network, ready to run. May be called from several threads."""

    name: str
    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]

    @property
    def unprepared(self) -> int:
        """Calls so far at sizes that `warm` had not prepared."""
        ...

    def run(self, out: Mapping[str, Array] | None = None, /, **arrays: Array) -> dict[str, Array]:
        """Run once. `out` names arrays to write results into; the others are new and the caller's own.

        Raises EngineError naming the engine, the tensor and both shapes.
        """
        ...

    def hold(self, **tables: Array) -> None:
        """Keep inputs that seldom change (tables of identities) where the network runs; `run` then leaves them out.

        Tables of another length than those before undo what `warm` prepared.
        """
        ...

    def put(self, row: int, **rows: Array) -> None:
        """Overwrite one row of held tables where they lie. Not while a call may read that row."""
        ...

    def warm(self, batches: Iterable[int], **sizes: int) -> None:
        """Allocate the buffers of every batch size named and run each once. Hold the tables first.

        `sizes`: the free sizes beside the batch, by their words; those of held tables are known, and words that no
        input has are passed over.
        """
        ...

    def close(self) -> None: ...


def fact(metadata: Mapping[str, str], key: str) -> Any:
    """A value out of a file's metadata, where values are JSON; None where the key is missing."""
    text = metadata.get(key)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:
        return text


def stated_specs(metadata: Mapping[str, str], kind: str) -> tuple[TensorSpec, ...]:
    """The ``inputs`` or ``outputs`` that a file's metadata states."""
    return tuple(TensorSpec.parse(name, text) for name, text in (fact(metadata, kind) or {}).items())


def check_facts(file: str, metadata: Mapping[str, str], expect: Mapping[str, object]) -> None:
    for key, wanted in expect.items():
        found = fact(metadata, key)
        if found != wanted:
            said = f"no {key}" if found is None else f"{key} '{found}'"
            raise WeightsError(
                f"{file} states {said} and '{wanted}' is needed; write the file again with `kdtalker export`."
            )


def check_shapes(file: str, engine: Engine) -> None:
    """Refuse a file whose metadata describes other tensors than its graph has."""
    for kind, specs in (("inputs", engine.inputs), ("outputs", engine.outputs)):
        stated = fact(engine.metadata, kind)
        actual = {spec.name: str(spec) for spec in specs}
        if stated is not None and stated != actual:
            raise WeightsError(
                f"{file} states {kind} {stated} and has {actual}; it was altered after it was written. "
                "Write it again with `kdtalker export`."
            )


def check_inputs(engine: str, specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> dict[str, int]:
    """Every input present, of its dtype and shape -> the free sizes by their words."""
    sizes: dict[str, int] = {}
    for spec in specs:
        given = arrays.get(spec.name)
        if given is None:
            raise EngineError(f"{engine}: input '{spec.name}' is missing")
        if not spec.accepts(given):
            raise EngineError(f"{engine}: input '{spec.name}' must be {spec}, got {given.dtype} {given.shape}")
        for word, size in zip(spec.shape, given.shape, strict=True):
            if isinstance(word, str) and sizes.setdefault(word, size) != size:
                raise EngineError(
                    f"{engine}: input '{spec.name}' must be {spec} with {word} = {sizes[word]} as in the inputs "
                    f"before it, got {given.dtype} {given.shape}"
                )
    unknown = arrays.keys() - {spec.name for spec in specs}
    if unknown:
        names = ", ".join(spec.name for spec in specs)
        raise EngineError(f"{engine}: there is no input '{min(unknown)}'; it has {names}")
    return sizes


def check_row(engine: str, name: str, table: Array | TensorSpec | None, row: int, value: Array) -> None:
    """Whether `value` may replace a row of a held table of that shape and dtype; None where none is held."""
    if table is None:
        raise EngineError(f"{engine}: no table '{name}' is held; hold it first")
    if value.shape != table.shape[1:] or value.dtype != table.dtype or not 0 <= row < int(table.shape[0]):
        raise EngineError(
            f"{engine}: row {row} of table '{name}' must be {table.dtype} {table.shape[1:]} and one of "
            f"{table.shape[0]}, got {value.dtype} {value.shape}"
        )


def free_sizes(engine: str, specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, int]:
    """A size for every word of `specs`; EngineError where one is not in `sizes`."""
    words = dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str))
    missing = [word for word in words if word not in sizes]
    if missing:
        raise EngineError(f"{engine}: how many {missing[0]} are there? Say it to `warm`, or hold the table first")
    return {word: sizes[word] for word in words}


def deliver(engine: str, spec: TensorSpec, value: Array, out: Mapping[str, Array] | None) -> Array:
    """`value`, which the engine will overwrite, into `out` or into a new array."""
    target = None if out is None else out.get(spec.name)
    if target is None:
        return value.copy()
    if target.shape != value.shape or target.dtype != value.dtype:
        raise EngineError(
            f"{engine}: output '{spec.name}' must be {value.dtype} {value.shape}, got {target.dtype} {target.shape}"
        )
    np.copyto(target, value)
    return target


def padded_batch(rows: int, batches: Sequence[int]) -> int:
    """The smallest prepared batch that holds `rows` (3 -> 4); EngineError where none does."""
    fitting = [batch for batch in sorted(batches) if batch >= rows]
    if not fitting or rows < 1:
        raise EngineError(f"{rows} rows do not fit any of the batches {sorted(batches)} the engine was prepared for")
    return fitting[0]


def example_inputs(specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Random inputs of the right shapes: unit normal floats, zeros for integers and 0/1 masks by turns."""
    generator = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in specs:
        shape = spec.sized(sizes)
        if spec.dtype.kind == "f":
            made[spec.name] = generator.standard_normal(shape, np.float32).astype(spec.dtype)
        elif spec.dtype == np.uint8:
            made[spec.name] = generator.integers(0, 256, shape, np.uint8)
        else:
            made[spec.name] = np.zeros(shape, spec.dtype)
    return made
