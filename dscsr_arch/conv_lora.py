"""ConvLoRA in networks: put it into the convolutions of any network, merge it, fuse it, save and combine the adapters.

The layer itself is in `lora_layer`, the formulas in `low_rank`. LoRA: arXiv 2106.09685.

A network with ConvLoRA trains the factors of the updates only. Its state dict has the names of the base network's, and
beside them ``<layer>.lora_A``, ``.lora_B`` and ``.lora_alpha``; these alone are the adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.errors import LoRAError
from dscsr_arch.lora_layer import ConvLoRA, check_plain
from dscsr_arch.low_rank import (
    adapters,
    average_lora,
    check_setting,
    factor_shapes,
    named_entries,
    rank_limit,
    rank_unit,
    scale_lora,
)

__all__ = [
    "ConvLoRA",
    "LoRAError",
    "Setting",
    "average_lora",
    "fuse",
    "inject",
    "load_lora_state_dict",
    "lora_layers",
    "lora_state_dict",
    "merge",
    "scale_lora",
    "unmerge",
]

Setting = Sequence[float]
"""(rank, alpha) of a layer."""

Network = TypeVar("Network", bound=nn.Module)


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
    planned = _within_limits(_plan(network, ranks), clip_ranks)
    for conv, (name, rank, alpha) in planned.items():
        _check_layer(network, conv, name, rank, alpha, dropout)
    return _install(network, planned, dropout)


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
    """The adapters alone: ``<layer>.lora_A``, ``.lora_B``, ``.lora_alpha`` of each layer, as in ``state_dict()``.

    Raises:
        LoRAError: ``network`` has no ConvLoRA.
    """
    layers = lora_layers(network)
    if not layers:
        raise LoRAError("Expected a network with ConvLoRA layers, but got one without. inject() puts them in.")
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
        raise LoRAError(
            f"Expected adapters of every ConvLoRA layer of the network, but got none of {_some(missing)}. "
            "Load them onto the base network."
        )
    named = {name: conv for conv, names in _convolutions(network).items() for name in names}
    planned: dict[nn.Conv2d, tuple[str, int, float]] = {}
    for name, adapter in given.items():
        if name not in named:
            raise LoRAError(
                f"Expected adapters of convolutions of the network ({_some(list(named))}), but got one of {name!r}. "
                "Take the network that they were trained on; a SPAN must be fused first."
            )
        shape = named[name].weight.shape
        rank, alpha = adapter.a.shape[0] // rank_unit(shape), float(adapter.alpha)
        shapes = tuple(adapter.a.shape), tuple(adapter.b.shape)
        if shapes != factor_shapes(shape, rank):
            raise LoRAError(
                f"Expected adapters that fit a weight {tuple(shape)} of layer {name!r}, but got lora_A {shapes[0]} and "
                f"lora_B {shapes[1]}. Take the network that they were trained on."
            )
        conv = named[name]
        own = (conv.alpha, conv.dropout) if isinstance(conv, ConvLoRA) else (alpha, 0.0)  # alpha comes with the state
        _check_layer(network, conv, name, rank, *own)
        planned[conv] = (name, rank, alpha)
    network = _install(network, planned, dropout=0.0)
    for name, adapter in given.items():
        cast(ConvLoRA, network.get_submodule(name)).take(adapter)
    return network


def _plan(network: nn.Module, ranks: Mapping[str, Setting | None]) -> dict[nn.Conv2d, tuple[str, Any, Any]]:
    """Which convolutions ``ranks`` means: to their name, rank and alpha (both unchecked)."""
    if not isinstance(ranks, Mapping) or not ranks:
        raise LoRAError(f"Expected patterns of layer names with their (rank, alpha), but got {ranks!r}. Name some.")
    convolutions = _convolutions(network)
    planned: dict[nn.Conv2d, Any] = {}  # None: left out
    for pattern, setting in ranks.items():
        if not isinstance(pattern, str):  # YAML reads `0:` as a number
            raise LoRAError(f"Expected a pattern of layer names, but got the value {pattern!r}. Quote it.")
        if setting is not None and (isinstance(setting, str) or not isinstance(setting, Sequence) or len(setting) != 2):
            raise LoRAError(
                f"Expected (rank, alpha) for the pattern {pattern!r}, but got {setting!r}. Write two numbers."
            )
        met = {conv: names[0] for conv, names in convolutions.items() if any(_meets(name, pattern) for name in names)}
        if not met:
            raise LoRAError(
                f"Expected the pattern {pattern!r} to meet a convolution, but it meets none of "
                f"{_some([names[0] for names in convolutions.values()])}. Correct it, or leave it out."
            )
        plan: tuple[Any, ...] | None = None if setting is None else tuple(setting)
        new = {conv: plan and (name, *plan) for conv, name in met.items() if conv not in planned}
        if not new:
            raise LoRAError(
                f"Expected the pattern {pattern!r} to meet a convolution of its own, but earlier patterns take all "
                f"that it meets ({_some(list(met.values()))}). The first pattern counts: move it to the front."
            )
        planned |= new
    kept = {conv: plan for conv, plan in planned.items() if plan is not None}
    if not kept:
        raise LoRAError(f"Expected a pattern with (rank, alpha), but got {dict(ranks)!r}, which leave every layer out.")
    return kept


def _within_limits(planned: dict[nn.Conv2d, tuple[str, Any, Any]], clip: bool) -> dict[nn.Conv2d, tuple[str, Any, Any]]:
    """``planned`` with ranks that the weights allow; the other values are still unchecked."""
    limits = {conv: rank_limit(conv.weight.shape) for conv in planned if not is_lazy(conv.weight)}
    high = {c: limits[c] for c, (_, rank, _) in planned.items() if isinstance(rank, int) and rank > limits.get(c, rank)}
    if high and not clip:
        names = [planned[conv][0] for conv in high]
        first = next(iter(high))
        pattern = re.sub(r"\b\d+\b", "*", names[0])
        if {name for name, *_ in planned.values() if _meets(name, pattern)} != set(names):
            pattern = names[0]
        raise LoRAError(
            f"Expected a LoRA rank of at most {high[first]} (all that a weight {tuple(first.weight.shape)} allows) in "
            f"{_some(names, 1)}, but got {planned[first][1]}. Leave out such layers (depthwise convolutions, heads of "
            f"few channels) by a pattern before the others, `'{pattern}': ~`, or lower the rank there by `rank: auto`, "
            "in Python clip_ranks=True."
        )

    def clipped(name: str, rank: Any, alpha: Any, limit: int) -> tuple[str, Any, Any]:
        return name, limit, alpha * limit / rank if isinstance(alpha, (int, float)) else alpha

    return planned | {conv: clipped(*planned[conv], limit) for conv, limit in high.items()}


def _meets(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _convolutions(network: nn.Module) -> dict[nn.Conv2d, list[str]]:
    """Every convolution with all its names: a layer that is used in several places has several."""
    found: dict[nn.Conv2d, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d):
            found.setdefault(module, []).append(name)
    return found


def _check_layer(network: nn.Module, conv: nn.Conv2d, name: str, rank: object, alpha: object, dropout: object) -> None:
    """Raise LoRAError unless ``conv`` can become, or is, ConvLoRA with these values."""
    layer = f"layer {name!r}"
    if not isinstance(conv, ConvLoRA):
        check_plain(conv, layer)
    check_setting(conv.weight.shape, rank, alpha, dropout, layer)
    if isinstance(conv, ConvLoRA):
        if (conv.rank, conv.alpha, conv.dropout) != (rank, alpha, dropout):
            raise LoRAError(
                f"Expected {layer} to be without LoRA or of rank {rank}, alpha {alpha:g}, dropout {dropout:g}, but it "
                f"has rank {conv.rank}, alpha {conv.alpha:g}, dropout {conv.dropout:g}. Fuse it first, or take the "
                "base network."
            )
        return
    unfused = (block for block in network.modules() if isinstance(block, Conv3XC) and not block.fused)
    if any(conv in block.modules() for block in unfused):
        raise LoRAError(
            f"Expected {layer} to be a convolution that the network calls, but got a branch of a Conv3XC, which is "
            "merged by its weights. Call the network's fuse() first."
        )


def _install(network: Network, planned: Mapping[nn.Conv2d, tuple[str, int, float]], dropout: float) -> Network:
    """Replace convolutions by ConvLoRA, all checked before, and freeze what is not LoRA."""
    layers: dict[nn.Module, nn.Module] = {
        conv: ConvLoRA.from_conv(conv, rank, alpha, dropout)
        for conv, (_, rank, alpha) in planned.items()
        if not isinstance(conv, ConvLoRA)
    }
    network = _replace(network, layers)
    trained = {id(p) for layer in lora_layers(network).values() for p in (layer.lora_A, layer.lora_B)}
    for parameter in network.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad = False
    return network


def _replace(network: Network, layers: Mapping[nn.Module, nn.Module]) -> Network:
    """Put the values of ``layers`` in the places of its keys, wherever these are used."""
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):  # named_children() would skip a second use
            if child is not None and child in layers:
                module.add_module(name, layers[child])
    return cast(Network, layers.get(network, network))


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
