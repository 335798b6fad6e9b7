"""Averages of a network while it trains, buffers included: exponential and moving, or stochastic weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dscsr_arch import words
from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.errors import WeightsError
from dscsr_arch.weight_files import state_dict_diff
from dscsr_model.options.sections import SWASection, TrainSection

SHARE = 20
"""An average whose decay is not given reaches back one part of so many of the iterations so far."""


class MovingAverage:
    """Follows the network step by step: the next one counts 1 − ``decay``; see `warmed_up` for the first ones.

    Without a ``decay`` all are such: the average reaches back the same share of a training of any length.
    """

    key = "ema_updates"
    """Of its count in a training state."""

    def __init__(self, decay: float | None, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.count = 0
        """Updates so far."""
        told = (
            f"decay: {decay}{', warmed up' * warmup}"
            if decay
            else "a decay that reaches back a twentieth of the training"
        )
        self.says = f"Use Exponential Moving Average with {told}"

    def next_decay(self, iteration: int, scheduled: int) -> float | None:
        """The decay for `update_average` in this iteration."""
        if self.decay is None:
            decay = warmed_up(1, self.count, SHARE)
        else:
            decay = warmed_up(self.decay, self.count) if self.warmup else self.decay
        self.count += 1
        return decay

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a training state; one of before has no count: every iteration was an update."""
        self.count = state.get(self.key, state["iter"])


class StochasticAverage:
    """SWA (Izmailov et al., arXiv 1803.05407): from an iteration on the plain mean of every n-th network.

    Until then the average is the network itself. torch's `AveragedModel` does the same sum in a copy with other names,
    and keeps its count among the weights; here both stay where those of a moving average are.
    """

    key = "swa_networks"

    def __init__(self, begin: int, every: int) -> None:
        self.begin, self.every = begin, every
        self.count = 0
        """Networks in the mean so far."""
        self.says = f"Stochastic weight averaging: {words.every(every, 'iteration')} from {begin:,} on."

    def next_decay(self, iteration: int, scheduled: int) -> float | None:
        """The decay for `update_average` in this iteration; None where the mean stays as it is.

        ``scheduled`` is the iteration that it would be if time did not end the training.
        """
        if scheduled < self.begin:
            return 0.0
        if self.count and iteration % self.every:
            return None
        self.count += 1
        return 1 - 1 / self.count

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a training state; after another kind of average the mean begins anew."""
        self.count = state.get(self.key, 0)


def averaging(train: Mapping[str, Any]) -> MovingAverage | StochasticAverage | None:
    """What the section ``train:`` asks for."""
    settings = TrainSection.parse(train, "train")
    if train.get("swa") is not None:
        swa = SWASection.parse(train["swa"], "train: swa")
        return StochasticAverage(swa.begin(int(train["total_iter"])), swa.every)
    return None if settings.ema_decay == 0 else MovingAverage(settings.ema_decay, settings.ema_warmup)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: ``average ← decay · average + (1 − decay) · network``, in one call.

    Floating-point parameters and buffers are averaged; other buffers (counters) are copied, and all with a decay of 0.
    """
    ours, theirs = tensors(average), tensors(network)
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    if decay == 0:  # exactly, also where one of the two is not finite
        torch._foreach_copy_([ours[name] for name in floats], [theirs[name] for name in floats])
    else:
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name, tensor in ours.items():
        if not tensor.is_floating_point():
            tensor.copy_(theirs[name])


def start_average(average: nn.Module, network: nn.Module, path: str | None) -> nn.Module:
    """Let an average begin as in the file that training starts from, if that has one, else as the network itself."""
    try:
        state = read_state_dict(path, "params_ema") if path else {}
    except WeightsError:
        state = {}  # the network itself was read from this file, under another key
    # Names of another dialect (a fused kernel) would be expanded another way than the network's were.
    if state.keys() == average.state_dict().keys() and state_dict_diff(average, state) is None:
        average.load_state_dict(state)
    else:
        average.load_state_dict(network.state_dict())
    return average.eval().requires_grad_(False)


def warmed_up(decay: float, updates: int, share: int = 10) -> float:
    """Decay of the next update: ``min(decay, (1 + t) / (share + t))`` after ``t`` updates.

    With ``decay`` alone the start of an average, random weights, has a share of ``decay^t`` (0.999: 74 % after 300
    updates). The formula is that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``: the average begins
    close to the network and reaches back about a tenth of the training (1 / ``share``), until that is as far as
    ``decay`` reaches (0.999: after 9000 updates).
    """
    return min(decay, (1 + updates) / (share + updates))


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
