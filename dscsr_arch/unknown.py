"""Weights of networks that are not ours: built as the user's section says, or as spandrel takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dscsr_arch import conv_lora
from dscsr_arch.architecture import StateDict, architectures
from dscsr_arch.arguments import Given, Said, weights_errors
from dscsr_arch.errors import DscsrWarning, LoRAError, UnavailableError, WeightsError
from dscsr_arch.foreign import find_backbone, from_spandrel
from dscsr_arch.low_rank import ENTRIES, lora_ranks
from dscsr_arch.metadata import Metadata, as_json, described, differences, shown
from dscsr_arch.quantized_conv import inject_as
from dscsr_arch.weight_files import FilePath, state_dict_diff


def unknown_network(
    state_dict: StateDict, given: Given, said: Said | None, path: FilePath
) -> tuple[nn.Module, list[DscsrWarning]]:
    """The network of weights that no `Architecture` recognises.

    What the user says goes first: it is the network of the training itself, with all its arguments. spandrel knows
    shapes and its own defaults only.

    It says itself what it is (see `describe`). Beside it, what is to be warned of.
    """
    if given.section is not None:
        return _of_section(given.section, state_dict, given.overrides, path), []
    section = "the network section of its training (-opt FILE, `teacher: network:`, or load_model's `network`)"
    remedy = f"Give {section}."
    layers = ", ".join(name[:60] for name in list(state_dict)[:4]) or "none"
    of = "" if said is None else f", of a network {said.metadata.network[:60]!r} as the file says"
    adapters = {name: tensor for name, tensor in state_dict.items() if name.rpartition(".")[2] in ENTRIES}
    try:
        network, name, arguments = from_spandrel({n: each for n, each in state_dict.items() if n not in adapters})
        if adapters:
            network = conv_lora.load_lora_state_dict(network, adapters)
    except (UnavailableError, WeightsError, LoRAError) as error:
        words = f"weights of a known network ({', '.join(architectures())}; or of one that spandrel knows)"
        asked = "spandrel was not asked, as " if isinstance(error, UnavailableError) else ""
        raise WeightsError(words, f"layers such as {layers}{of}; {asked}{error}", remedy, path) from error
    if given.overrides:
        words = f"no arguments for {name}, which spandrel builds from its shapes"
        raise WeightsError(words, ", ".join(given.overrides), remedy, path)
    metadata = Metadata(name, as_json(arguments))
    if said is not None and (unlike := differences(said.metadata, metadata)):
        its, other = (", ".join(f"{name} {shown(pair[i])}" for name, pair in unlike.items()) for i in (0, 1))
        raise WeightsError(f"a network that was trained as spandrel builds {name} ({other})", its, remedy, path)
    network.described_as = metadata  # type: ignore[assignment]
    if said is not None:
        return network, []
    note = f"{path} is taken for {name}, as spandrel does, with defaults where shapes tell nothing"
    return network, [DscsrWarning(f"{note}. If that is wrong, give {section}.")]


def _of_section(
    section: Mapping[str, Any], state_dict: StateDict, overrides: Mapping[str, Any], path: FilePath
) -> nn.Module:
    """The network of a section; of a CSSRNet its backbone or the student that fits."""
    faults = []
    with weights_errors(path, "arguments that the network can be built from", "Correct them."):
        for metadata in described(section):
            arguments = {**metadata.arguments, **overrides}
            network = find_backbone(metadata.network)(**arguments)
            if ranks := lora_ranks(state_dict):
                conv_lora.inject(network, ranks)
            network = inject_as(network, state_dict)
            fault = state_dict_diff(network, state_dict)
            if fault is None:
                network.load_state_dict(state_dict)
                network.described_as = metadata._replace(arguments=arguments)  # type: ignore[assignment]
                return network
            faults.append(f"layers that differ from {metadata.network}'s:\n{fault}\n")
    raise WeightsError("weights of `network_g` of the option file", faults[0], "Name the one of their training.", path)
