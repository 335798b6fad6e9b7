"""Metadata of a network that the shapes of its weights cannot tell, as metadata beside the weights.

A file of weights tells width, scale and channels, but not by what its network multiplies an image (``img_range``)
or a residual (``res_scale``). Files that dscsr writes, in training and export, say so, in text, so that any format can
carry it: the header of a ``.safetensors`` file, the key ``metadata`` of a ``.pth`` file, ``metadata_props`` of an ONNX
model.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from dscsr_arch.cssr_arch import CSSRNet, find_backbone
from dscsr_arch.families import FAMILIES, Family
from dscsr_arch.input_mean import input_mean
from dscsr_arch.weight_files import METADATA

FORMAT = "1"
_LONGEST = 10_000
"""Characters of the arguments' JSON; those of a real network take some 200."""
_LARGEST = 1e9
"""Of the numbers in it: far beyond any range of an image, and far within float32."""


MATTERING = ("img_range", "rgb_mean", "norm", "res_scale", "final_relu")
"""Arguments that decide what a network computes while its weights show nothing of them."""

_BASES = {"DSCLoRA": "SPAN"}
"""Networks with LoRA of their own: metadata of their bases are theirs."""


class MetadataError(ValueError):
    """What is said of a network makes no sense, or nothing can be said."""


class Metadata(NamedTuple):
    """What it takes to build a network."""

    network: str
    """Its name, as in option files."""
    arguments: dict[str, Any]
    """All arguments of its constructor, in numbers, lists and booleans."""


def describe(network: nn.Module, section: Mapping[str, Any] | None = None) -> Metadata:
    """Read name and arguments off a network, however it was made: what runs is the truth, in every form of it.

    Args:
        network: Of a CSSRNet, it is the backbone that is described, as it is the backbone's names that its files have.
        section: The network section of an option file that it was built from. It speaks for networks that
            `load_model` does not know.

    Raises:
        MetadataError: It is none of the networks that `load_model` knows, and there is no ``section``, or none of plain
            data.
    """
    if isinstance(network, CSSRNet):
        section, network = network.section(1.0), network.backbone
    state_dict = network.state_dict()
    family = recognise(state_dict)
    if family is not None:
        with suppress(AttributeError, TypeError, LookupError, ValueError):  # layers of ours in a class of another's
            hidden = {name: read(network) for name, read in family.hidden.items()}
            arguments = {**family.arguments(state_dict, hidden), **hidden}
            order = [name for name in inspect.signature(family.network()).parameters if name in arguments]
            return Metadata(family.name, {name: arguments[name] for name in order})
    if section is not None:
        return _from_section(section, type(network))
    names = ", ".join(family.name for family in FAMILIES)
    raise MetadataError(
        f"Expected a network that dscsr knows ({names}), but got {type(network).__name__} with layers such as "
        f"{', '.join(list(state_dict)[:4]) or 'none'}. Ship that network with its own code."
    )


def beside(network: nn.Module, section: Mapping[str, Any] | None = None) -> dict[str, dict[str, str]]:
    """What a ``.pth`` file holds beside the weights of ``network``: its metadata, as of `describe`; nothing if none."""
    try:
        return {METADATA: to_metadata(describe(network, section))}
    except MetadataError:
        return {}


