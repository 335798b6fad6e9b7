"""From a weight file to the right network: recognise it, build it, check that it fits, load it.

Files are opened by `weight_files`, which see for what is refused there.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import conv_lora
from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.facts import FactsError, from_metadata, hidden_arguments, recognise
from dscsr_arch.families import FAMILIES, Family, StateDict
from dscsr_arch.low_rank import LoRAError, is_adapters, lora_ranks
from dscsr_arch.plain import fused
from dscsr_arch.weight_files import (
    WRAPPERS,
    WeightFile,
    WeightsError,
    read_pickle,
    read_state_dict,
    read_weight_file,
    save_state_dict,
)

__all__ = [
    "WRAPPERS",
    "WeightsError",
    "load_model",
    "mismatch",
    "read_pickle",
    "read_state_dict",
    "save_state_dict",
]

_STUDENTS = "students."
"""Before the names of the students that a fused CSSR-Net has beside its backbone."""


def mismatch(network: nn.Module, state_dict: Mapping[str, Tensor]) -> str | None:
    """Say which layers keep ``state_dict`` from loading strictly into ``network``, which stays as it is.

    Returns:
        None if it would load; else lines that name missing, unexpected and differently shaped entries.
    """
    expected = network.state_dict()
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, but the file has {tuple(tensor.shape)}"
        for name, tensor in state_dict.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if shapes:
        return _listed("differently shaped", shapes)
    # Only names and shapes matter: on the meta device nothing is copied and no fused kernel is re-expanded.
    given = {name: tensor.to("meta") for name, tensor in state_dict.items()}
    try:
        missing, unexpected = copy.deepcopy(network).to("meta").load_state_dict(given, strict=False)
    except RuntimeError as error:
        return str(error)
    lines = [_listed("missing in the file", missing), _listed("unexpected in the file", unexpected)]
    return "\n".join(line for line in lines if line) or None


def load_model(
    path: str | os.PathLike[str],
    *,
    param_key: str | None = None,
    base: str | os.PathLike[str] | None = None,
    width: float | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build the right network from a weight file alone.

    Width, scale and channels are read from the shapes of the weights. What shapes cannot tell (``img_range``,
    ``rgb_mean``, ``res_scale``) is read from the metadata of files that `dscsr export` wrote; of other files it has
    the network's default. Overrides win. A fused file gives a fused network.

    Args:
        path: A ``.pth`` or ``.safetensors`` file in any dialect that ``read_state_dict`` knows.
        param_key: Key of the wrapped weights (with ``base``, of its weights); None prefers the averaged ones
            (``params_ema``).
        base: If ``path`` holds LoRA adapters alone, the file of the network that they belong to; it gets fused. LoRA
            that it has itself is put aside: adapters are updates of the frozen weights.
        width: Of weights of a CSSR-Net, give the student of this width instead of the whole backbone.
        **overrides: Constructor arguments that replace what was read from the file.

    Returns:
        The network in eval mode, on the CPU, in float32.

    Raises:
        WeightsError: The file cannot be read, holds no network known here, does not fit the overrides, has weights
            that are no finite numbers, or has no student of ``width``.
    """
    if base is not None:
        if width is not None:
            raise WeightsError("Expected either a base of LoRA adapters or a width, but got both. Leave one out.")
        return _load_adapters(path, base, param_key, overrides)
    if width is not None and not (isinstance(width, int | float) and 0 < width <= 1):
        raise WeightsError(f"Expected `width` to be a part of the backbone's, in (0, 1], but got {width!r}.")
    file = read_weight_file(path, param_key)
    if is_adapters(file.weights):
        raise WeightsError(
            f"Expected a whole network in {path}, but got LoRA adapters alone: their base is missing. Take the whole "
            "network (net_g_*.pth, fused_g_*.pth), or name the file that they were trained from: load_model(…, base=…)."
        )
    state_dict, width = _of_width(file.weights, width, path)
    family = recognise(state_dict)
    if family is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise WeightsError(
            f"Expected weights of a known network ({names}) in {path}, but got layers such as "
            f"{', '.join(name[:60] for name in list(state_dict)[:4]) or 'none'}. Build that network yourself and load "
            "the file with its own code."
        )
    arguments = _arguments(family, WeightFile(state_dict, file.metadata), overrides, path)
    network = _build(family, arguments, state_dict, path)
    return network if width is None else _student(network, family.name, arguments, width, path)


