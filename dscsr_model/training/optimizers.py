"""Optimizers and learning-rate schedules by name: any of torch's, beside those that BasicSR builds itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

# A step of these needs more than dense gradients: a closure, or sparse ones.
_NO_OPTIMIZERS = frozenset({"LBFGS", "SparseAdam"})
# These wait for a metric, or take functions or other schedules, which an option file cannot give.
_NO_SCHEDULERS = frozenset({"ReduceLROnPlateau", "LambdaLR", "MultiplicativeLR", "ChainedScheduler", "SequentialLR"})


def optimizer_names() -> list[str]:
    """Optimizers of this version of torch that a training loop can use."""
    return _names(torch.optim, Optimizer, _NO_OPTIMIZERS)


def scheduler_names() -> list[str]:
    """Schedules of this version of torch that step once an iteration and take plain arguments."""
    return _names(lr_scheduler, LRScheduler, _NO_SCHEDULERS)


def build_optimizer(name: str, parameters: Iterable[torch.nn.Parameter], **arguments: Any) -> Optimizer:
    """One of `optimizer_names`; in its fused form where all parameters are on a GPU and the arguments leave it open."""
    parameters = list(parameters)
    cls: type[Optimizer] = getattr(torch.optim, name)
    asked = {"fused", "foreach", "capturable", "differentiable"} & set(arguments)
    if not asked and "fused" in inspect.signature(cls).parameters and all(p.is_cuda for p in parameters):
        arguments["fused"] = True
    return cls(parameters, **arguments)


def take_over(optimizer: Optimizer, saved: Mapping[str, Any]) -> bool:
    """Let a new optimizer remember what a saved one did (moments, momentum); its options stay its own.

    Returns False if it remembers other things, as after a change of its type: then nothing is taken over.
    """
    groups = optimizer.state_dict()["param_groups"]
    counts = [[len(group["params"]) for group in some] for some in (groups, saved["param_groups"])]
    trial = copy.deepcopy(optimizer)
    for parameter in (parameter for group in trial.param_groups for parameter in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    trial.step()
    remembered = trial.state_dict()["state"]
    if counts[0] != counts[1] or any(state.keys() != remembered[key].keys() for key, state in saved["state"].items()):
        return False
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    return True


class WarmedSchedule:
    """A schedule of torch behind BasicSR's linear warm-up.

    BasicSR writes the warm-up's rate into the optimizer, where a schedule that computes each rate from the last would
    take it for its own. So the schedule's rates are kept here and put back before it steps.
    """

    def __init__(self, name: str, optimizer: Optimizer, **arguments: Any) -> None:
        self.schedule: LRScheduler = getattr(lr_scheduler, name)(optimizer, **arguments)
        self._optimizer = optimizer
        self._scheduled: list[float] = []

    def step(self, iteration: int, warmup_iter: int) -> None:
        """Set the rates of an iteration, the first of which is 1; the warm-up ends with ``warmup_iter``."""
        groups = self._optimizer.param_groups
        for group, rate in zip(groups, self._scheduled, strict=False):
            group["lr"] = rate
        self._scheduled = []
        if iteration > 1:
            self.schedule.step()
        if iteration < warmup_iter:
            self._scheduled = [group["lr"] for group in groups]
            for group in groups:
                group["lr"] = group["initial_lr"] / warmup_iter * iteration


def _names(module: Any, base: type, excluded: frozenset[str]) -> list[str]:
    found = (name for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, base))
    return sorted(name for name in found if not name.startswith("_") and name not in {base.__name__, *excluded})
