"""Metadata of a network: what the shapes of its weights cannot tell, beside the weights.

A file of weights tells width, scale and channels, but not by what its network multiplies an image (``img_range``)
or a residual (``res_scale``). Files that dscsr writes, in training and export, say so, in text, so that any format can
carry it: the header of a ``.safetensors`` file, the key ``metadata`` of a ``.pth`` file, ``metadata_props`` of an ONNX
model.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from dscsr_arch.architecture import architectures, recognise
from dscsr_arch.constructor import NUMBER, NUMBERS, input_mean
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.foreign import arguments_of_section, find_backbone
from dscsr_arch.weight_files import METADATA, PREFERRED, short
from dscsr_arch.words import many

FORMAT = "1"
_LONGEST = 10_000
"""Characters of the arguments' JSON; those of a real network take some 200."""


class Metadata(NamedTuple):
    """What it takes to build a network."""

    network: str
    """Its name, as in option files."""
    arguments: dict[str, Any]
    """All arguments of its constructor, in numbers, lists and booleans; of a network that is not ours, those known."""


def describe(network: nn.Module, section: Mapping[str, Any] | None = None) -> Metadata:
    """Name and arguments of a network in the form that it has: fused or not, with LoRA or not.

    Args:
        network: Of a CSSRNet, it is the backbone that is described, as it is the backbone's names that its files have.
        section: The network section of an option file that it was built from. It speaks for networks that are not ours;
            without one, and if `load_model` did not build it either, only the name of its class is known.
    """
    if isinstance(network, CSSRNet):
        section, network = network.section(1.0), network.backbone
    state_dict = network.state_dict()
    architecture = recognise(state_dict)
    # Weights of these names and shapes can be another class's: layers of ours can be anywhere.
    if architecture is not None and isinstance(network, architectures()[architecture.family].network):
        kept = as_json(network.arguments)  # type: ignore[arg-type]
        told = {name: kept[name] for name in architecture.known_by_file if name in kept}
        arguments = {**architecture.arguments(state_dict, told), **told}
        order = [name for name in inspect.signature(architecture.network).parameters if name in arguments]
        return Metadata(architecture.name, {name: arguments[name] for name in order})
    if section is not None:
        return _from_section(section, type(network))
    known = getattr(network, "described_as", None)
    return known if isinstance(known, Metadata) else Metadata(type(network).__name__, {})


def beside(
    network: nn.Module, section: Mapping[str, Any] | None = None, preferred: str | None = None
) -> dict[str, dict[str, str]]:
    """What a ``.pth`` file holds beside the weights of ``network``: its metadata, as of `describe`; nothing if none.

    ``preferred`` is the key of the better weights, of several.
    """
    metadata = describe(network, section)
    said = {**(to_metadata(metadata) if metadata.arguments else {}), **({PREFERRED: preferred} if preferred else {})}
    return {METADATA: said} if said else {}


def described(section: object) -> list[Metadata]:
    """The networks that ``network_g`` of an option file describes: one; of a CSSRNet its backbone, then its students.

    `DscsrError` if it is no network section, or one of a network that is not known or cannot be built.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
        raise DscsrError("a network section such as {type: SPAN, upscale: 4}", short(section), "Write one.")
    try:
        if section["type"].removesuffix("_dscsr") != "CSSRNet":
            return [_from_section(section, find_backbone(section["type"]))]
        with torch.device("meta"):
            network = CSSRNet(**{str(name): value for name, value in section.items() if name != "type"})
        backbones = (network.section(width) for width in (1.0, *network.widths))
        return [_from_section(backbone, type(network.backbone)) for backbone in backbones]
    except DscsrError:
        raise
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise DscsrError("arguments that the network can be built from", f"others: {error}") from error


def _from_section(section: Mapping[str, Any], network: type[nn.Module]) -> Metadata:
    """Arguments of a section and, beside them, defaults of the class; those that are plain data."""
    trained = {name: value for name, value in section.items() if name != "lora"}  # which is no argument of a network
    return Metadata(str(section["type"]).removesuffix("_dscsr"), as_json(arguments_of_section(trained, network)))


def as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that are plain data, as they come back from a file."""
    plain: dict[str, Any] = {}
    for name, value in arguments.items():
        with suppress(TypeError, ValueError, RecursionError):
            plain[name] = json.loads(json.dumps(value))
    mean: Any = plain.get("rgb_mean")
    if plain.get("num_in_ch") == 1 and NUMBERS.accepts(mean) and len(mean) == 3:
        plain["rgb_mean"] = [round(input_mean(mean, 1).item(), 7)]  # the one that the network takes off its input
    return plain


