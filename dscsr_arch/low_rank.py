"""The maths of ConvLoRA: a low-rank update of a convolution's weight, and sums of such updates, without any layer.

LoRA: arXiv 2106.09685, https://github.com/microsoft/LoRA. Its form for a convolution with a k×k kernel: ``lora_A``
is (r·k, in·k), ``lora_B`` (out·k, r·k), and the update ``(alpha/r) · (lora_B @ lora_A).view(out, in, k, k)``.

Ours takes any ``nn.Conv2d``: the weight (out, in/groups, kh, kw) is read as a matrix (out·kh, in/groups·kw), k is the
greatest common divisor of kh and kw, ``lora_A`` is (r·k, in/groups·kw) and ``lora_B`` (out·kh, r·k). For square kernels
without groups this is the form above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dscsr_arch.errors import LoRAError

ENTRIES = ("lora_A", "lora_B", "lora_alpha")
"""What a layer has in a state dict beside its weight and bias."""


class Adapter(NamedTuple):
    """The three entries of one layer: ``a`` (r·k, in/groups·kw), ``b`` (out·kh, r·k) and the 0-dim ``alpha``."""

    a: Tensor
    b: Tensor
    alpha: Tensor


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


def weight_update(a: Tensor, b: Tensor, scaling: Tensor | float, shape: Sequence[int]) -> Tensor:
    """``scaling · (b @ a)`` as a weight of ``shape`` (out, in/groups, kh, kw). Differentiable."""
    return (b @ a).view(*shape) * scaling


def check_setting(shape: Sequence[int], rank: object, alpha: object, dropout: object, layer: str) -> None:
    """Raise LoRAError unless a weight of ``shape`` can have LoRA of this rank, alpha and dropout.

    Args:
        shape: (out, in/groups, kh, kw) of the weight.
        rank: An integer from 1 to ``rank_limit(shape)``.
        alpha: A positive number.
        dropout: A number in [0, 1).
        layer: What messages call the layer.
    """
    limit = rank_limit(shape)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= limit:
        raise LoRAError(
            f"Expected the LoRA rank of {layer} to be an integer from 1 to {limit} (what its weight "
            f"{tuple(shape)} allows), but got {rank!r}. Give a smaller positive integer, or leave the layer out."
        )
    if not _is_number(alpha) or alpha <= 0:  # type: ignore[operator]
        raise LoRAError(
            f"Expected the LoRA alpha of {layer} to be a positive number, but got {alpha!r}. Twice the rank is usual."
        )
    if not _is_number(dropout) or not 0 <= dropout < 1:  # type: ignore[operator]
        raise LoRAError(
            f"Expected the LoRA dropout of {layer} to be a number in [0, 1), but got {dropout!r}. Take 0 for none."
        )


def adapters(state: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """Sort a state dict of LoRA entries by layer.

    Args:
        state: ``<layer>.lora_A``, ``<layer>.lora_B`` and ``<layer>.lora_alpha`` for each layer, and nothing else.

    Raises:
        LoRAError: An entry is of another kind or missing, or the entries of a layer do not belong together.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, entry = name.rpartition(".")
        if entry not in ENTRIES:
            raise LoRAError(
                f"Expected LoRA entries only ({', '.join(ENTRIES)} of each layer), but got {name}. "
                "Give a file of adapters, as lora_state_dict() makes it."
            )
        layers.setdefault(layer, {})[entry] = tensor
    if not layers:
        raise LoRAError("Expected the LoRA entries of at least one layer, but got none.")
    found = {}
    for layer, entries in layers.items():
        if missing := [name for name in ENTRIES if name not in entries]:
            raise LoRAError(f"Expected {', '.join(ENTRIES)} of layer {layer!r}, but {', '.join(missing)} is missing.")
        adapter = Adapter(*(entries[name] for name in ENTRIES))
        if adapter.a.ndim != 2 or adapter.b.ndim != 2 or adapter.b.shape[1] != adapter.a.shape[0]:
            raise LoRAError(
                f"Expected lora_A (r, n) and lora_B (m, r) of layer {layer!r}, "
                f"but got {tuple(adapter.a.shape)} and {tuple(adapter.b.shape)}."
            )
        if adapter.alpha.numel() != 1 or not (adapter.alpha.is_meta or 0 < float(adapter.alpha) < math.inf):
            raise LoRAError(f"Expected lora_alpha of layer {layer!r} to be a positive number, but got {adapter.alpha}.")
        found[layer] = adapter
    return found


