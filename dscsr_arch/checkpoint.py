"""From a weight file to the right network: recognise it, build it, check that it fits, load it.

Files are opened by `weight_files`, which see for what is refused there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dscsr_arch import conv_lora, lora_base
from dscsr_arch.architecture import Architecture, StateDict, recognise
from dscsr_arch.arguments import Given, Said, arguments_of, said_by, weights_errors
from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.cssr_arch import STUDENTS, CSSRNet, width_key
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrWarning, LoRAError, WeightsError
from dscsr_arch.low_rank import is_adapters, lora_ranks
from dscsr_arch.metadata import describe, described, differences, shown
from dscsr_arch.quantized_conv import inject_as
from dscsr_arch.unknown import unknown_network
from dscsr_arch.weight_files import (
    FilePath,
    check_finite,
    read_pickle,
    read_state_dict,
    read_weight_file,
    save_state_dict,
    state_dict_diff,
    weight_sets,
)

__all__ = ["load_model", "read_pickle", "read_state_dict", "save_state_dict"]


def load_model(
    path: FilePath,
    *,
    param_key: str | None = None,
    base: FilePath | None = None,
    width: float | None = None,
    network: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build the right network from a weight file alone.

    Width, scale and channels are read from the shapes of the weights. What shapes cannot tell (``img_range``,
    ``rgb_mean``, ``norm``, ``res_scale``, ``final_relu``) is read from the metadata of files that dscsr's training and
    export wrote; for other files it has the network's default, and an `AssumedWarning` (of `dscsr_arch.arguments`)
    names them. Overrides win over ``network``, that wins over the file; a `DscsrWarning` (of `dscsr_arch.errors`) says
    so where they differ. A fused file gives a fused network.

    Args:
        path: A ``.pth`` or ``.safetensors`` file in any dialect that ``read_state_dict`` knows.
        param_key: Key of the wrapped weights (with ``base``, of its weights); None takes those that the file says are
            the better ones, else the averaged ones (``params_ema``).
        base: If ``path`` holds LoRA adapters alone, the file of the network that they belong to; it gets fused. Of
            its weights (``params``, ``params_ema``), those are taken that the adapters were trained on, as they say.
            LoRA that it has itself is put aside: adapters are updates of the frozen weights.
        width: Of weights of a CSSR-Net, give the student of this width instead of the whole backbone.
        network: The section ``network_g`` of the option file of its training, for what shapes cannot tell.
        **overrides: Constructor arguments that replace what was read from the file.

    Returns:
        The network in eval mode, on the CPU, in float32.

    Raises:
        WeightsError: The file cannot be read, holds no network known here, does not fit ``network`` or the overrides,
            has weights that are no finite numbers, or has no student of ``width``; adapters and ``base`` were trained
            with other metadata, and no override decides, or the adapters on other weights, and no ``param_key`` does.
    """
    given = Given(network, overrides)
    if base is not None and width is not None:
        raise WeightsError("either a base of LoRA adapters or a width", "both", "Leave one out.")
    if base is not None:
        loaded, notes = _load_adapters(path, base, param_key, given)
    else:
        loaded, notes = _load(path, param_key, width, given)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return loaded


def _load(
    path: FilePath, param_key: str | None, width: float | None, given: Given, adapters: Said | None = None
) -> tuple[nn.Module, list[DscsrWarning]]:
    """As `load_model`, of a whole network, with warnings; what ``adapters`` say counts where the file says nothing."""
    if width is not None and not (isinstance(width, int | float) and 0 < width <= 1):
        raise WeightsError("`width` to be a part of the backbone's, in (0, 1]", repr(width), "Choose such as 0.25.")
    file = read_weight_file(path, param_key)
    if is_adapters(file.weights):
        remedy = (
            "Take the whole network (net_g_*.pth, fused_g_*.pth), or name the file that they were trained from: "
            "--base, in Python load_model(…, base=…)."
        )
        raise WeightsError("a whole network", "LoRA adapters alone: their base is missing", remedy, path)
    state_dict, width = _of_width(file.weights, width, path)
    said, architecture = said_by(file, path), recognise(state_dict)
    if architecture is None:
        network, notes = unknown_network(state_dict, given, said, path)
    else:
        arguments, notes = arguments_of(architecture, state_dict, given, said or adapters, path)
        network = _build(architecture, arguments, state_dict, path)
    network = _finite(network, path).eval()
    return (network if width is None else _student(network, given, width, path)), notes


def _build(
    architecture: Architecture, arguments: Mapping[str, Any], state_dict: StateDict, path: FilePath
) -> nn.Module:
    """The network with its weights. Memory is taken only when all shapes are known to fit the file."""
    words = f"arguments that {architecture.name} can be built from"
    with weights_errors(path, words, "Correct them."), torch.device("meta"):
        shapes = _bare_network(architecture, arguments, state_dict)
    if fault := state_dict_diff(shapes, state_dict):
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise WeightsError(f"{path} does not fit {architecture.name}({call}):\n{fault}")
    network = _bare_network(architecture, arguments, state_dict)
    network.load_state_dict(state_dict)
    return network


