"""Exponential moving average of a network, buffers included."""

from __future__ import annotations

import torch
from torch import nn

from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.errors import WeightsError
from dscsr_arch.weight_files import state_dict_diff


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: ``average ← decay · average + (1 − decay) · network``, in one call.

    Floating-point parameters and buffers are averaged; other buffers (counters) are copied, and all with a decay of 0.
    """
    ours, theirs = _tensors(average), _tensors(network)
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
        update_average(average, network, 0)
    return average.eval().requires_grad_(False)


def warmed_up(decay: float, updates: int) -> float:
    """Decay of the next update: ``min(decay, (1 + t) / (10 + t))`` after ``t`` updates.

    With ``decay`` alone the start of an average, random weights, has a share of ``decay^t`` (0.999: 74 % after 300
    updates). The formula is that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``: the average begins
    close to the network and reaches back about a tenth of the training, until that is as far as ``decay`` reaches
    (0.999: after 9000 updates).
    """
    return min(decay, (1 + updates) / (10 + updates))


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
