"""LoRA in networks: put it into the layers of any network, merge it, fuse it, save and combine the adapters.

The layers themselves, for convolutions (ConvLoRA) and linear layers, are in `lora_layer`, the formulas in `low_rank`.
LoRA: arXiv 2106.09685, DoRA: arXiv 2402.09353.

A network with LoRA trains the factors of the updates only, and DoRA's magnitudes. Its state dict has the names of the
base network's, and beside them ``<layer>.lora_A``, ``.lora_B``, ``.lora_alpha``, of DoRA ``.lora_magnitude`` too; these
alone are the adapters.
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
from dscsr_arch.lora_layer import LoRALayer, check_layer, with_lora
from dscsr_arch.low_rank import ENTRIES, adapters, factor_shapes, is_number, named_entries, rank_limit, rank_unit
from dscsr_arch.low_rank import average_lora as average_lora
from dscsr_arch.low_rank import scale_lora as scale_lora

Setting = Sequence[float]
"""(rank, alpha) of a layer, or (rank, alpha, dora)."""

Layer = nn.Conv2d | nn.Linear
"""What can carry LoRA."""

Network = TypeVar("Network", bound=nn.Module)

_READERS = (Conv3XC, nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that compute with the weights of layers in them without calling these; a fused Conv3XC does not."""


class _Planned(NamedTuple):
    """What a layer is to carry; from the user, rank and alpha may still be anything."""

    name: str
    rank: Any
    alpha: Any
    dora: bool


def inject(
    network: Network,
    ranks: Mapping[str, Setting | None],
    *,
    dropout: float = 0.0,
    clip_ranks: bool = False,
    dora: bool = False,
) -> Network:
    """Give convolutions and linear layers of ``network`` LoRA, in place, and freeze every other parameter.

    Args:
        network: Any network. Modules that read a layer's ``weight`` instead of calling it would not see the update:
            torch's attention and transformer layers are refused, ours are to be fused first (``SPAN.fuse()``). Running
            statistics (batch normalisation) are not parameters: keep such layers in eval mode if they are to stay as
            they are.
        ranks: Patterns of module names (as of ``fnmatch``: ``*`` meets dots too) to (rank, alpha). A pattern that
            meets a module means every ``nn.Conv2d`` and ``nn.Linear`` in it. Of several patterns the first that meets
            a layer counts; one with None leaves its layers out.
        dropout: In [0, 1), for all of them.
        clip_ranks: Where a weight allows less than the rank (depthwise convolutions), take what it allows, with the
            same alpha/rank.
        dora: Learn magnitudes, too, where a pattern says nothing else: (rank, alpha, True or False).

    Returns:
        The network itself (or the new layer, if it is a single one). A layer that has this LoRA already keeps it.

    Raises:
        LoRAError: A pattern meets no layer or none that an earlier one has not taken, a setting is out of range
            for a layer, or a layer cannot carry LoRA. The network is then untouched.
    """
    return _install(network, _within_limits(_plan(network, ranks, dora), clip_ranks), dropout)


def lora_layers(network: nn.Module) -> dict[str, LoRALayer]:
    """The layers of ``network`` with LoRA, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LoRALayer)}


def merge(network: Network) -> Network:
    """Merge every LoRA of ``network``; undone by ``unmerge``. Layers that are merged stay so."""
    for layer in lora_layers(network).values():
        layer.merge()
    return network


def unmerge(network: Network) -> Network:
    """Undo ``merge``, exactly. Layers that are not merged stay so."""
    for layer in lora_layers(network).values():
        layer.unmerge()
    return network


def fuse(network: Network) -> Network:
    """Replace every layer of ``network`` with LoRA by its plain layer, in place. Cannot be undone."""
    return replace_layers(network, {layer: layer.fuse() for layer in lora_layers(network).values()})


def lora_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, ``<layer>.lora_A``, ``.lora_B``, ``.lora_alpha``, …, as in ``state_dict()``."""
    layers = lora_layers(network)
    if not layers:
        raise LoRAError("a network with LoRA layers", "one without", "inject() puts them in.")
    return named_entries({name: layer.adapter() for name, layer in layers.items()})


