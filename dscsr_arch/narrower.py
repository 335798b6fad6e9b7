"""A narrower network of the same class: which arguments are its channels, and what they become."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from dscsr_arch.architecture import Architecture, architectures
from dscsr_arch.channel_split import check_split
from dscsr_arch.deployable import fused
from dscsr_arch.errors import ArgumentError
from dscsr_arch.foreign import WIDTH_ARGUMENTS
from dscsr_arch.metadata import Metadata, as_json, describe


class Narrower(NamedTuple):
    """What was built, with random weights, fused, in eval mode."""

    network: nn.Module
    changed: dict[str, tuple[int, int]]
    """Arguments of its constructor: their values before and now."""


def narrower(network: nn.Module, keep: float, layers: Iterable[str] = ()) -> Narrower:
    """Build a network as ``network``, but for its channels.

    Args:
        network: Fused, as `deployable` gives it; it says what it was built from.
        keep: A part of the channels, between 0 and 1, to the nearest number of them; or how many, from 2.
        layers: Constructor arguments that are channels; ``tail`` stands for ``tail_channels``. None: its width.

    Raises:
        ArgumentError: No such argument; ``keep`` leaves all channels, or none; or what was built is no part of
            ``network``.
    """
    name, arguments = describe(network)
    known = architectures().get(name)
    if not arguments:
        remedy = "Name the option file of its training, whose `network_g` has them."
        raise ArgumentError(f"the arguments that this {name} was built from", "none", remedy)
    parts = {} if known is None else known.part_widths
    names = _names(name, known, arguments, list(layers))
    values = {each: arguments.get(each) or arguments.get(parts.get(each, "")) for each in names}
    follow = {part: None for part, whole in parts.items() if whole in names and arguments.get(part) == arguments[whole]}
    new = {**arguments, **follow, **_kept(values, keep)}
    before = arguments | values
    network_class = type(network) if known is None else known.network
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of layers without a channel, which `check_split` refuses
        try:
            built = fused(network_class(**new)).eval()
        except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
            words = f"arguments that a narrower {name} can be built from"
            raise ArgumentError(words, f"others: {error}", "Keep another number of channels.") from error
    if known is None:
        built.described_as = Metadata(name, as_json(new))  # type: ignore[assignment]
    check_split(network, built, round(new[names[0]] / before[names[0]], 3))
    return Narrower(built, {each: (before[each], new[each]) for each in names})


def _names(name: str, known: Architecture | None, arguments: Mapping[str, Any], layers: list[str]) -> list[str]:
    widths = [*(known.width_arguments if known else WIDTH_ARGUMENTS.get(name, ()))]
    if not layers:
        if widths:
            return widths
        remedy = f"Name those of its arguments that are its channels; it has: {', '.join(arguments)}."
        raise ArgumentError(f"`layers` for {name}, since its width arguments are not known here", "none", remedy)
    ours = [*widths, *(known.part_widths if known else ())]
    taken = ours if known else list(arguments)
    wanted = [next((each for each in (word, f"{word}_channels") if each in taken), word) for word in layers]
    if unknown := [word for word in wanted if word not in taken]:
        words = {each.removesuffix("_channels"): each for each in taken} | {each: each for each in taken}
        close = list(dict.fromkeys(words[each] for each in difflib.get_close_matches(unknown[0], words, n=3)))
        remedy = f"Did you mean: {', '.join(close)}?" if close else "Choose among them, or leave it out."
        words_ = f"`layers` among the arguments of {name} that are channels ({', '.join(taken)})"
        raise ArgumentError(words_, repr(unknown[0]), remedy)
    return list(dict.fromkeys(wanted))


def _kept(values: Mapping[str, Any], keep: float) -> dict[str, int]:
    """New values of arguments."""
    if not 0 < keep < 1e9 or keep == 1 or (keep > 1 and keep != int(keep)):
        words = "`keep` to be a part of the channels between 0 and 1, or a number of channels from 2"
        raise ArgumentError(words, f"{keep:g}", "Choose such as 0.75, or 24.")
    kept = {}
    for name, value in values.items():
        if not isinstance(value, int):
            raise ArgumentError(f"`{name}` to be a number of channels", repr(value), "Name other `layers`.")
        kept[name] = round(value * keep) if keep < 1 else int(keep)
        if not 0 < kept[name] < value:
            words = f"`keep` to leave some of the {value} channels of `{name}`, not all"
            raise ArgumentError(words, f"{keep:g}, which is {kept[name]}", f"Choose a number below {value}, from 2.")
    return kept
