"""Exponential moving average of a network, buffers included."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: ``average ← decay · average + (1 − decay) · network``, in one call.

    Floating-point parameters and buffers are averaged; other buffers (counters) are copied.

    Args:
        average: A network of the same build, changed in place.
        network: The network in training, without a DistributedDataParallel around it.
        decay: In [0, 1]; 0 copies.
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


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
