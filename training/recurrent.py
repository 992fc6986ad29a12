"""The network of `engines.recurrent` for whole sequences, to be fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.audio import BANDS
from engines.recurrent import Recurrent
from engines.types import FloatArray
from training.batches import WINDOW


class Listener(nn.Module):
    """`features` of a mel window, `state` numbers of memory; `dropout` of the features while fitting."""

    def __init__(self, features: int, state: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.reading = nn.Linear(BANDS * WINDOW.columns, features)
        self.cell = nn.GRU(features, state, batch_first=True)
        self.answer = nn.Linear(state, 1)
        self.dropout = dropout

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, T, 80, K) -> logits (B, T)."""
        read = F.dropout(F.relu(self.reading(windows.flatten(2))), self.dropout, self.training)
        logits: Tensor = self.answer(self.cell(read)[0])[..., 0]
        return logits

    def tables(self) -> Recurrent:
        """The parameters as calls read them."""

        def plain(tensor: Tensor) -> FloatArray:
            return np.array(tensor.detach().numpy(), np.float32, order="C")

        cell = self.cell
        return Recurrent(
            reading=plain(self.reading.weight.T),
            reading_bias=plain(self.reading.bias),
            gates_in=plain(cell.weight_ih_l0.T),
            gates_in_bias=plain(cell.bias_ih_l0),
            gates_past=plain(cell.weight_hh_l0.T),
            gates_past_bias=plain(cell.bias_hh_l0),
            answer=plain(self.answer.weight[0]),
            answer_bias=plain(self.answer.bias).reshape(()),
        )


def side_by_side(networks: Sequence[Recurrent]) -> Recurrent:
    """One network that answers with the mean of several; the mean is taken before the answer is squashed to 0..1."""

    def cells(name: str) -> FloatArray:
        """Weights (rows, 3 S) of all cells, none of which reads what belongs to another."""
        parts = [torch.from_numpy(getattr(network, name)).chunk(3, dim=1) for network in networks]
        return torch.cat([torch.block_diag(*gate) for gate in zip(*parts, strict=True)], dim=1).numpy()

    def gates(name: str) -> FloatArray:
        """Biases (3 S,) of all cells."""
        return np.concatenate([getattr(network, name).reshape(3, -1) for network in networks], axis=1).ravel()

    return Recurrent(
        reading=np.concatenate([network.reading for network in networks], axis=1),
        reading_bias=np.concatenate([network.reading_bias for network in networks]),
        gates_in=cells("gates_in"),
        gates_in_bias=gates("gates_in_bias"),
        gates_past=cells("gates_past"),
        gates_past_bias=gates("gates_past_bias"),
        answer=np.concatenate([network.answer for network in networks]) / np.float32(len(networks)),
        answer_bias=np.asarray(np.mean([network.answer_bias for network in networks]), np.float32),
    )
