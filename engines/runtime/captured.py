"""A CUDA graph of one batch size, between pinned memory at the host's end and buffers on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.runtime.base import Array


@dataclass(frozen=True, slots=True)
class Captured:
    """`inputs` and `outputs` are what the graph reads and writes; `by_rows` names the inputs that have a row for each
    of the batch. `needs`: whatever has to live as long as the graph.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    host_in: Mapping[str, Tensor]
    host_out: Mapping[str, Tensor]
    by_rows: frozenset[str]
    needs: object = None

    def replay(self, arrays: Mapping[str, Array], rows: int) -> dict[str, Tensor]:
        """Run on the current stream and wait; the first `rows` of each result, valid until the next replay."""
        for name, pinned in self.host_in.items():
            if name in self.by_rows:
                fill_rows(pinned.numpy(), arrays[name])
            else:
                np.copyto(pinned.numpy(), arrays[name])
            self.inputs[name].copy_(pinned, non_blocking=True)
        self.graph.replay()
        for name, pinned in self.host_out.items():
            pinned.copy_(self.outputs[name], non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return {name: pinned[:rows] for name, pinned in self.host_out.items()}


def captured(
    graph: torch.cuda.CUDAGraph,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    by_rows: frozenset[str],
    needs: object = None,
) -> Captured:
    """A captured graph with pinned memory for its inputs and outputs."""
    host_in, host_out = (
        {name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for name, tensor in some.items()}
        for some in (inputs, outputs)
    )
    return Captured(graph, inputs, outputs, host_in, host_out, by_rows, needs)


def fill_rows(buffer: Array, rows: Array) -> None:
    """Write `rows` into a buffer of the same or more rows, repeating the last one."""
    count = len(rows)
    buffer[:count] = rows
    buffer[count:] = rows[-1]
