"""ConvLoRA in networks: put it into the convolutions of any network, merge it, fuse it, save and combine the adapters.

The layer itself is in `lora_layer`, the formulas in `low_rank`. LoRA: arXiv 2106.09685.

A network with ConvLoRA trains the factors of the updates only. Its state dict has the names of the base network's, and
beside them ``<layer>.lora_A``, ``.lora_B`` and ``.lora_alpha``; these alone are the adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.errors import LoRAError
from dscsr_arch.lora_layer import ConvLoRA, check_layer
from dscsr_arch.low_rank import adapters, factor_shapes, is_number, named_entries, rank_limit, rank_unit
from dscsr_arch.low_rank import average_lora as average_lora
from dscsr_arch.low_rank import scale_lora as scale_lora

Setting = Sequence[float]
"""(rank, alpha) of a layer."""

Network = TypeVar("Network", bound=nn.Module)


class _Planned(NamedTuple):
    """What a convolution is to carry; from the user, rank and alpha may still be anything."""

    name: str
    rank: Any
    alpha: Any


def inject(
    network: Network, ranks: Mapping[str, Setting | None], *, dropout: float = 0.0, clip_ranks: bool = False
) -> Network:
    """Give convolutions of ``network`` ConvLoRA, in place, and freeze every other parameter.

    Args:
        network: Any network. Layers that read a convolution's ``weight`` instead of calling it would not see the
            update; of ours, fuse those first (``SPAN.fuse()``). Running statistics (batch normalisation) are not
            parameters: keep such layers in eval mode if they are to stay as they are.
        ranks: Patterns of module names (as of ``fnmatch``: ``*`` meets dots too) to (rank, alpha). A pattern that
            meets a module means every ``nn.Conv2d`` in it. Of several patterns the first that meets a layer counts;
            one with None leaves its layers out.
        dropout: In [0, 1), for all of them.
        clip_ranks: Where a weight allows less than the rank (depthwise convolutions), take what it allows, with the
            same alpha/rank.

    Returns:
        The network itself (or the new layer, if it is a single convolution). A layer that has this ConvLoRA already
        keeps it.

    Raises:
        LoRAError: A pattern meets no convolution or none that an earlier one has not taken, a setting is out of range
            for a layer, or a layer cannot carry ConvLoRA. The network is then untouched.
    """
    return _install(network, _within_limits(_plan(network, ranks), clip_ranks), dropout)


def lora_layers(network: nn.Module) -> dict[str, ConvLoRA]:
    """The ConvLoRA layers of ``network`` by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvLoRA)}


def merge(network: Network) -> Network:
    """Merge every ConvLoRA of ``network``; undone by ``unmerge``. Layers that are merged stay so."""
    for layer in lora_layers(network).values():
        layer.merge()
    return network


def unmerge(network: Network) -> Network:
    """Undo ``merge``, exactly. Layers that are not merged stay so."""
    for layer in lora_layers(network).values():
        layer.unmerge()
    return network


def fuse(network: Network) -> Network:
    """Replace every ConvLoRA of ``network`` by its plain convolution, in place. Cannot be undone."""
    return _replace(network, {layer: layer.fuse() for layer in lora_layers(network).values()})


def lora_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The adapters alone: ``<layer>.lora_A``, ``.lora_B``, ``.lora_alpha`` of each layer, as in ``state_dict()``."""
    layers = lora_layers(network)
    if not layers:
        raise LoRAError("a network with ConvLoRA layers", "one without", "inject() puts them in.")
    return named_entries({name: layer.adapter() for name, layer in layers.items()})


def load_lora_state_dict(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Load adapters onto their base, in place; convolutions that are not ConvLoRA yet become it, by the file's ranks.

    Args:
        network: The base, or a network with the same ConvLoRA layers as ``state``.
        state: As ``lora_state_dict`` gives it; ``scale_lora`` and ``average_lora`` make new ones.

    Returns:
        As ``inject``, and like there, every other parameter is frozen.

    Raises:
        LoRAError: ``state`` is damaged, or does not fit the layers of ``network``, which is then untouched.
    """
    given = adapters(state)
    if missing := sorted(lora_layers(network).keys() - given.keys()):
        got = f"none of {_some(missing)}"
        raise LoRAError("adapters of every ConvLoRA layer of the network", got, "Load them onto the base network.")
    named = {name: conv for conv, names in _convolutions(network).items() for name in names}
    planned: dict[nn.Conv2d, _Planned] = {}
    for name, adapter in given.items():
        if name not in named:
            expected = f"adapters of convolutions of the network ({_some(list(named))})"
            remedy = "Take the network that they were trained on; a SPAN must be fused first."
            raise LoRAError(expected, f"one of {name!r}", remedy)
        shape = named[name].weight.shape
        rank = adapter.lora_A.shape[0] // rank_unit(shape)
        shapes = tuple(adapter.lora_A.shape), tuple(adapter.lora_B.shape)
        if shapes != factor_shapes(shape, rank):
            expected = f"adapters that fit a weight {tuple(shape)} of layer {name!r}"
            got = f"lora_A {shapes[0]} and lora_B {shapes[1]}"
            raise LoRAError(expected, got, "Take the network that they were trained on.")
        planned[named[name]] = _Planned(name, rank, float(adapter.lora_alpha))
    network = _install(network, planned, dropout=None)
    for name, adapter in given.items():
        network.get_submodule(name).load_state_dict(adapter._asdict(), strict=False)  # weight and bias are the base's
    return network


