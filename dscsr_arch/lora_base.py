"""Which frozen weights adapters were trained on: eight numbers beside the adapters, found again in the right base.

The shapes of a base fit adapters of any training, and so do both sets of a checkpoint, ``params`` and ``params_ema``.
A hash would tell them apart, but not know a base again that was fused on another machine or saved in float16. A count
sketch does: Charikar, Chen and Farach-Colton, *Finding frequent items in data streams*, 2002.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.low_rank import ENTRIES

KEY = "base"
"""Of the metadata of adapters."""

TOLERANCE = 1e-3
"""Relative; rounding to float16 makes 3e-4, the moving average and the weights of one step differ by more."""

_SUMS = 8


def sketch(network: nn.Module) -> list[float]:
    """Eight sums of the frozen weights, those without LoRA: of two networks, they differ as much as the weights.

    The n-th weight, layers by name, is added to one of the sums or taken from it, as the golden ratio's multiple of n
    decides. The norm of the difference of two sketches then estimates that of the weights.
    """
    sums, count = torch.zeros(_SUMS, dtype=torch.float64), 0
    for weight in _frozen(network):
        numbers = torch.arange(count, count + weight.numel()) * 2_654_435_761 % 2**32 >> 28  # 2^32 / golden ratio
        signs = 1.0 - 2.0 * (numbers % 2)
        sums += torch.bincount(numbers // 2, signs * weight, _SUMS)
        count += weight.numel()
    return [float(total) for total in sums]


def difference(trained_on: Sequence[float], network: nn.Module) -> float:
    """How far the frozen weights of ``network`` are from those of a sketch, relative to their norm, about."""
    norm = math.sqrt(sum(float(weight.square().sum()) for weight in _frozen(network)))
    return math.dist(trained_on, sketch(network)) / max(norm, 1e-30)


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """How far the weights of two sketches are from each other, relative to their norm, about."""
    return math.dist(one, other) / max(math.hypot(*one), 1e-30)


def to_metadata(network: nn.Module) -> dict[str, str]:
    """What adapters of ``network``, which has its LoRA, say of their base."""
    return {KEY: json.dumps([float(f"{total:.9g}") for total in sketch(network)])}


def from_metadata(metadata: Mapping[str, Any]) -> list[float] | None:
    """The sketch that adapters came with; None if there is none that can be read: anybody's may have anything."""
    text = metadata.get(KEY)
    try:
        sums = json.loads(text) if isinstance(text, str) and len(text) < 1000 else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(sums, list) or len(sums) != _SUMS:
        return None
    return sums if all(type(total) is float and math.isfinite(total) for total in sums) else None


def _frozen(network: nn.Module) -> list[Tensor]:
    """The weights without LoRA, flat, in float64, in the order of their names."""
    named = sorted(network.state_dict().items())
    frozen = [tensor for name, tensor in named if name.rpartition(".")[2] not in ENTRIES]
    return [tensor.detach().cpu().double().flatten() for tensor in frozen if tensor.is_floating_point()]
