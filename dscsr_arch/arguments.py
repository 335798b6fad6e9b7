"""The arguments of the network in a weight file: what the user says, else the file, else its shapes, else defaults."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from dscsr_arch.errors import DscsrWarning, WeightsError
from dscsr_arch.families import Family, StateDict
from dscsr_arch.metadata import (
    MATTERING,
    Metadata,
    MetadataError,
    describe,
    described,
    differences,
    from_metadata,
    hidden_arguments,
    shown,
)
from dscsr_arch.weight_files import WeightFile


class AssumedWarning(DscsrWarning):
    """A file does not say what shapes cannot tell, and nobody else did: defaults were taken."""


class Given(NamedTuple):
    """What the user says of the network in a file."""

    section: Mapping[str, Any] | None
    """A network section of an option file."""
    overrides: Mapping[str, Any]


class Said(NamedTuple):
    """What a file says of its network."""

    metadata: Metadata
    path: str | os.PathLike[str]


def metadata_in(file: WeightFile, path: str | os.PathLike[str]) -> Said | None:
    """What a file that was read from ``path`` says of its network; None if nothing.

    Raises:
        WeightsError: Its metadata are damaged.
    """
    try:
        metadata = from_metadata(file.metadata)
    except MetadataError as error:
        raise WeightsError(f"Cannot tell the network of {path}: {error}") from error
    return None if metadata is None else Said(metadata, path)


def contradiction(file: WeightFile, path: str | os.PathLike[str], network: Metadata) -> str:
    """What a file says of its network where that is not ``network``, e.g. ``img_range: 1, not 255``; else empty.

    Raises:
        WeightsError: Its metadata are damaged.
    """
    said = metadata_in(file, path)
    unlike = {} if said is None else differences(said.metadata, network)
    return "; ".join(f"{name}: {shown(its)}, not {shown(other)}" for name, (its, other) in unlike.items())


def trained_otherwise(
    file: WeightFile, path: str | os.PathLike[str], network: nn.Module, section: Mapping[str, Any] | None = None
) -> str:
    """As `contradiction`, of a network that is built; empty, too, of one of which nothing can be said.

    Args:
        file: As it was read from ``path``.
        path: The file.
        network: What is to have its weights.
        section: What ``network`` was built from (see `describe`).

    Raises:
        WeightsError: The metadata are damaged.
    """
    try:
        unlike = contradiction(file, path, describe(network, section))
    except MetadataError:
        return ""
    return f"trained with {unlike}" if unlike else ""


def arguments_of(
    family: Family, state_dict: StateDict, given: Given, said: Said | None, path: str | os.PathLike[str]
) -> tuple[dict[str, Any], list[DscsrWarning]]:
    """Arguments of the network of ``state_dict`` at ``path``: as given, else as said, else as its shapes tell.

    Returns:
        The arguments, and what is to be warned of once the network is there: what is assumed (`AssumedWarning`), and
        what is given while the file says otherwise.

    Raises:
        WeightsError: They contradict the weights, or are no arguments of this network.
    """
    try:
        known = inspect.signature(family.network()).parameters
    except ValueError as error:
        raise WeightsError(f"{path} holds weights of {family.name}, which cannot be built: {error}") from error
    if unknown := sorted(set(given.overrides) - set(known)):
        raise WeightsError(
            f"Expected overrides among {', '.join(known)} for {family.name}, but got {', '.join(unknown)}."
        )
    try:
        sections = [] if given.section is None else described(given.section)
        chosen = dict(given.overrides)
        if sections:
            where, remedy = "`network_g` of the option file", "Name the one of their training."
            chosen |= hidden_arguments(sections[0], family, chosen, where, remedy)
        mine = set(chosen)
        if said is not None:
            chosen |= hidden_arguments(said.metadata, family, mine)
        arguments = {**family.arguments(state_dict, chosen), **chosen}
    except MetadataError as error:
        raise WeightsError(f"Cannot tell the network of {path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(f"Cannot build {family.name} for {path}: {error}") from error
    except LookupError as error:
        raise WeightsError(
            f"Cannot build {family.name} for {path}: a layer is missing or has too few dimensions ({error}). "
            "Ask for a whole file."
        ) from error
    _check_shapes(sections, arguments, given, path)
    notes: list[DscsrWarning] = []
    unlike = {} if said is None else differences(Metadata(family.name, arguments), said.metadata)
    if said is not None and unlike:
        its, taken = (", ".join(f"{name} {shown(pair[i])}" for name, pair in unlike.items()) for i in (1, 0))
        notes.append(DscsrWarning(f"{said.path} says {its}; taken, as given: {taken}."))
    matters = {name: arguments.get(name, known[name].default) for name in MATTERING if name in family.hidden}
    assumed = {name: value for name, value in matters.items() if name not in chosen}
    if assumed and matters.get("norm") is not False:  # else nothing reads range and mean
        values = ", ".join(f"{name} {shown(value)}" for name, value in assumed.items())
        notes.append(AssumedWarning(f"{path} does not say what its shapes cannot tell; assumed: {values}."))
    return arguments, notes


def _check_shapes(
    sections: list[Metadata], arguments: Mapping[str, Any], given: Given, path: str | os.PathLike[str]
) -> None:
    """Raise `WeightsError` unless one of the networks of an option file has what the shapes of the weights tell."""
    faults = []
    for metadata in sections:
        both = [name for name in arguments if name in metadata.arguments and not name.startswith("lora_")]
        told = [name for name in both if name not in MATTERING and name not in given.overrides]
        faults.append([name for name in told if metadata.arguments[name] != arguments[name]])
    if faults and all(faults):
        wrong = min(faults, key=len)
        expected = ", ".join(f"{name}: {sections[0].arguments[name]}" for name in wrong)
        got = ", ".join(f"{name}: {arguments[name]}" for name in wrong)
        raise WeightsError(
            f"Expected weights of `network_g` of the option file ({expected}) in {path}, but got others ({got}). "
            "Name the one of their training."
        )
