"""Weight files: read every dialect of them, build the right network from one, write them whole.

Nothing here ever runs code from a file: pickles are read with ``weights_only``.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.errors import DscsrError
from dscsr_arch.span_arch import SPAN, UPSCALES

StateDict = dict[str, Tensor]

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
        Names (without ``module.`` of DistributedDataParallel and ``_orig_mod.`` of torch.compile) to tensors on the
        CPU.

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
    return {_bare(name): tensor for name, tensor in weights.items()}


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


def load_model(path: str | os.PathLike[str], *, param_key: str | None = None, **overrides: Any) -> nn.Module:
    """Build the right network from a weight file alone.

    Width, scale and channels are read from the shapes of the weights. What shapes cannot tell (``img_range``,
    ``rgb_mean``) has the network's default, unless overridden. A fused file gives a fused network.

    Args:
        path: A ``.pth`` or ``.safetensors`` file in any dialect that ``read_state_dict`` knows.
        param_key: Key of the wrapped weights; None prefers the averaged ones (``params_ema``).
        **overrides: Constructor arguments that replace what was read from the shapes.

    Returns:
        The network in eval mode, on the CPU, in float32.

    Raises:
        WeightsError: The file cannot be read, holds no network known here, or does not fit the overrides.
    """
    state_dict = read_state_dict(path, param_key)
    family = next((family for family in FAMILIES if family.recognise(state_dict)), None)
    if family is None:
        names = ", ".join(family.network.__name__ for family in FAMILIES)
        raise WeightsError(
            f"Expected weights of a known network ({names}) in {path}, but got layers such as "
            f"{', '.join(list(state_dict)[:4])}. Build that network yourself and load the file with its own code."
        )
    known = inspect.signature(family.network).parameters
    if unknown := sorted(set(overrides) - set(known)):
        raise WeightsError(
            f"Expected overrides among {', '.join(known)} for {family.network.__name__}, but got {', '.join(unknown)}."
        )
    try:
        arguments = {**family.arguments(state_dict, overrides), **overrides}
        network = family.network(**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"Cannot build {family.network.__name__} for {path}: {error}") from error
    network = family.prepare(network, state_dict)
    if fault := mismatch(network, state_dict):
        raise WeightsError(f"{path} does not fit {family.network.__name__}({_call(arguments)}):\n{fault}")
    network.load_state_dict(state_dict)
    return network.eval()


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


class Family(NamedTuple):
    """How the weights of one kind of network are recognised and read."""

    network: type[nn.Module]
    recognise: Callable[[StateDict], bool]
    arguments: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]]
    """Constructor arguments from (weights, overrides); ValueError if shapes make no sense."""
    prepare: Callable[[nn.Module, StateDict], nn.Module]
    """Bring a freshly built network into the form of the file, e.g. fused."""


def _is_span(state_dict: StateDict) -> bool:
    heads = ("conv_1", "block_1.c1_r", "block_6.c3_r", "conv_2")
    forms = (("sk.weight",), ("eval_conv.weight",))
    return {"conv_cat.weight", "upsampler.0.weight"} <= set(state_dict) and any(
        all(f"{head}.{name}" in state_dict for head in heads for name in form) for form in forms
    )


def _span_arguments(state_dict: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    head = "conv_1.sk" if "conv_1.sk.weight" in state_dict else "conv_1.eval_conv"
    channels, num_in_ch = state_dict[f"{head}.weight"].shape[:2]
    arguments = {
        "num_in_ch": num_in_ch,
        "feature_channels": channels,
        "bias": f"{head}.bias" in state_dict,
        "norm": "no_norm" not in state_dict,
    }
    total = state_dict["upsampler.0.weight"].shape[0]
    return arguments | _output_arguments(total, num_in_ch, overrides)


def _output_arguments(total: int, num_in_ch: int, overrides: Mapping[str, Any]) -> dict[str, int]:
    """Scale r and output channels c from the ``total`` = c·r² channels before a pixel shuffle.

    As many channels go out as come in, unless that leaves no scale, or an override says otherwise.
    """
    scales = [overrides["upscale"]] if "upscale" in overrides else list(UPSCALES)
    if "num_out_ch" in overrides:
        channels = [overrides["num_out_ch"]]
    elif "upscale" in overrides:
        channels = [max(1, total // overrides["upscale"] ** 2)]
    else:
        channels = [num_in_ch, 3, 1]
    found = [(c, r) for c in channels for r in scales if c * r**2 == total]
    if not found:
        raise ValueError(
            f"Expected num_out_ch·upscale² channels before the pixel shuffle, with num_out_ch among {channels} and "
            f"upscale among {scales}, but the file has {total}. Give the right `num_out_ch` and `upscale`."
        )
    num_out_ch, upscale = found[0]
    return {"upscale": upscale, "num_out_ch": num_out_ch}


def _prepare_span(network: nn.Module, state_dict: StateDict) -> nn.Module:
    expanded = any(name.endswith(".sk.weight") for name in state_dict)
    return network if expanded or not isinstance(network, SPAN) else network.fuse()


FAMILIES: tuple[Family, ...] = (Family(SPAN, _is_span, _span_arguments, _prepare_span),)
"""Networks that ``load_model`` knows, in the order in which they are tried."""


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
