"""The maths of LoRA and DoRA: a low-rank update of a weight, and sums of such updates, without any layer.

LoRA: arXiv 2106.09685, https://github.com/microsoft/LoRA. Of a linear layer, ``lora_A`` is (r, in), ``lora_B``
(out, r), and the update ``(alpha/r) · lora_B @ lora_A``; of a convolution with a k×k kernel they are (r·k, in·k) and
(out·k, r·k), and the update ``(alpha/r) · (lora_B @ lora_A).view(out, in, k, k)``.

Ours takes any ``nn.Conv2d``: the weight (out, in/groups, kh, kw) is read as a matrix (out·kh, in/groups·kw), k is the
greatest common divisor of kh and kw, ``lora_A`` is (r·k, in/groups·kw) and ``lora_B`` (out·kh, r·k). For square kernels
without groups this is the form above, and a linear layer is a convolution with a kernel of 1×1.

DoRA: arXiv 2402.09353. The weight with its update, ``V``, tells the direction of each output's weights only; how long
they are is learned beside it: ``lora_magnitude · V / ‖V‖``, one number and one norm for each output, as in the authors'
code. At first it is the norm of the base.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    lora_magnitude: Tensor | None = None
    """(out,), of DoRA."""


ENTRIES = Adapter._fields


def rank_unit(shape: Sequence[int]) -> int:
    """The k of the factors' shapes: inner size for each rank, of a weight (out, in/groups, kh, kw) or (out, in)."""
    return math.gcd(*shape[2:]) or 1


def rank_limit(shape: Sequence[int]) -> int:
    """The rank at which such a weight can take any update; more would add nothing."""
    return min(_matrix(shape)) // rank_unit(shape)


def factor_shapes(shape: Sequence[int], rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of ``lora_A`` and ``lora_B`` for such a weight."""
    rows, columns = _matrix(shape)
    inner = rank * rank_unit(shape)
    return (inner, columns), (rows, inner)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    out, inp, height, width = (*shape, 1, 1)[:4]
    return out * height, inp * width


def norms(weight: Tensor) -> Tensor:
    """How long the weights (out, …) of each output are, (out,), in float32 at least."""
    return torch.linalg.vector_norm(weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1), dim=1)


def rescaled(weight: Tensor, magnitude: Tensor) -> Tensor:
    """``weight`` (out, …), the weights of each output as long as ``magnitude`` (out,) says; zeros stay zeros."""
    ratio = magnitude / norms(weight).clamp_min(torch.finfo(torch.float32).tiny)
    return weight * ratio.view(-1, *[1] * (weight.ndim - 1))


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
        if missing := set(ENTRIES) - entries.keys() - set(Adapter._field_defaults):
            words = ", ".join(entry for entry in ENTRIES if entry in entries or entry in missing)
            raise LoRAError(f"{words} of layer {layer!r}", f"{', '.join(sorted(entries))} alone")
        a, b, alpha, magnitude = found[layer] = Adapter(**entries)
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0]:
            got = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise LoRAError(f"lora_A (r, n) and lora_B (m, r) of layer {layer!r}", got)
        if alpha.numel() != 1 or not (alpha.is_meta or 0 < float(alpha) < math.inf):
            raise LoRAError(f"lora_alpha of layer {layer!r} to be a positive number", alpha)
        if magnitude is not None and magnitude.ndim != 1:
            raise LoRAError(f"lora_magnitude (out,) of layer {layer!r}", f"one of shape {tuple(magnitude.shape)}")
    return found


def named_entries(layers: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """The state dict of adapters: what `adapters` sorts by layer."""
    return {
        f"{layer}.{entry}" if layer else entry: tensor
        for layer, adapter in layers.items()
        for entry, tensor in adapter._asdict().items()
        if tensor is not None
    }


def is_adapters(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds adapters alone, without the network that they belong to."""
    return all(name.rpartition(".")[2] in ENTRIES for name in state)


def lora_ranks(state: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """Every layer with LoRA in the state dict of a whole network, as `conv_lora.inject` takes it; {} if there are none.

    That is (rank, alpha), of DoRA (rank, alpha, True).
    """
    entries = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in ENTRIES}
    ranks: dict[str, tuple[Any, ...]] = {}
    for layer, adapter in adapters(entries).items() if entries else ():
        weight = state.get(f"{layer}.weight")
        if weight is None or weight.ndim not in (2, 4):
            got = "none" if weight is None else f"one of shape {tuple(weight.shape)}"
            raise LoRAError(f"the weight (out, in, kh, kw) or (out, in) of {layer!r} beside its LoRA", got)
        rank = adapter.lora_A.shape[0] // rank_unit(weight.shape)
        ranks[layer] = (rank, float(adapter.lora_alpha), *([] if adapter.lora_magnitude is None else [True]))
    return ranks


def scale_lora(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Adapters whose weight updates are ``factor``, any finite number, times those of ``state``, which stays as it is.

    `LoRAError` if ``state`` holds no adapters, or those of DoRA (see `average_lora`), or ``factor`` is no such number.
    """
    if not is_number(factor):
        raise LoRAError("`factor` to be a finite number", repr(factor))
    scaled = {layer: each._replace(lora_B=each.lora_B * factor) for layer, each in _linear(state).items()}
    return named_entries(scaled)


def average_lora(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Adapters whose weight updates are the weighted sum of those of ``states``: exact, not a mean of factors.

    The ranks add up, at most to what a layer allows. Summed in float64.

    Args:
        states: State dicts of adapters (see `adapters`) for the same layers; ranks and alphas may differ.
        weights: One finite number per state, taken as they are; None means 1/n each, the plain mean.

    Raises:
        LoRAError: There are no states, they are of different layers, or ``weights`` do not match. Or there is DoRA in
            them: its update depends on the base, and a sum of such updates is none of DoRA's.
    """
    if not states:
        raise LoRAError("at least one state dict of adapters to average", "none")
    shares = [1 / len(states)] * len(states) if weights is None else list(weights)
    if len(shares) != len(states) or not all(map(is_number, shares)):
        raise LoRAError(f"{len(states)} finite numbers as `weights`", repr(weights))
    all_layers = [_linear(state) for state in states]
    for index, layers in enumerate(all_layers):
        if different := sorted(layers.keys() ^ all_layers[0].keys()):
            got = f"number {index}, which differs from number 0 in {', '.join(different[:6])}"
            raise LoRAError(
                "adapters of the same layers", got, "Average adapters of one network with one `lora` setting."
            )
    return named_entries(
        {layer: _weighted_sum([each[layer] for each in all_layers], shares, layer) for layer in all_layers[0]}
    )


def _linear(state: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """`adapters` whose updates are known without the base."""
    found = adapters(state)
    if dora := [layer for layer, each in found.items() if each.lora_magnitude is not None]:
        remedy = "Average the networks instead: `dscsr average` with --base."
        raise LoRAError("adapters whose updates can be added up", f"those of DoRA ({', '.join(dora[:6])})", remedy)
    return found


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
    a, b = at_most_full(a, b)
    return Adapter(a.to(first.lora_A), b.to(first.lora_B), (unit * a.shape[0]).to(first.lora_alpha))


def at_most_full(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product ``b @ a``, one of them the identity where they are of more than its full rank."""
    rows, columns = b.shape[0], a.shape[1]
    if a.shape[0] <= min(rows, columns):
        return a, b
    eye = torch.eye(min(rows, columns), dtype=a.dtype, device=a.device)
    return (b @ a, eye) if rows <= columns else (eye, b @ a)


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