def _plan(network: nn.Module, ranks: Mapping[str, Setting | None]) -> dict[nn.Conv2d, _Planned]:
    """Which convolutions ``ranks`` means, and what they are to carry."""
    if not isinstance(ranks, Mapping) or not ranks:
        raise LoRAError("patterns of layer names with their (rank, alpha)", repr(ranks), "Name some.")
    convolutions = _convolutions(network)
    planned: dict[nn.Conv2d, _Planned | None] = {}  # None: left out
    for pattern, setting in ranks.items():
        if not isinstance(pattern, str):  # YAML reads `0:` as a number
            raise LoRAError("a pattern of layer names", f"the value {pattern!r}", "Quote it.")
        if setting is not None and (isinstance(setting, str) or not isinstance(setting, Sequence) or len(setting) != 2):
            raise LoRAError(f"(rank, alpha) for the pattern {pattern!r}", repr(setting), "Write two numbers.")
        met = {conv: names[0] for conv, names in convolutions.items() if any(_meets(name, pattern) for name in names)}
        new = {conv: name for conv, name in met.items() if conv not in planned}
        if not met:
            got = f"one that meets none of {_some([names[0] for names in convolutions.values()])}"
            raise LoRAError(f"the pattern {pattern!r} to meet a convolution", got, "Correct it, or leave it out.")
        if not new:
            got = f"one whose layers earlier patterns take ({_some(list(met.values()))})"
            remedy = "The first pattern counts: move it to the front."
            raise LoRAError(f"the pattern {pattern!r} to meet a convolution of its own", got, remedy)
        planned |= {conv: None if setting is None else _Planned(name, *setting) for conv, name in new.items()}
    kept = {conv: plan for conv, plan in planned.items() if plan is not None}
    if not kept:
        raise LoRAError("a pattern with (rank, alpha)", f"{dict(ranks)!r}, which leave every layer out")
    return kept


def _within_limits(planned: dict[nn.Conv2d, _Planned], clip: bool) -> dict[nn.Conv2d, _Planned]:
    """``planned`` with ranks that the weights allow: those that are higher are lowered, or are a LoRAError."""
    limits = {conv: rank_limit(conv.weight.shape) for conv in planned if not is_lazy(conv.weight)}
    high = [conv for conv in limits if isinstance(planned[conv].rank, int) and planned[conv].rank > limits[conv]]
    if high and not clip:
        names = [planned[conv].name for conv in high]
        pattern = re.sub(r"\b\d+\b", "*", names[0])
        if {plan.name for plan in planned.values() if _meets(plan.name, pattern)} != set(names):
            pattern = names[0]
        allowed = f"{limits[high[0]]} (all that a weight {tuple(high[0].weight.shape)} allows)"
        raise LoRAError(
            f"a LoRA rank of at most {allowed} in {_some(names, 1)}",
            planned[high[0]].rank,
            "Leave out such layers (depthwise convolutions, heads of few channels) by a pattern before the others, "
            f"`'{pattern}': ~`, or lower the rank there by `rank: auto`, in Python clip_ranks=True.",
        )
    for conv in high:
        name, rank, alpha = planned[conv]
        planned[conv] = _Planned(name, limits[conv], alpha * limits[conv] / rank if is_number(alpha) else alpha)
    return planned


def _meets(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _convolutions(network: nn.Module) -> dict[nn.Conv2d, list[str]]:
    """Every convolution with all its names: a layer that is used in several places has several."""
    found: dict[nn.Conv2d, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d):
            found.setdefault(module, []).append(name)
    return found


def _install(network: Network, planned: Mapping[nn.Conv2d, _Planned], dropout: float | None) -> Network:
    """Check all layers, then replace them by ConvLoRA, and freeze what is not LoRA.

    Layers that are ConvLoRA already must be as planned; with ``dropout`` None, their dropout and alpha are theirs.
    """
    branches = {
        conv
        for block in network.modules()
        if isinstance(block, Conv3XC) and not block.fused
        for conv in block.modules()
    }
    for conv, (name, rank, alpha) in planned.items():
        if not isinstance(conv, ConvLoRA):
            check_layer(conv, rank, alpha, dropout or 0.0, f"layer {name!r}")
        elif conv.rank != rank or (dropout is not None and (conv.alpha, conv.dropout) != (alpha, dropout)):
            wanted = f"rank {rank}, alpha {alpha}, dropout {dropout or 0}"
            got = f"one of rank {conv.rank}, alpha {conv.alpha:g}, dropout {conv.dropout:g}"
            remedy = "Fuse it first, or take the base network."
            raise LoRAError(f"layer {name!r} to be without LoRA or of {wanted}", got, remedy)
        if conv in branches:
            raise LoRAError(
                f"layer {name!r} to be a convolution that the network calls",
                "a branch of a Conv3XC, which is merged by its weights",
                "Call the network's fuse() first.",
            )
    layers = {
        conv: ConvLoRA(conv, rank, alpha, dropout or 0.0)
        for conv, (_, rank, alpha) in planned.items()
        if not isinstance(conv, ConvLoRA)
    }
    network = _replace(network, layers)
    trained = {id(p) for layer in lora_layers(network).values() for p in (layer.lora_A, layer.lora_B)}
    for parameter in network.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad = False
    return network


def _replace(network: Network, layers: Mapping[Any, nn.Module]) -> Network:
    """Put the values of ``layers`` in the places of its keys, wherever these are used."""
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):  # named_children() would skip a second use
            if child in layers:
                module.add_module(name, layers[child])
    return cast(Network, layers.get(network, network))


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
