"""LoRA in a training: put into a network as an option file says, kept apart from everything frozen, saved in parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from dscsr_arch import conv_lora
from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.facts import beside
from dscsr_arch.low_rank import LoRAError, is_adapters
from dscsr_arch.plain import fused

Network = TypeVar("Network", bound=nn.Module)

KINDS = ("lora", "fused")
"""Files ``<kind>_g_<iteration>.pth`` beside ``net_g_<iteration>.pth`` of a network with LoRA."""


def put(network: Network, section: Mapping[str, Any] | None) -> Network:
    """Put ConvLoRA into ``network``, in place, as the section ``network_g: lora:`` says; fuse it first, if it can be.

    Args:
        network: As its constructor leaves it: its base is loaded later.
        section: ``layers``, patterns of layer names to [rank, alpha], or to nothing for layers to leave out, as
            `conv_lora.inject` takes them; ``rank: auto`` lowers ranks to what a layer allows; ``dropout``; ``weights``,
            a file of adapters, whose ranks count where there are no ``layers``. None leaves the network.

    Raises:
        LoRAError: Nothing says which layers, a pattern meets none, or a rank or the adapters do not fit.
        WeightsError: The file of the adapters cannot be read.
    """
    if section is None:
        return network
    if not conv_lora.lora_layers(network):
        network = fused(network)  # type: ignore[assignment]
        layers, dropout = section.get("layers"), section.get("dropout") or 0.0
        if layers:
            network = conv_lora.inject(network, layers, dropout=dropout, clip_ranks=section.get("rank") == "auto")
        elif not section.get("weights"):
            raise LoRAError("Expected `lora: layers` or `lora: weights`, but got neither. Say which layers to adapt.")
    elif section.get("layers"):
        raise LoRAError(
            f"Expected a network without LoRA for `lora: layers`, but got {type(network).__name__}, which has its own. "
            "Take its arguments, such as `lora_ranks`, or the plain network."
        )
    return start_from(network, section)


def start_from(network: Network, section: Mapping[str, Any] | None) -> Network:
    """Load the adapters of ``lora: weights``, if the section has them, onto the base that ``network`` holds.

    Raises:
        LoRAError: The file holds more than adapters, or those of another network.
        WeightsError: It cannot be read.
    """
    file = (section or {}).get("weights")
    if not file:
        return network
    state = read_state_dict(Path(file).expanduser())
    if not is_adapters(state):
        raise LoRAError(
            f"Expected LoRA adapters alone in {file}, but got a whole network. Name it as `path: pretrain_network_g`."
        )
    return conv_lora.load_lora_state_dict(network, state)


def parts(network: nn.Module, section: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Contents of the files beside a network with LoRA, by `KINDS`: adapters, and the plain fused network; on the CPU.

    Both say what the shapes of the fused network, which is the base of the adapters, cannot tell (see `facts.beside`,
    also for ``section``). Without LoRA there is nothing.
    """
    if not conv_lora.lora_layers(network):
        return {}
    base = fused(copy.deepcopy(network))
    states = (conv_lora.lora_state_dict(network), base.state_dict())
    return {
        kind: {"params": {name: tensor.cpu() for name, tensor in state.items()}, **beside(base, section)}
        for kind, state in zip(KINDS, states, strict=True)
    }


def freeze_statistics(network: nn.Module) -> None:
    """In a network with LoRA, let layers that gather batch statistics use those of the base: they are frozen too."""
    if conv_lora.lora_layers(network):
        for module in network.modules():
            if getattr(module, "track_running_stats", False):
                module.eval()
