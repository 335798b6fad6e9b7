"""Weight files: read every dialect of them, build the right network from one, write them whole.

Nothing here ever runs code from a file: pickles are read with ``weights_only``.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import conv_lora
from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.csd_names import CSDWeightsError, from_csd
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import DscsrError
from dscsr_arch.families import FAMILIES, StateDict
from dscsr_arch.low_rank import LoRAError, is_adapters, lora_ranks

WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict")
"""Keys under which files hold their weights, the preferred one first: BasicSR's, CSD's, and the common one."""


class WeightsError(DscsrError):
    """A weight file that cannot be read, or does not fit."""


def read_state_dict(path: str | os.PathLike[str], param_key: str | None = None) -> StateDict:
    """Read the weights out of a ``.pth`` or ``.safetensors`` file, whatever they are wrapped in.

    Args:
        path: The file.
        param_key: Key of the wrapped weights, e.g. ``params``. None takes the first that is there of ``WRAPPERS``,
            or the file itself if it holds the weights unwrapped.

    Returns:
        Names (without ``module.`` of DistributedDataParallel and ``_orig_mod.`` of torch.compile, and BasicSR's or
        our own in place of those of the official CSD code) to tensors on the CPU.

    Raises:
        WeightsError: The file is missing, damaged, holds no weights, or has no ``param_key``.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"Expected a weight file at {path}, but there is none. Check the path.")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_pickle(path)
    weights = _unwrap(content, param_key, path)
    if not _is_state_dict(weights):
        raise WeightsError(
            f"Expected a state dict (names to tensors) in {path}, but got {_describe(weights)}. "
            "Give a file of network weights, such as net_g_latest.pth (not a training state)."
        )
    try:
        return from_csd({_bare(name): tensor for name, tensor in weights.items()})
    except CSDWeightsError as error:
        raise WeightsError(f"Cannot read {path}: {error}") from error


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
    ``rgb_mean``) has the network's default, unless overridden. A fused file gives a fused network.

    Args:
        path: A ``.pth`` or ``.safetensors`` file in any dialect that ``read_state_dict`` knows.
        param_key: Key of the wrapped weights (with ``base``, of its weights); None prefers the averaged ones
            (``params_ema``).
        base: If ``path`` holds LoRA adapters alone, the file of the network that they belong to; it gets fused. LoRA
            that it has itself is put aside: adapters are updates of the frozen weights.
        width: Of weights of a CSSR-Net, give the student of this width instead of the whole backbone.
        **overrides: Constructor arguments that replace what was read from the shapes.

    Returns:
        The network in eval mode, on the CPU, in float32.

    Raises:
        WeightsError: The file cannot be read, holds no network known here, or does not fit the overrides.
    """
    if base is not None:
        return _load_adapters(path, base, param_key, overrides)
    state_dict = read_state_dict(path, param_key)
    if is_adapters(state_dict):
        raise WeightsError(
            f"Expected a whole network in {path}, but got LoRA adapters alone: their base is missing. Take the whole "
            "network (net_g_*.pth, fused_g_*.pth), or name the file that they were trained from: load_model(…, base=…)."
        )
    family = next((family for family in FAMILIES if family.recognise(state_dict)), None)
    if family is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise WeightsError(
            f"Expected weights of a known network ({names}) in {path}, but got layers such as "
            f"{', '.join(list(state_dict)[:4])}. Build that network yourself and load the file with its own code."
        )
    try:
        network_class = family.network()
    except ValueError as error:
        raise WeightsError(f"{path} holds weights of {family.name}, which cannot be built: {error}") from error
    known = inspect.signature(network_class).parameters
    if unknown := sorted(set(overrides) - set(known)):
        raise WeightsError(
            f"Expected overrides among {', '.join(known)} for {family.name}, but got {', '.join(unknown)}."
        )
    try:
        arguments = {**family.arguments(state_dict, overrides), **overrides}
        network = family.prepare(network_class(**arguments), state_dict)
        if not lora_layers(network) and (ranks := lora_ranks(state_dict)):
            conv_lora.inject(network, ranks)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"Cannot build {family.name} for {path}: {error}") from error
    if fault := mismatch(network, state_dict):
        raise WeightsError(f"{path} does not fit {family.name}({_call(arguments)}):\n{fault}")
    network.load_state_dict(state_dict)
    return network.eval() if width is None else _student(network, family.name, arguments, width, path)


def _student(
    network: nn.Module, name: str, arguments: Mapping[str, Any], width: float, path: str | os.PathLike[str]
) -> nn.Module:
    """The student of ``width`` in the weights of the backbone ``name(**arguments)``."""
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
    network = conv_lora.fuse(getattr(network, "fuse", lambda: network)())  # BasicSR's networks fuse nothing
    try:
        return conv_lora.load_lora_state_dict(network, state_dict).eval()
    except LoRAError as error:
        raise WeightsError(f"The adapters of {path} do not fit the network of {base}: {error}") from error


def save_state_dict(state_dict: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a ``.pth`` file so that ``path`` is, at every moment, either the old file or the whole new one.

    Args:
        state_dict: Anything that ``torch.save`` takes, e.g. ``{"params": network.state_dict()}``.
        path: The file; its folder must exist. An existing file is replaced.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state_dict, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(path, error)) from error


def read_pickle(path: Path) -> Any:
    """Open a file of ``torch.save`` on the CPU, without ever running code from it.

    Raises:
        WeightsError: The file is damaged or holds Python objects.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"Expected plain weights in {path}, but got a damaged file or one that holds Python objects, which are "
            "never loaded because that would run code from the file. Ask for a file of weights only."
        ) from error
    except Exception as error:  # a damaged file raises anything: IndexError, EOFError, KeyError, RuntimeError, ...
        raise WeightsError(_damaged(path, error)) from error


def _unwrap(content: Any, param_key: str | None, path: Path) -> Any:
    if not isinstance(content, Mapping):
        return content
    if param_key is not None:
        if not isinstance(content.get(param_key), Mapping):
            there = [key for key, value in content.items() if isinstance(value, Mapping)]
            raise WeightsError(
                f"Expected weights under the key '{param_key}' in {path}, but got "
                f"{'the keys ' + ', '.join(map(repr, there)) if there else 'unwrapped weights (param_key: ~)'}."
            )
        return content[param_key]
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"Expected a whole weight file at {path}, but it cannot be read: it is truncated or of another kind "
        f"({path.stat().st_size:,} bytes; {type(error).__name__}). Copy or download it again."
    )


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    return f"a mapping with the keys {', '.join(map(str, list(content)[:6]))}" if content else "an empty mapping"


def _bare(name: str) -> str:
    for wrapper in ("module.", "_orig_mod."):
        name = name.removeprefix(wrapper)
    return name


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _listed(what: str, names: list[str], most: int = 8) -> str:
    rest = f" (+{len(names) - most} more)" if len(names) > most else ""
    return f"  {what}: {'; '.join(names[:most])}{rest}" if names else ""
