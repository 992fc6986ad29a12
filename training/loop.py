"""The training loop of both profiles: optimiser, moving average, checks, early stopping, resume.

Everything random in a step is a function of (seed, step, part), never of what was drawn before. So a
resumed run equals one that was never interrupted, and a step's parts may be learned by one process in
turn or by several at once (`training.team`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from engines.types import KDTalkerError
from training.team import ALONE, Team

FREE = {"steps", "patience"}  # what a resumed run may change without becoming another one


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast a network learns.

    `parts`: batches of one step, whose gradients are averaged; they are shared out to the processes.
    `patience`: checks without a better score after which training ends, 0 for never. `hold`: keep the
    learning rate after the warm-up instead of letting it fall to zero at the last step.
    """

    steps: int = 5000
    rate: float = 2e-3
    warm_up: int = 100
    decay: float = 0.02
    ema: float = 0.999
    check_every: int = 500
    patience: int = 0
    parts: int = 1
    seed: int = 0


class Task(Protocol):
    """What is learned."""

    def loss(self, model: nn.Module, step: int, part: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch, a pure function of the parameters, the step and the part; figures for the curves."""
        ...

    def check(self, smooth: nn.Module) -> dict[str, float]:
        """Validation of the averaged weights; ``score`` decides which are kept, more is better."""
        ...


@dataclass(slots=True)
class Run:
    """Where a training stands; `best` holds the averaged weights that scored best so far, on the CPU."""

    best: dict[str, Tensor]
    best_step: int = 0
    best_score: float = -math.inf
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def exhausted(self, plan: Plan) -> bool:
        """Whether nothing got better for `patience` checks."""
        since = sum(entry["step"] > self.best_step for entry in self.history)
        return 0 < plan.patience <= since


def rate_at(step: int, plan: Plan) -> float:
    """Learning rate: linear warm-up, then half a cosine to zero."""
    if step < plan.warm_up:
        return plan.rate * (step + 1) / plan.warm_up
    return plan.rate * 0.5 * (1 + math.cos(math.pi * (step - plan.warm_up) / max(1, plan.steps - plan.warm_up)))


def products(device: torch.device, half: bool) -> AbstractContextManager[None]:
    """Where matrix products are in bfloat16, if `half`."""
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


class Learner:
    """A model, the moving average behind it and the optimiser."""

    def __init__(self, model: nn.Module, plan: Plan, team: Team) -> None:
        self.model, self.plan, self.team = model.to(team.device), plan, team
        team.start_alike(self.model)
        self.smooth = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._learning = [value for value in self.model.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(self._learning, lr=plan.rate, weight_decay=plan.decay, betas=(0.9, 0.99))

    def step(self, task: Task, step: int) -> dict[str, float]:
        """One optimiser step over all parts; returns the mean figures."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(step - 1, self.plan)
        self.optimiser.zero_grad(set_to_none=True)
        figures: list[dict[str, float]] = []
        for part in self.team.share(self.plan.parts):
            torch.manual_seed(np.random.SeedSequence([self.plan.seed, step, part]).generate_state(1)[0].item())
            loss, parts = task.loss(self.model, step, part)
            (loss / self.plan.parts).backward()
            figures.append(parts | {"loss": loss.item()})
        self.team.add_gradients(self._learning)
        nn.utils.clip_grad_norm_(self._learning, 1.0)
        self.optimiser.step()
        keep = min(self.plan.ema, step / (9 + step))
        for slow, fast in zip(self.smooth.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - keep)
        return self.team.mean(figures)

    def state(self) -> dict[str, Any]:
        return {part: getattr(self, part).state_dict() for part in ("model", "smooth", "optimiser")}

    def restore(self, saved: dict[str, Any]) -> None:
        for part in ("model", "smooth", "optimiser"):
            getattr(self, part).load_state_dict(saved[part])


def _resumed(path: Path, plan: Plan, learner: Learner) -> Run:
    saved = torch.load(path, weights_only=True, map_location="cpu")
    now, then = asdict(plan), saved["plan"]
    other = sorted(name for name in now if now[name] != then.get(name) and name not in FREE)
    if other:
        raise KDTalkerError(
            f"{path} was begun with other settings ({', '.join(other)}); give the same ones, or leave out --resume."
        )
    learner.restore(saved)
    return Run(**saved["run"])


def learn(
    model: nn.Module,
    task: Task,
    plan: Plan,
    *,
    keep: Callable[[Run], None],
    state: Path | None = None,
    resume: bool = False,
    team: Team = ALONE,
) -> Run:
    """Train `model` on `task`; returns the run with the best averaged weights.

    At every check the leading process calls `keep` and writes `state`, from which `resume` goes on. Raises
    KDTalkerError when the state was begun with other settings or the loss is no longer a number.
    """
    if plan.parts % team.size:
        raise KDTalkerError(f"{plan.parts} batches a step cannot be shared by {team.size} processes; give a multiple.")
    learner = Learner(model, plan, team)
    run = Run(weights_of(learner.smooth))
    if resume and state is not None and state.is_file():
        run = _resumed(state, plan, learner)
    recent: list[dict[str, float]] = []
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not team.leads) as bar:
        shown = bar.add_task("training", total=plan.steps, completed=run.step)
        while run.step < plan.steps and not run.exhausted(plan):
            run.step += 1
            recent.append(learner.step(task, run.step))
            bar.update(shown, completed=run.step)
            if not math.isfinite(recent[-1]["loss"]):
                raise KDTalkerError(f"The loss is not finite any more at step {run.step}; try a lower learning rate.")
            if run.step % plan.check_every and run.step != plan.steps:
                continue
            losses = {key: round(float(np.mean([entry[key] for entry in recent])), 4) for key in recent[0]}
            recent.clear()
            figures = team.from_leader(lambda: task.check(learner.smooth))
            run.history.append({"step": run.step, **losses, **figures})
            if figures["score"] > run.best_score:
                run.best, run.best_step, run.best_score = weights_of(learner.smooth), run.step, figures["score"]
            if team.leads:
                bar.console.print(run.history[-1])
                keep(run)
                if state is not None:
                    _write(state, {"plan": asdict(plan), "run": _fields(run), **learner.state()})
    return run


def _fields(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__slots__}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a run that is killed here can still go on from the check before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, partial)
    partial.replace(path)