def _arguments(
    family: Family, file: WeightFile, overrides: Mapping[str, Any], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """What to build the network of ``file`` with: overrides, before its metadata, before its shapes."""
    try:
        known = inspect.signature(family.network()).parameters
    except ValueError as error:
        raise WeightsError(f"{path} holds weights of {family.name}, which cannot be built: {error}") from error
    if unknown := sorted(set(overrides) - set(known)):
        raise WeightsError(
            f"Expected overrides among {', '.join(known)} for {family.name}, but got {', '.join(unknown)}."
        )
    try:
        facts = from_metadata(file.metadata)
        given = {} if facts is None else hidden_arguments(facts, family, besides=overrides)
        chosen = {**given, **overrides}
        return {**family.arguments(file.weights, chosen), **chosen}
    except FactsError as error:
        raise WeightsError(f"Cannot tell the network of {path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"Cannot build {family.name} for {path}: {error}") from error
    except LookupError as error:
        raise WeightsError(
            f"Cannot build {family.name} for {path}: a layer is missing or has too few dimensions ({error}). "
            "Ask for a whole file."
        ) from error


def _build(
    family: Family, arguments: Mapping[str, Any], state_dict: StateDict, path: str | os.PathLike[str]
) -> nn.Module:
    """The network with its weights, in eval mode. Memory is taken only when all shapes are known to fit the file."""
    try:
        with torch.device("meta"):
            shapes = _bare_network(family, arguments, state_dict)
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise WeightsError(f"Cannot build {family.name} for {path}: {error}") from error
    if fault := mismatch(shapes, state_dict):
        raise WeightsError(f"{path} does not fit {family.name}({_call(arguments)}):\n{fault}")
    network = _bare_network(family, arguments, state_dict)
    network.load_state_dict(state_dict)
    return _finite(network, path).eval()


def _bare_network(family: Family, arguments: Mapping[str, Any], state_dict: StateDict) -> nn.Module:
    """The network in the form that the file has it: fused or not, with LoRA or not; its weights are random."""
    network = family.prepare(family.network()(**arguments), state_dict)
    if not lora_layers(network) and (ranks := lora_ranks(state_dict)):
        conv_lora.inject(network, ranks)
    return network


def _finite(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """``network``, unless it has weights that make every picture black."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.isfinite().all():
            raise WeightsError(
                f"Expected finite weights in {path}, but {name} has {int((~tensor.isfinite()).sum())} of "
                f"{tensor.numel()} that are infinite or no number: a training diverged. Take an earlier checkpoint."
            )
    return network


def _of_width(
    state_dict: StateDict, width: float | None, path: str | os.PathLike[str]
) -> tuple[StateDict, float | None]:
    """The weights to build from, and the width that is still to be cut out of them.

    A fused CSSR-Net keeps its students beside its backbone, since they are no slices of it.
    """
    students = {name for name in state_dict if name.startswith(_STUDENTS)}
    if width is None or width == 1:
        return {name: tensor for name, tensor in state_dict.items() if name not in students}, None
    if not students:
        return state_dict, width
    start = f"{_STUDENTS}{f'{width:g}'.replace('.', '_')}."
    chosen = {name.removeprefix(start): state_dict[name] for name in students if name.startswith(start)}
    if not chosen:
        there = sorted({name.split(".")[1].replace("_", ".") for name in students})
        raise WeightsError(f"Expected a width among {', '.join(there)} in {path}, but got {width:g}. Choose one.")
    return chosen, None


def _student(
    network: nn.Module, name: str, arguments: Mapping[str, Any], width: float, path: str | os.PathLike[str]
) -> nn.Module:
    """The student of ``width`` in the weights of the backbone ``name(**arguments)``."""
    if any(isinstance(layer, Conv3XC) and layer.fused for layer in network.modules()):
        raise WeightsError(
            f"Expected weights with their branches in {path}, to cut the student of width {width:g} out of them, but "
            "got fused ones: the fused kernels of a student are no slices of its teacher's. Take the checkpoint of the "
            "training (net_g_*.pth), or the student that was saved beside it."
        )
    try:
        shared = CSSRNet({"type": name, **arguments}, widths=(width,))
        shared.load_state_dict(network.state_dict())
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"Expected weights of a CSSR-Net with width {width} in {path}, but: {error}") from error
    return shared.student(width).eval()


def _load_adapters(
    path: str | os.PathLike[str], base: str | os.PathLike[str], param_key: str | None, overrides: Mapping[str, Any]
) -> nn.Module:
    """The fused network of ``base`` with the adapters of ``path``."""
    state_dict = read_state_dict(path)
    if not is_adapters(state_dict):
        raise WeightsError(
            f"Expected LoRA adapters alone in {path}, since a base is given, but got a whole network. Leave `base` out."
        )
    network = load_model(base, param_key=param_key, **overrides)
    for layer in lora_layers(network).values():
        nn.init.zeros_(layer.lora_B)  # fused, it is then the frozen weights, and nothing is added twice
    try:
        return _finite(conv_lora.load_lora_state_dict(fused(network), state_dict), path).eval()
    except LoRAError as error:
        raise WeightsError(f"The adapters of {path} do not fit the network of {base}: {error}") from error


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _listed(what: str, names: list[str], most: int = 8) -> str:
    rest = f" (+{len(names) - most} more)" if len(names) > most else ""
    return f"  {what}: {'; '.join(names[:most])}{rest}" if names else ""
