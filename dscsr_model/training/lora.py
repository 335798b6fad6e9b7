"""LoRA in a training: injected as an option file says, started from adapters, saved in files of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from dscsr_arch import conv_lora, lora_base
from dscsr_arch.deployable import fused
from dscsr_arch.errors import LoRAError
from dscsr_arch.low_rank import is_adapters
from dscsr_arch.metadata import beside
from dscsr_arch.weight_files import METADATA, read_weight_file

Network = TypeVar("Network", bound=nn.Module)

LORA_FILES = ("lora", "fused")
"""Files ``<kind>_g_<iteration>.pth`` beside ``net_g_<iteration>.pth`` of a network with LoRA."""


def inject_lora(network: Network, section: Mapping[str, Any] | None) -> Network:
    """Inject LoRA into ``network``, in place, as a section ``network_g: lora:`` says; fuse it first, if it can be.

    Args:
        network: As its constructor leaves it: its base is loaded later.
        section: ``layers``, patterns of layer names to [rank, alpha], or to nothing for layers to leave out, as
            `conv_lora.inject` takes them; ``rank: auto`` lowers ranks to what a layer allows; ``dora``; ``dropout``;
            ``weights``, a file of adapters, whose ranks count where there are no ``layers``. None leaves the network.

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
            how = {"clip_ranks": section.get("rank") == "auto", "dora": section.get("dora") or False}
            network = conv_lora.inject(network, layers, dropout=dropout, **how)
        elif not section.get("weights"):
            raise LoRAError("`lora: layers` or `lora: weights`", "neither", "Say which layers to adapt.")
    elif section.get("layers"):
        raise LoRAError(
            "a network without LoRA for `lora: layers`",
            f"{type(network).__name__}, which has its own",
            "Take its arguments, such as `lora_ranks`, or the plain network.",
        )
    return start_from(network, section)


def start_from(
    network: Network, section: Mapping[str, Any] | None, tell: Callable[[str], None] | None = None
) -> Network:
    """Load the adapters of ``lora: weights``, if the section has them, onto the base that ``network`` holds.

    ``tell`` is told if they were trained on another base, as their file says.

    Raises:
        LoRAError: The file holds more than adapters, or those of another network.
        WeightsError: It cannot be read.
    """
    name = (section or {}).get("weights")
    if not name:
        return network
    file = read_weight_file(Path(name).expanduser())
    if not is_adapters(file.weights):
        raise LoRAError(f"LoRA adapters alone in {name}", "a whole network", "Name it as `path: pretrain_network_g`.")
    network = conv_lora.load_lora_state_dict(network, file.weights)
    trained_on = lora_base.from_metadata(file.metadata)
    if tell and trained_on is not None and lora_base.difference(trained_on, network) > lora_base.TOLERANCE:
        tell(
            f"The adapters of {name} were trained on other weights than those of `path: pretrain_network_g`: another "
            "file, or another `param_key_g`."
        )
    return network


def lora_files(network: nn.Module, section: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Contents, on the CPU, of the files beside a network with LoRA: adapters, and the plain fused network.

    They come by the names in `LORA_FILES`. Both say what the shapes of the fused network, the base of the adapters,
    cannot tell (see `metadata.beside`, also for ``section``), adapters also on which weights they were trained (see
    `lora_base`). Without LoRA there is nothing.
    """
    if not conv_lora.lora_layers(network):
        return {}
    base = fused(copy.deepcopy(network))
    states = (conv_lora.lora_state_dict(network), base.state_dict())
    contents = {
        kind: {"params": {name: tensor.cpu() for name, tensor in state.items()}, **beside(base, section)}
        for kind, state in zip(LORA_FILES, states, strict=True)
    }
    if METADATA in contents["lora"]:
        contents["lora"][METADATA] |= lora_base.to_metadata(network)
    return contents


def freeze_statistics(network: nn.Module) -> None:
    """In a network with LoRA, let layers that gather batch statistics use those of the base: they are frozen too."""
    if conv_lora.lora_layers(network):
        for module in network.modules():
            if getattr(module, "track_running_stats", False):
                module.eval()
