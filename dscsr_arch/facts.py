"""Facts of a network that the shapes of its weights cannot tell, as metadata beside the weights.

A file of weights tells width, scale and channels, but not by what its network multiplies a picture (``img_range``)
or a residual (``res_scale``). Files that dscsr writes say so, in text, so that any format can carry it: the header of
a ``.safetensors`` file, the key ``metadata`` of a ``.pth`` file, ``metadata_props`` of an ONNX model.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from torch import nn

from dscsr_arch.families import FAMILIES, Family

FORMAT = "1"
_LONGEST = 10_000
"""Characters of the arguments' JSON; those of a real network take some 200."""
_LARGEST = 1e9
"""Of the numbers in it: far beyond any range of a picture, and far within float32."""


class FactsError(ValueError):
    """Metadata that claim to be of dscsr and make no sense."""


class Facts(NamedTuple):
    """What it takes to build a network."""

    network: str
    """Its name, as in option files."""
    arguments: dict[str, Any]
    """All arguments of its constructor, in numbers, lists and booleans."""


def describe(network: nn.Module) -> Facts:
    """Read name and arguments off a network, however it was made.

    Raises:
        FactsError: It is none of the networks that `load_model` knows.
    """
    state_dict = network.state_dict()
    family = recognise(state_dict)
    if family is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise FactsError(
            f"Expected a network that dscsr knows ({names}), but got {type(network).__name__} with layers such as "
            f"{', '.join(list(state_dict)[:4]) or 'none'}. Ship that network with its own code."
        )
    hidden = {name: read(network) for name, read in family.hidden.items()}
    arguments = {**family.arguments(state_dict, hidden), **hidden}
    order = [name for name in inspect.signature(family.network()).parameters if name in arguments]
    return Facts(family.name, {name: arguments[name] for name in order})


def recognise(state_dict: Mapping[str, Any]) -> Family | None:
    """The kind of network that these weights are of, or None."""
    return next((family for family in FAMILIES if family.recognise(dict(state_dict))), None)


def to_metadata(facts: Facts) -> dict[str, str]:
    """The facts as text. ``network`` and ``arguments`` say all; the others are there for people and other programs."""
    plain = {"scale": facts.arguments["upscale"]}
    plain |= {name: facts.arguments[name] for name in _CHECKS if name in facts.arguments and name != "upscale"}
    return {
        "format": "pt",  # without this key, some readers of .safetensors files refuse them
        "dscsr": FORMAT,
        "network": facts.network,
        "arguments": json.dumps(facts.arguments),
        **{name: json.dumps(value) for name, value in plain.items()},
    }


def from_metadata(metadata: object) -> Facts | None:
    """Read facts back. The file may be anybody's: nothing in it is trusted, and the arguments' values are unchecked.

    Returns:
        None if the metadata are of another program, or there are none.

    Raises:
        FactsError: They claim to be of dscsr, but are damaged.
    """
    if not isinstance(metadata, Mapping) or "dscsr" not in metadata:
        return None
    version, network, text = (metadata.get(name) for name in ("dscsr", "network", "arguments"))
    if version != FORMAT:
        raise FactsError(f"Expected format {FORMAT} of dscsr's metadata, but got {_short(version)}. Update dscsr.")
    if not isinstance(network, str) or not isinstance(text, str) or len(text) > _LONGEST:
        raise FactsError(
            "Expected `network` and `arguments` in dscsr's metadata to be short texts, but got "
            f"{_short(network)} and {_short(text)}. Ask for a whole file."
        )
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FactsError(
            f"Expected JSON in `arguments` of dscsr's metadata, but got {_short(text)}. Ask for a whole file."
        ) from error
    if not isinstance(arguments, dict):
        raise FactsError(
            f"Expected names and values in `arguments` of dscsr's metadata, but got {_short(text)}. "
            "Ask for a whole file."
        )
    return Facts(network, arguments)


def hidden_arguments(facts: Facts, family: Family, besides: Container[str] = ()) -> dict[str, Any]:
    """Of the arguments, those that shapes cannot tell, but ``besides``; of all others the weights themselves speak.

    Raises:
        FactsError: A value is of the wrong kind, or the facts are of another network.
    """
    if facts.network != family.name:
        raise FactsError(
            f"Expected metadata of {family.name}, since the weights are of it, but got {_short(facts.network)}. "
            "Ask for a whole file."
        )
    found = {name: facts.arguments[name] for name in family.hidden if name in facts.arguments and name not in besides}
    for name, value in found.items():
        what, check = _CHECKS[name]
        if not check(value):
            raise FactsError(
                f"Expected `{name}` in dscsr's metadata to be {what}, but got {_short(value)}. "
                "Give it yourself, as an override."
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
