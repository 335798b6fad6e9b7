"""Networks that are not ours: BasicSR's by name, and some fifty families that spandrel knows by their weights.

Both libraries are imported when one of their networks is wanted, each in one function.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dscsr_arch.architecture import architectures
from dscsr_arch.errors import ArgumentError, UnavailableError, WeightsError
from dscsr_arch.torchvision_ops import import_without_operators, operators_missing

WIDTH_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ECBSR": ("num_channel",),
    "MSRResNet": ("num_feat",),
    "RIDNet": ("mid_channels",),
    "RRDBNet": ("num_feat", "num_grow_ch"),
    "SRVGGNetCompact": ("num_feat",),
    "SwinIR": ("embed_dim",),
}
"""Of networks of BasicSR, as `Architecture.width_arguments`."""


def find_backbone(name: str) -> type[nn.Module]:
    """The network class that option files call ``name``: ours, or one of BasicSR's registry; else `ArgumentError`."""
    ours = {each.name: each.network for each in architectures().values()}
    if (own := ours.get(name.removesuffix("_dscsr"))) is not None:
        return own
    try:
        importlib.import_module("basicsr.archs")
        registry = importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY
    except ImportError as error:
        raise ArgumentError(
            f"a network of dscsr ({', '.join(ours)}), or BasicSR to look {name!r} up in",
            f"no BasicSR that can be imported ({error})",
            "Install it: python -m dscsr_model.host.install_basicsr.",
        ) from error
    known: dict[str, type[nn.Module]] = {**dict(iter(registry)), **ours}
    if f"{name}_basicsr" in known and name not in known:
        name = f"{name}_basicsr"  # where BasicSR's own registry looks, too
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or sorted({**ours, **WIDTH_ARGUMENTS})
        remedy = f"Did you mean: {', '.join(close)}?"
        raise ArgumentError("the type of a registered network", f"{name!r}, which does not exist", remedy)
    return known[name]


def import_extra(name: str) -> Any:
    """The module, also beside a torchvision that needs a patch; `UnavailableError` where it cannot be imported."""
    try:
        if operators_missing():
            import_without_operators()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed: pip install 'dscsr[{name}]'") from error
    except Exception as error:  # RuntimeError, where torchvision does not fit torch
        raise UnavailableError(f"the import fails: {_one_line(error)}") from error


def from_spandrel(state_dict: Mapping[str, Tensor]) -> tuple[nn.Module, str, dict[str, Any]]:
    """The network that spandrel builds for these weights, its name there, and what is known of its arguments.

    The network says itself which sizes of images it takes (see `sizes.size_requirements`). `UnavailableError` if
    spandrel cannot be imported, `WeightsError` if it does not know them as those of a network from images to images.
    """
    spandrel = import_extra("spandrel")
    try:
        found = spandrel.ModelLoader().load_from_state_dict(dict(state_dict))
    except spandrel.UnsupportedModelError as error:
        raise WeightsError("spandrel does not know them either") from error
    except Exception as error:  # of a family that it took them for
        raise WeightsError(f"spandrel cannot build what it takes them for: {_one_line(error)}") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(f"spandrel knows them as {found.architecture.id}, which is no network from images to images")
    network, sizes = found.model.float(), found.size_requirements
    if not sizes.square:
        network.size_multiple = sizes.multiple_of
        network.size_minimum = max(sizes.minimum, sizes.multiple_of)
    arguments = dict(getattr(network, "hyperparameters", {}))
    arguments |= {"upscale": found.scale, "num_in_ch": found.input_channels, "num_out_ch": found.output_channels}
    return network, str(found.architecture.id), arguments


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def arguments_of_section(section: Mapping[str, Any], network: type[nn.Module]) -> dict[str, Any]:
    """All arguments of an option file's network section, those of the class's defaults that it does not name, too."""
    parameters = inspect.signature(network).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **{str(name): value for name, value in section.items() if name != "type"}}
