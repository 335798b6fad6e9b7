"""The maths of ConvLoRA: a low-rank update of a convolution's weight, and sums of such updates, without any layer.

LoRA: arXiv 2106.09685, https://github.com/microsoft/LoRA. Its form for a convolution with a k×k kernel: ``lora_A``
is (r·k, in·k), ``lora_B`` (out·k, r·k), and the update ``(alpha/r) · (lora_B @ lora_A).view(out, in, k, k)``.

Ours takes any ``nn.Conv2d``: the weight (out, in/groups, kh, kw) is read as a matrix (out·kh, in/groups·kw), k is the
greatest common divisor of kh and kw, ``lora_A`` is (r·k, in/groups·kw) and ``lora_B`` (out·kh, r·k). For square kernels
without groups this is the form above.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dscsr_arch.errors import LoRAError


class Adapter(NamedTuple):
    """What a layer has in a state dict beside its weight and bias."""

    lora_A: Tensor  # noqa: N815 - the original's name, as in files
    """(r·k, in/groups·kw)."""
    lora_B: Tensor  # noqa: N815
    """(out·kh, r·k)."""
    lora_alpha: Tensor
    """0-dimensional."""


ENTRIES = Adapter._fields


def rank_unit(shape: Sequence[int]) -> int:
    """The k of the factors' shapes: inner size for each rank, of a weight (out, in/groups, kh, kw)."""
    return math.gcd(shape[2], shape[3])


def rank_limit(shape: Sequence[int]) -> int:
    """The rank at which a weight (out, in/groups, kh, kw) can take any update; more would add nothing."""
    out, inp, height, width = shape
    return min(out * height, inp * width) // rank_unit(shape)


def factor_shapes(shape: Sequence[int], rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of ``lora_A`` and ``lora_B`` for a weight (out, in/groups, kh, kw)."""
    out, inp, height, width = shape
    inner = rank * rank_unit(shape)
    return (inner, inp * width), (out * height, inner)


def adapters(state: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """Sort a state dict of LoRA entries by layer; LoRAError unless it holds all entries of each, and nothing else."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, entry = name.rpartition(".")
        if entry not in ENTRIES:
            remedy = "Give a file of adapters, as lora_state_dict() makes it."
            raise LoRAError(f"LoRA entries only ({', '.join(ENTRIES)} of each layer)", name, remedy)
        layers.setdefault(layer, {})[entry] = tensor
    if not layers:
        raise LoRAError("the LoRA entries of at least one layer", "none")
    found = {}
    for layer, entries in layers.items():
        if entries.keys() != set(ENTRIES):
            raise LoRAError(f"{', '.join(ENTRIES)} of layer {layer!r}", f"{', '.join(sorted(entries))} alone")
        a, b, alpha = found[layer] = Adapter(**entries)
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0]:
            got = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise LoRAError(f"lora_A (r, n) and lora_B (m, r) of layer {layer!r}", got)
        if alpha.numel() != 1 or not (alpha.is_meta or 0 < float(alpha) < math.inf):
            raise LoRAError(f"lora_alpha of layer {layer!r} to be a positive number", alpha)
    return found


def named_entries(layers: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """The state dict of adapters: what `adapters` sorts by layer."""
    return {
        f"{layer}.{entry}" if layer else entry: tensor
        for layer, adapter in layers.items()
        for entry, tensor in adapter._asdict().items()
    }


def is_adapters(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds adapters alone, without the network that they belong to."""
    return all(name.rpartition(".")[2] in ENTRIES for name in state)


def lora_ranks(state: Mapping[str, Tensor]) -> dict[str, tuple[int, float]]:
    """Rank and alpha of every layer with LoRA in the state dict of a whole network; empty if there are none."""
    entries = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in ENTRIES}
    ranks = {}
    for layer, adapter in adapters(entries).items() if entries else ():
        weight = state.get(f"{layer}.weight")
        if weight is None or weight.ndim != 4:
            got = "none" if weight is None else f"one of shape {tuple(weight.shape)}"
            raise LoRAError(f"the weight (out, in, kh, kw) of {layer!r} beside its LoRA", got)
        ranks[layer] = (adapter.lora_A.shape[0] // rank_unit(weight.shape), float(adapter.lora_alpha))
    return ranks


def scale_lora(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Adapters whose weight updates are ``factor``, any finite number, times those of ``state``, which stays as it is.

    `LoRAError` if ``state`` holds no adapters, or ``factor`` is no such number.
    """
    if not is_number(factor):
        raise LoRAError("`factor` to be a finite number", repr(factor))
    scaled = {layer: each._replace(lora_B=each.lora_B * factor) for layer, each in adapters(state).items()}
    return named_entries(scaled)


def average_lora(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Adapters whose weight updates are the weighted sum of those of ``states``: exact, not a mean of factors.

    The ranks add up, at most to what a layer allows. Summed in float64.

    Args:
        states: State dicts of adapters (see `adapters`) for the same layers; ranks and alphas may differ.
        weights: One finite number per state, taken as they are; None means 1/n each, the plain mean.

    Raises:
        LoRAError: There are no states, they are of different layers, or ``weights`` do not match.
    """
    if not states:
        raise LoRAError("at least one state dict of adapters to average", "none")
    shares = [1 / len(states)] * len(states) if weights is None else list(weights)
    if len(shares) != len(states) or not all(map(is_number, shares)):
        raise LoRAError(f"{len(states)} finite numbers as `weights`", repr(weights))
    all_layers = [adapters(state) for state in states]
    for index, layers in enumerate(all_layers):
        if different := sorted(layers.keys() ^ all_layers[0].keys()):
            got = f"number {index}, which differs from number 0 in {', '.join(different[:6])}"
            raise LoRAError(
                "adapters of the same layers", got, "Average adapters of one network with one `lora` setting."
            )
    return named_entries(
        {layer: _weighted_sum([each[layer] for each in all_layers], shares, layer) for layer in all_layers[0]}
    )


def _weighted_sum(summands: Sequence[Adapter], shares: Sequence[float], layer: str) -> Adapter:
    """One adapter with the summed update. The k that makes a rank of an inner size cancels out, so is not needed."""
    first = summands[0]
    sizes = [(each.lora_B.shape[0], each.lora_A.shape[1]) for each in summands]
    if len(set(sizes)) > 1:
        got = "updates of " + ", ".join(f"{rows}×{columns}" for rows, columns in sizes)
        raise LoRAError(f"adapters for one shape of layer {layer!r}", got)
    unit = first.lora_alpha.double() / first.lora_A.shape[0]  # times k, alpha/r: the sum keeps the first one's scaling
    scales = [
        share * each.lora_alpha.double() / each.lora_A.shape[0] / unit
        for share, each in zip(shares, summands, strict=True)
    ]
    a = torch.cat([each.lora_A.double() for each in summands])
    b = torch.cat([each.lora_B.double() * scale for each, scale in zip(summands, scales, strict=True)], dim=1)
    if a.shape[0] > min(sizes[0]):  # more than the full rank: one factor can be the identity
        eye = torch.eye(min(sizes[0]), dtype=a.dtype, device=a.device)
        a, b = (b @ a, eye) if sizes[0][0] <= sizes[0][1] else (eye, b @ a)
    return Adapter(a.to(first.lora_A), b.to(first.lora_B), (unit * a.shape[0]).to(first.lora_alpha))


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