def deciding_arguments() -> tuple[str, ...]:
    """Arguments of any network of ours that decide what it computes while its weights show nothing of them."""
    return tuple(dict.fromkeys(name for each in architectures().values() for name in each.not_in_shapes))


def unread(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Of the `deciding_arguments`, those that nothing reads beside the others, or that can have one value only."""
    of_norm = ("img_range", "rgb_mean") if arguments.get("norm") is False else ()
    return frozenset((*of_norm, *(("residual",) if arguments.get("upscale", 1) != 1 else ())))


def differences(one: Metadata, other: Metadata) -> dict[str, tuple[Any, Any]]:
    """Of the `deciding_arguments` that both have, those with unlike values: the value of each."""
    names = [name for name in deciding_arguments() if name in one.arguments and name in other.arguments]
    both = {name: (one.arguments[name], other.arguments[name]) for name in names}
    skipped = unread(one.arguments) & unread(other.arguments)
    return {name: pair for name, pair in both.items() if name not in skipped and not _same(*pair)}


def _same(one: Any, other: Any) -> bool:
    """Equal up to float32, in which a mean is kept."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if NUMBER.accepts(one) and NUMBER.accepts(other):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def shown(value: Any) -> str:
    """An argument that matters, for people: ``0.4488/0.4371/0.4040``, ``255``, ``true``."""
    if NUMBERS.accepts(value):
        return "/".join(f"{each:g}" for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if NUMBER.accepts(value) else short(value)


def in_words(metadata: Metadata) -> str:
    """A network for people: ``SPAN, 48 channels, x4``; of one that is not ours, what is known of it."""
    known = architectures().get(metadata.network)
    widths = [metadata.arguments[name] for name in known.width_arguments] if known else []
    channels = [many(width, "channel") for width in widths[:1]]
    scale = [f"x{metadata.arguments['upscale']}"] if "upscale" in metadata.arguments else []
    return ", ".join([metadata.network, *channels, *scale])


def to_metadata(metadata: Metadata) -> dict[str, str]:
    """As text. ``network`` and ``arguments`` say all; the others are there for people and other programs."""
    text = json.dumps(metadata.arguments)
    if len(text) > _LONGEST:
        raise DscsrError(f"arguments in at most {_LONGEST:,} characters", f"{len(text):,}", "Write them shorter.")
    names = {"scale": "upscale", **{name: name for name in ("num_out_ch", *deciding_arguments())}}
    plain = {key: metadata.arguments[name] for key, name in names.items() if name in metadata.arguments}
    return {
        "format": "pt",  # without this key, some readers of .safetensors files refuse them
        "dscsr": FORMAT,
        "network": metadata.network,
        "arguments": text,
        **{name: json.dumps(value) for name, value in plain.items()},
    }


def from_metadata(metadata: object, where: object = None) -> Metadata | None:
    """Read metadata back; None if there are none, or another program's. `WeightsError` if ours are damaged.

    The file may be anybody's: nothing in it is trusted, and the arguments' values are unchecked.
    """
    if not isinstance(metadata, Mapping) or "dscsr" not in metadata:
        return None
    version, network, text = (metadata.get(name) for name in ("dscsr", "network", "arguments"))
    if version != FORMAT:
        raise WeightsError(f"format {FORMAT} of dscsr's metadata", short(version), "Update dscsr.", where)
    if not isinstance(network, str) or not isinstance(text, str) or len(text) > _LONGEST:
        words = "`network` and `arguments` in dscsr's metadata to be short texts"
        raise WeightsError(words, f"{short(network)} and {short(text)}", "Ask for a whole file.", where)
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        words = "names and values as JSON in `arguments` of dscsr's metadata"
        raise WeightsError(words, short(text), "Ask for a whole file.", where)
    return Metadata(network, arguments)