def is_adapters(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds adapters alone, without the network that they belong to."""
    return all(name.rpartition(".")[2] in ENTRIES for name in state)


def lora_ranks(state: Mapping[str, Tensor]) -> dict[str, tuple[int, float]]:
    """Rank and alpha of every layer with LoRA in the state dict of a whole network; empty if there are none.

    Raises:
        LoRAError: The entries of a layer do not belong together, or its weight is not that of a convolution.
    """
    entries = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in ENTRIES}
    ranks = {}
    for layer, adapter in adapters(entries).items() if entries else ():
        weight = state.get(f"{layer}.weight")
        if weight is None or weight.ndim != 4:
            got = "none" if weight is None else f"one of shape {tuple(weight.shape)}"
            raise LoRAError(f"Expected the weight (out, in, kh, kw) of {layer!r} beside its LoRA, but got {got}.")
        ranks[layer] = (adapter.a.shape[0] // rank_unit(weight.shape), float(adapter.alpha))
    return ranks


def scale_lora(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Adapters whose weight updates are ``factor`` times those of ``state``, which stays as it is.

    Args:
        state: As `adapters` takes it.
        factor: Any finite number; 0 leaves the base alone, a negative one turns the update around.

    Raises:
        LoRAError: ``state`` holds no adapters, or ``factor`` is not a finite number.
    """
    if not _is_number(factor):
        raise LoRAError(f"Expected `factor` to be a finite number, but got {factor!r}.")
    return named_entries({name: each._replace(b=each.b * factor) for name, each in adapters(state).items()})


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
        raise LoRAError("Expected at least one state dict of adapters to average, but got none.")
    shares = [1 / len(states)] * len(states) if weights is None else list(weights)
    if len(shares) != len(states) or not all(map(_is_number, shares)):
        raise LoRAError(f"Expected {len(states)} finite numbers as `weights`, but got {weights!r}.")
    all_layers = [adapters(state) for state in states]
    for index, layers in enumerate(all_layers):
        if different := sorted(layers.keys() ^ all_layers[0].keys()):
            raise LoRAError(
                f"Expected adapters of the same layers, but number {index} differs from number 0 in "
                f"{', '.join(different[:6])}. Average adapters of one network with one `lora` setting."
            )
    return named_entries(
        {name: _weighted_sum([each[name] for each in all_layers], shares, name) for name in all_layers[0]}
    )


def _weighted_sum(parts: Sequence[Adapter], shares: Sequence[float], layer: str) -> Adapter:
    """One adapter with the summed update. The k that makes a rank of an inner size cancels out, so is not needed."""
    first = parts[0]
    rows, columns = first.b.shape[0], first.a.shape[1]
    if any((part.b.shape[0], part.a.shape[1]) != (rows, columns) for part in parts):
        sizes = ", ".join(f"{part.b.shape[0]}×{part.a.shape[1]}" for part in parts)
        raise LoRAError(f"Expected adapters for one shape of layer {layer!r}, but got updates of {sizes}.")
    unit = first.alpha.double() / first.a.shape[0]  # this times k is alpha/r: the sum keeps the scaling of the first
    factors = [share * part.alpha.double() / part.a.shape[0] / unit for share, part in zip(shares, parts, strict=True)]
    a = torch.cat([part.a.double() for part in parts])
    b = torch.cat([part.b.double() * factor for part, factor in zip(parts, factors, strict=True)], dim=1)
    if a.shape[0] > min(rows, columns):  # more than the full rank: one factor can be the identity
        eye = torch.eye(min(rows, columns), dtype=a.dtype, device=a.device)
        a, b = (b @ a, eye) if rows <= columns else (eye, b @ a)
    return Adapter(a.to(first.a), b.to(first.b), (unit * a.shape[0]).to(first.alpha))


def named_entries(layers: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """The state dict of adapters: what `adapters` sorts by layer."""
    return {
        f"{layer}.{entry}" if layer else entry: tensor
        for layer, adapter in layers.items()
        for entry, tensor in zip(ENTRIES, adapter, strict=True)
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
