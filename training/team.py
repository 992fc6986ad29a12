"""The processes that train together, as torchrun starts them; alone where nobody started others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from engines.types import KDTalkerError

PATIENCE = timedelta(hours=12)  # that processes wait for each other: tracking a film takes minutes, many take hours

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """This process among `size`; `device` is what it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` pieces of work are this process's."""
        return range(self.rank, count, self.size)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    @torch.no_grad()
    def start_alike(self, model: nn.Module) -> None:
        """Give all processes the leader's parameters."""
        if self.size > 1:
            for value in model.state_dict().values():
                distributed.broadcast(value, 0)

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients of all processes, in one message."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([value.numel() for value in parameters])
        for value, part in zip(parameters, parts, strict=True):
            if value.grad is not None:
                value.grad.copy_(part.view_as(value))

    def mean(self, figures: Sequence[dict[str, float]]) -> dict[str, float]:
        """Mean of every figure over all parts of all processes."""
        total = torch.tensor([sum(entry[key] for entry in figures) for key in figures[0]], dtype=torch.float64)
        count = len(figures) * self.size
        if self.size > 1:
            total = total.to(torch.float32).to(self.device)
            distributed.all_reduce(total)
        return {key: float(value) / count for key, value in zip(figures[0], total.cpu(), strict=True)}

    def from_leader(self, work: Callable[[], T]) -> T:
        """What the leader's work returns, for all."""
        if self.size == 1:
            return work()
        box: list[Any] = [work() if self.leads else None]
        distributed.broadcast_object_list(box, 0)
        result: T = box[0]
        return result


ALONE = Team(0, 1, torch.device("cpu"))


@contextmanager
def open_team(device: str = "auto") -> Iterator[Team]:
    """The team that torchrun's environment describes; `device`: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``.

    Several processes on one machine take one GPU each (nccl), or the CPU (gloo).
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if chosen == "cuda" and size > 1:
        chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        target = torch.device(chosen)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise KDTalkerError(f"PyTorch cannot compute on '{chosen}': {str(error).splitlines()[0]}") from error
    if size == 1:
        yield Team(0, 1, target)
        return
    if target.type == "cuda":
        torch.cuda.set_device(target)
    distributed.init_process_group("nccl" if target.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(rank, size, target)
    finally:
        distributed.destroy_process_group()