def _bare_network(architecture: Architecture, arguments: Mapping[str, Any], state_dict: StateDict) -> nn.Module:
    """The network in the form that the file has it: fused or not, with LoRA or not; its weights are random."""
    network = architecture.prepare(architecture.network(**arguments), state_dict)
    if not lora_layers(network) and (ranks := lora_ranks(state_dict)):
        conv_lora.inject(network, ranks)
    return inject_as(network, state_dict)


def _finite(network: nn.Module, path: FilePath) -> nn.Module:
    check_finite(dict((*network.named_parameters(), *network.named_buffers())), path)
    return network


def _of_width(state_dict: StateDict, width: float | None, path: FilePath) -> tuple[StateDict, float | None]:
    """The weights to build from, and the width that is still to be cut out of them.

    A fused CSSR-Net keeps its students beside its backbone, since they are no slices of it.
    """
    students = {name for name in state_dict if name.startswith(STUDENTS)}
    if width is None or width == 1:
        return {name: tensor for name, tensor in state_dict.items() if name not in students}, None
    if not students:
        return state_dict, width
    start = f"{STUDENTS}{width_key(width)}."
    chosen = {name.removeprefix(start): state_dict[name] for name in students if name.startswith(start)}
    if not chosen:
        there = sorted({name.split(".")[1].replace("_", ".") for name in students})
        raise WeightsError(f"a width among {', '.join(there)}", f"{width:g}", "Choose one.", path)
    return chosen, None


def _student(network: nn.Module, given: Given, width: float, path: FilePath) -> nn.Module:
    """The student of ``width`` in the weights of the backbone ``network``."""
    if any(isinstance(layer, Conv3XC) and layer.fused for layer in network.modules()):
        raise WeightsError(
            f"weights with their branches, to cut the student of width {width:g} out of them",
            "fused ones: the fused kernels of a student are no slices of its teacher's",
            "Take the checkpoint of the training (net_g_*.pth), or the student that was saved beside it.",
            path,
        )
    name, arguments = describe(network)
    with weights_errors(path, "weights that a student can be cut out of", "Name its file."):
        shared = CSSRNet({"type": name, **arguments}, (width,), (given.section or {}).get("width_args"))
    shared.load_state_dict(network.state_dict())
    student = shared.student(width).eval()
    student.described_as = described(shared.section(width))[0]  # type: ignore[assignment]
    return student


def _load_adapters(
    path: FilePath, base: FilePath, param_key: str | None, given: Given
) -> tuple[nn.Module, list[DscsrWarning]]:
    """The fused network of ``base`` with the adapters of ``path``, which know of their base what that may not say."""
    file = read_weight_file(path)
    if not is_adapters(file.weights):
        raise WeightsError("LoRA adapters alone, since a base is given", "a whole network", "Leave `base` out.", path)
    said, trained_on = said_by(file, path), lora_base.from_metadata(file.metadata)
    network, notes, distance = _base(base, param_key, given, said, trained_on)
    unlike = {} if said is None or given.section is not None else differences(describe(network), said.metadata)
    for name, (its, trained) in unlike.items():
        if name not in given.overrides:
            words = f"a base with {name} {shown(trained)}, as the adapters of {path} were trained on"
            remedy = f"Name their base, or say which holds (--set {name}=…)."
            raise WeightsError(words, shown(its), remedy, base)
    try:
        network = _finite(conv_lora.load_lora_state_dict(network, file.weights), path).eval()
    except LoRAError as error:
        words = f"adapters that fit the network of {base}"
        raise WeightsError(words, f"others: {error}", "Name their base.", path) from error
    if distance > lora_base.TOLERANCE:
        if param_key is None:
            words = f"the base that the adapters of {path} were trained on"
            remedy = "Name the file that was `pretrain_network_g` of their training."
            raise WeightsError(words, "other weights", remedy, base)
        of = f"`{param_key}` of {base} are not the weights that the adapters of {path} were trained on"
        notes.append(DscsrWarning(f"{of}; taken, as given."))
    elif trained_on is None and param_key is None and len(sets := weight_sets(base)) > 1:
        which = f"{path} does not say which weights of {base} it was trained on; taken: {sets[0]}"
        notes.append(DscsrWarning(f"{which}. If that is wrong, name another param_key: {', '.join(sets[1:])}."))
    return network, notes


def _base(
    path: FilePath, param_key: str | None, given: Given, adapters: Said | None, trained_on: Sequence[float] | None
) -> tuple[nn.Module, list[DscsrWarning], float]:
    """The base of adapters, fused, without LoRA; of several weights in its file, those that they were ``trained_on``.

    Beside it, what is to be warned of, and how far it is from what they were trained on; 0 if that is not known.
    """
    sets = weight_sets(path) if trained_on is not None and param_key is None else []
    found = []
    for key in sets or (param_key,):
        network, notes = _load(path, key, None, given, adapters)
        for layer in lora_layers(network).values():
            layer.reset()  # fused, it is then the frozen weights, and nothing is added twice
        network = fused(network)
        found.append((network, notes, 0.0 if trained_on is None else lora_base.difference(trained_on, network)))
    return min(found, key=lambda one: one[2])