def described(section: object) -> list[Metadata]:
    """The networks that ``network_g`` of an option file describes: one; of a CSSRNet its backbone, then its students.

    Raises:
        MetadataError: It is no network section, or one of a network that is not known or cannot be built.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
        raise MetadataError(
            f"Expected a network section such as {{type: SPAN, upscale: 4}}, but got {_short(section)}."
        )
    try:
        if section["type"].removesuffix("_dscsr") != "CSSRNet":
            return [_from_section(section, find_backbone(section["type"]))]
        with torch.device("meta"):
            network = CSSRNet(**{str(name): value for name, value in section.items() if name != "type"})
        backbones = (network.section(width) for width in (1.0, *network.widths))
        return [_from_section(backbone, type(network.backbone)) for backbone in backbones]
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise MetadataError(f"Expected a section of a network that can be built, but: {error}") from error


def _from_section(section: Mapping[str, Any], network: type[nn.Module]) -> Metadata:
    """Arguments of a section and, beside them, those defaults of the class that are plain data."""
    parameters = inspect.signature(network).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    given = {str(name): value for name, value in section.items() if name not in ("type", "lora")}
    plain = {name: value for name, value in {**defaults, **given}.items() if _is_plain(value)}
    if unlike := given.keys() - plain.keys():
        raise MetadataError(f"Expected plain data in a network section, but got other in {', '.join(sorted(unlike))}.")
    arguments = json.loads(json.dumps(plain))
    mean = arguments.get("rgb_mean")
    if arguments.get("num_in_ch") == 1 and _are_numbers(mean) and len(mean) == 3:
        arguments["rgb_mean"] = [input_mean(mean, 1).item()]  # as the network will give it back
    return Metadata(str(section["type"]).removesuffix("_dscsr"), arguments)


def _is_plain(value: object) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return False


def differences(one: Metadata, other: Metadata) -> dict[str, tuple[Any, Any]]:
    """Arguments that matter (`MATTERING`) and that both have, with unlike values: the value of each."""
    both = {name: (one.arguments[name], other.arguments.get(name)) for name in MATTERING if name in one.arguments}
    found = {name: pair for name, pair in both.items() if name in other.arguments and not _same(*pair)}
    skipped = ("img_range", "rgb_mean") if both.get("norm") == (False, False) else ()  # then nothing reads them
    return {name: pair for name, pair in found.items() if name not in skipped}


def _same(one: Any, other: Any) -> bool:
    """A network gives its mean back in float32."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def shown(value: Any) -> str:
    """An argument that matters, for people: ``0.4488/0.4371/0.4040``, ``255``, ``true``."""
    if isinstance(value, list | tuple) and _are_numbers(list(value)):
        return "/".join(f"{each:g}" for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if _is_number(value) else _short(value)


def recognise(state_dict: Mapping[str, Any]) -> Family | None:
    """The kind of network that these weights are of, or None."""
    return next((family for family in FAMILIES if family.recognise(dict(state_dict))), None)


def to_metadata(metadata: Metadata) -> dict[str, str]:
    """The metadata as text. ``network`` and ``arguments`` say all; the others are there for people and other programs.

    Raises:
        MetadataError: They are longer than `from_metadata` would read.
    """
    text = json.dumps(metadata.arguments)
    if len(text) > _LONGEST:
        raise MetadataError(f"Expected arguments in at most {_LONGEST:,} characters, but got {len(text):,}.")
    names = {"scale": "upscale", **{name: name for name in _CHECKS if name != "upscale"}}
    plain = {key: metadata.arguments[name] for key, name in names.items() if name in metadata.arguments}
    return {
        "format": "pt",  # without this key, some readers of .safetensors files refuse them
        "dscsr": FORMAT,
        "network": metadata.network,
        "arguments": text,
        **{name: json.dumps(value) for name, value in plain.items()},
    }


def from_metadata(metadata: object) -> Metadata | None:
    """Read metadata back. The file may be anybody's: nothing in it is trusted, and the arguments' values are unchecked.

    Returns:
        None if the metadata are of another program, or there are none.

    Raises:
        MetadataError: They claim to be of dscsr, but are damaged.
    """
    if not isinstance(metadata, Mapping) or "dscsr" not in metadata:
        return None
    version, network, text = (metadata.get(name) for name in ("dscsr", "network", "arguments"))
    if version != FORMAT:
        raise MetadataError(f"Expected format {FORMAT} of dscsr's metadata, but got {_short(version)}. Update dscsr.")
    if not isinstance(network, str) or not isinstance(text, str) or len(text) > _LONGEST:
        raise MetadataError(
            "Expected `network` and `arguments` in dscsr's metadata to be short texts, but got "
            f"{_short(network)} and {_short(text)}. Ask for a whole file."
        )
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(
            f"Expected JSON in `arguments` of dscsr's metadata, but got {_short(text)}. Ask for a whole file."
        ) from error
    if not isinstance(arguments, dict):
        raise MetadataError(
            f"Expected names and values in `arguments` of dscsr's metadata, but got {_short(text)}. "
            "Ask for a whole file."
        )
    return Metadata(network, arguments)


def hidden_arguments(
    metadata: Metadata,
    family: Family,
    besides: Container[str] = (),
    where: str = "dscsr's metadata",
    remedy: str = "Use that network's own code.",
) -> dict[str, Any]:
    """Of the arguments, those that shapes cannot tell, but ``besides``; of all others the weights themselves speak.

    Raises:
        MetadataError: A value is of the wrong kind, or the metadata, which stand ``where``, are of another network, for
            which there is a ``remedy``.
    """
    if _BASES.get(metadata.network, metadata.network) != _BASES.get(family.name, family.name):
        raise MetadataError(
            f"Expected {where} to be of {family.name}, since the layers are, but got {_short(metadata.network)}. "
            f"{remedy}"
        )
    found = {
        name: metadata.arguments[name] for name in family.hidden if name in metadata.arguments and name not in besides
    }
    for name, value in found.items():
        what, check = _CHECKS[name]
        if not check(value):
            raise MetadataError(
                f"Expected `{name}` in {where} to be {what}, but got {_short(value)}. Give it yourself, as an override."
            )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 1 / _LARGEST


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) < 100 and all(map(_is_number, value))


_CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "upscale": ("a small whole number", _is_count),
    "num_out_ch": ("a small whole number", _is_count),
    "img_range": ("a positive number of usual size", _is_positive),
    "rgb_mean": ("a list of numbers", _are_numbers),
    "norm": ("true or false", lambda value: isinstance(value, bool)),
    "res_scale": ("a number", _is_number),
    "final_relu": ("true or false", lambda value: isinstance(value, bool)),
}
"""What each argument that shapes cannot tell must be."""


def _short(value: object) -> str:
    if not isinstance(value, str | int | float | None):
        return f"({type(value).__name__})"  # not its contents: nested well, a few bytes of a pickle print as gigabytes
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