def load_lora_state_dict(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Load adapters onto their base, in place; layers that have no LoRA yet get it, by the file's ranks.

    Args:
        network: The base, or a network with the same LoRA layers as ``state``.
        state: As ``lora_state_dict`` gives it; ``scale_lora`` and ``average_lora`` make new ones.

    Returns:
        As ``inject``, and like there, every other parameter is frozen.

    Raises:
        LoRAError: ``state`` is damaged, or does not fit the layers of ``network``, which is then untouched.
    """
    given = adapters(state)
    if missing := sorted(lora_layers(network).keys() - given.keys()):
        got = f"none of {_some(missing)}"
        raise LoRAError("adapters of every LoRA layer of the network", got, "Load them onto the base network.")
    named = {name: layer for layer, names in named_layers(network).items() for name in names}
    planned: dict[Layer, _Planned] = {}
    for name, adapter in given.items():
        if name not in named:
            expected = f"adapters of layers of the network ({_some(list(named))})"
            remedy = "Take the network that they were trained on; a SPAN must be fused first."
            raise LoRAError(expected, f"one of {name!r}", remedy)
        shape = named[name].weight.shape
        rank = adapter.lora_A.shape[0] // rank_unit(shape)
        tensors = {"lora_A": adapter.lora_A, "lora_B": adapter.lora_B, "lora_magnitude": adapter.lora_magnitude}
        shapes = {entry: tuple(tensor.shape) for entry, tensor in tensors.items() if tensor is not None}
        if list(shapes.values()) != [*factor_shapes(shape, rank), (shape[0],)][: len(shapes)]:
            expected = f"adapters that fit a weight {tuple(shape)} of layer {name!r}"
            got = " and ".join(f"{entry} {its}" for entry, its in shapes.items())
            raise LoRAError(expected, got, "Take the network that they were trained on.")
        planned[named[name]] = _Planned(name, rank, float(adapter.lora_alpha), adapter.lora_magnitude is not None)
    network = _install(network, planned, dropout=None)
    for name, adapter in given.items():
        entries = {entry: tensor for entry, tensor in adapter._asdict().items() if tensor is not None}
        network.get_submodule(name).load_state_dict(entries, strict=False)  # weight and bias are the base's
    return network


def _plan(network: nn.Module, ranks: Mapping[str, Setting | None], dora: bool) -> dict[Layer, _Planned]:
    """Which layers ``ranks`` means, and what they are to carry."""
    if not isinstance(ranks, Mapping) or not ranks:
        raise LoRAError("patterns of layer names with their (rank, alpha)", repr(ranks), "Name some.")
    layers = named_layers(network)
    planned: dict[Layer, _Planned | None] = {}  # None: left out
    for pattern, setting in ranks.items():
        if not isinstance(pattern, str):  # YAML reads `0:` as a number
            raise LoRAError("a pattern of layer names", f"the value {pattern!r}", "Quote it.")
        if setting is not None and not _is_setting(setting):
            raise LoRAError(
                f"(rank, alpha) for the pattern {pattern!r}",
                repr(setting),
                "Write two numbers; behind them true or false for DoRA.",
            )
        met = {layer: names[0] for layer, names in layers.items() if any(meets(name, pattern) for name in names)}
        new = {layer: name for layer, name in met.items() if layer not in planned}
        if not met:
            got = f"one that meets none of {_some([names[0] for names in layers.values()])}"
            words = f"the pattern {pattern!r} to meet a convolution or linear layer"
            raise LoRAError(words, got, "Correct it, or leave it out.")
        if not new:
            got = f"one whose layers earlier patterns take ({_some(list(met.values()))})"
            remedy = "The first pattern counts: move it to the front."
            raise LoRAError(f"the pattern {pattern!r} to meet a layer of its own", got, remedy)
        for layer, name in new.items():
            planned[layer] = (
                None if setting is None else _Planned(name, setting[0], setting[1], bool([*setting, dora][2]))
            )
    kept = {layer: plan for layer, plan in planned.items() if plan is not None}
    if not kept:
        raise LoRAError("a pattern with (rank, alpha)", f"{dict(ranks)!r}, which leave every layer out")
    return kept


def _is_setting(given: object) -> bool:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return False
    return len(given) == 2 or (len(given) == 3 and isinstance(given[2], bool))


def _within_limits(planned: dict[Layer, _Planned], clip: bool) -> dict[Layer, _Planned]:
    """``planned`` with ranks that the weights allow: those that are higher are lowered, or are a LoRAError."""
    limits = {layer: rank_limit(layer.weight.shape) for layer in planned if not is_lazy(layer.weight)}
    high = [layer for layer in limits if isinstance(planned[layer].rank, int) and planned[layer].rank > limits[layer]]
    if high and not clip:
        names = [planned[layer].name for layer in high]
        pattern = re.sub(r"\b\d+\b", "*", names[0])
        if {plan.name for plan in planned.values() if meets(plan.name, pattern)} != set(names):
            pattern = names[0]
        allowed = f"{limits[high[0]]} (all that a weight {tuple(high[0].weight.shape)} allows)"
        raise LoRAError(
            f"a LoRA rank of at most {allowed} in {_some(names, 1)}",
            planned[high[0]].rank,
            "Leave out such layers (depthwise convolutions, heads of few channels) by a pattern before the others, "
            f"`'{pattern}': ~`, or lower the rank there by `rank: auto`, in Python clip_ranks=True.",
        )
    for layer in high:
        name, rank, alpha, dora = planned[layer]
        planned[layer] = _Planned(
            name, limits[layer], alpha * limits[layer] / rank if is_number(alpha) else alpha, dora
        )
    return planned


def meets(name: str, pattern: str) -> bool:
    """Whether a pattern means a layer: by its name, or as a part of a module that it means."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def named_layers(network: nn.Module) -> dict[Layer, list[str]]:
    """Every layer that can carry LoRA, with all its names: one that is used in several places has several."""
    found: dict[Layer, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, Layer):
            found.setdefault(module, []).append(name)
    return found


def readers(network: nn.Module) -> dict[nn.Module, nn.Module]:
    """Modules that others compute with without calling them, and these others."""
    reading = [module for module in network.modules() if isinstance(module, _READERS)]
    return {layer: reader for reader in reading if not getattr(reader, "fused", False) for layer in reader.modules()}


def _install(network: Network, planned: Mapping[Layer, _Planned], dropout: float | None) -> Network:
    """Check all layers, then replace them by ones with LoRA, and freeze what is not LoRA.

    Layers that have it already must be as planned; with ``dropout`` None, their dropout and alpha are theirs.
    """
    read = readers(network)
    for layer, (name, rank, alpha, dora) in planned.items():
        if not isinstance(layer, LoRALayer):
            check_layer(layer, rank, alpha, dropout or 0.0, f"layer {name!r}")
        elif (layer.rank, layer.dora) != (rank, dora) or (
            dropout is not None and (layer.alpha, layer.dropout) != (alpha, dropout)
        ):
            wanted, got = f"rank {rank}{', DoRA' * dora}", f"one of rank {layer.rank}{', DoRA' * layer.dora}"
            if dropout is not None:
                wanted += f", alpha {alpha}, dropout {dropout or 0}"
                got += f", alpha {layer.alpha:g}, dropout {layer.dropout:g}"
            remedy = "Fuse it first, or take the base network."
            raise LoRAError(f"layer {name!r} to be without LoRA or of {wanted}", got, remedy)
        if (reader := read.get(layer)) is not None:
            remedy = (
                "Call the network's fuse() first." if isinstance(reader, Conv3XC) else f"Leave it out: `'{name}': ~`."
            )
            got = f"a part of a {type(reader).__name__}, which reads its weights"
            raise LoRAError(f"layer {name!r} to be one that the network calls", got, remedy)
    layers = {
        layer: with_lora(layer, rank, alpha, dropout or 0.0, dora)
        for layer, (_, rank, alpha, dora) in planned.items()
        if not isinstance(layer, LoRALayer)
    }
    network = replace_layers(network, layers)
    carrying = lora_layers(network).values()
    trained = {id(p) for layer in carrying for name, p in layer.named_parameters() if name in ENTRIES}
    for parameter in network.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad = False
    return network


def replace_layers(network: Network, layers: Mapping[Any, nn.Module]) -> Network:
    """Put the values of ``layers`` in the places of its keys, wherever these are used."""
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):  # named_children() would skip a second use
            if child in layers:
                module.add_module(name, layers[child])
    return cast(Network, layers.get(network, network))


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
