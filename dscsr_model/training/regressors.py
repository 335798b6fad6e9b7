"""Learned regressors (FitNets, arXiv 1412.6550): a student's layer, in the channels of the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed, nn

from dscsr_model.training.ranks import together

Pair = tuple[str, str]
"""A layer of the student and the teacher's that it is compared with."""


class Regressors(nn.ModuleDict):
    """A 1×1 convolution for each pair of layers. They train with the student, and are no part of it.

    They lie in training states alone. All ranks begin with those of the first.

    Args:
        channels: Of the student's layer and of the teacher's, for each pair.
    """

    def __init__(self, channels: Mapping[Pair, tuple[int, int]]) -> None:
        super().__init__({_key(pair): nn.Conv2d(*widths, 1) for pair, widths in channels.items()})

    def forward(self, pair: Pair, feature: Tensor) -> Tensor:
        """``feature`` (B, C_s, H, W) of the student as (B, C_t, H, W), computed in the dtype of the weights."""
        dtype = next(self.parameters()).dtype
        regressed: Tensor = self[_key(pair)](feature.to(dtype))
        return regressed.to(feature.dtype)

    def share(self) -> None:
        """Take the weights of the first rank; all of them call this."""
        for parameter in self.parameters() if together() else ():
            distributed.broadcast(parameter.data, 0)

    def share_gradients(self) -> None:
        """Average the gradients over the ranks, as DistributedDataParallel does the network's."""
        for parameter in self.parameters() if together() else ():
            if parameter.grad is not None:  # which pairs are compared is the same on every rank
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()

    def fit(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state is of the same pairs and widths."""
        return {name: each.shape for name, each in state.items()} == {n: p.shape for n, p in self.state_dict().items()}


def of_checkpoint(saved: Mapping[str, Any], regressors: Regressors, weights: int) -> list[dict[str, Any]]:
    """What the optimizers of a training state remember of the network's ``weights`` alone, which come first.

    For `take_over` in a run whose regressors are others. Unchanged if the checkpoint trained other weights as well.
    """
    first, *others = saved["optimizers"]
    group, *further = first["param_groups"]
    if len(group["params"]) - len(saved.get("regressors", {})) != weights:
        return [first, *others]
    numbers = list(range(weights + len(list(regressors.parameters()))))
    state = {number: each for number, each in first["state"].items() if number < weights}
    return [{"state": state, "param_groups": [{**group, "params": numbers}, *further]}, *others]


def _key(pair: Pair) -> str:
    return " as ".join(pair).replace(".", "/")  # a module's name has no dots
