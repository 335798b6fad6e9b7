"""The arguments of the network in a weight file: what the user says, else the file, else its shapes, else defaults."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from dscsr_arch.architecture import Architecture, StateDict
from dscsr_arch.errors import DscsrError, DscsrWarning, WeightsError
from dscsr_arch.metadata import (
    Metadata,
    deciding_arguments,
    describe,
    described,
    differences,
    from_metadata,
    known_arguments,
    shown,
)
from dscsr_arch.weight_files import WeightFile

FilePath = str | os.PathLike[str]


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
    path: FilePath


def metadata_in(file: WeightFile, path: FilePath) -> Said | None:
    """What a file that was read from ``path`` says of its network; None if nothing.

    Raises:
        WeightsError: Its metadata are damaged.
    """
    metadata = from_metadata(file.metadata, path)
    return None if metadata is None else Said(metadata, path)


def contradiction(file: WeightFile, path: FilePath, network: Metadata) -> str:
    """What a file says of its network where that is not ``network``, e.g. ``img_range: 1, not 255``; else empty.

    Raises:
        WeightsError: Its metadata are damaged.
    """
    said = metadata_in(file, path)
    unlike = {} if said is None else differences(said.metadata, network)
    return "; ".join(f"{name}: {shown(its)}, not {shown(other)}" for name, (its, other) in unlike.items())


def trained_otherwise(
    file: WeightFile, path: FilePath, network: nn.Module, section: Mapping[str, Any] | None = None
) -> str:
    """As `contradiction`, of a network that is built.

    Args:
        file: As it was read from ``path``.
        path: The file.
        network: What is to have its weights.
        section: What ``network`` was built from (see `describe`).

    Raises:
        WeightsError: The metadata are damaged.
    """
    unlike = contradiction(file, path, describe(network, section))
    return f"trained with {unlike}" if unlike else ""


def arguments_of(
    architecture: Architecture, state_dict: StateDict, given: Given, said: Said | None, path: FilePath
) -> tuple[dict[str, Any], list[DscsrWarning]]:
    """Arguments of the network of ``state_dict`` at ``path``: as given, else as said, else as its shapes tell.

    Returns:
        The arguments, and what is to be warned of once the network is there: what is assumed (`AssumedWarning`), and
        what is given while the file says otherwise.

    Raises:
        WeightsError: They contradict the weights, or are no arguments of this network.
    """
    parameters = inspect.signature(architecture.network).parameters
    if unknown := sorted(set(given.overrides) - set(parameters)):
        words = f"overrides among {', '.join(parameters)} for {architecture.name}"
        raise WeightsError(words, ", ".join(unknown), "Leave out what it does not take.")
    chosen, sections = dict(given.overrides), []
    if given.section is not None:
        sections = described(given.section)
        where, remedy = "network_g of the option file", "Name the one of their training."
        told = known_arguments(sections[0], architecture, where, remedy)
        chosen = {**told, **chosen}
    if said is not None:
        told = known_arguments(said.metadata, architecture, said.path, "Use that network's own code.", besides=chosen)
        chosen = {**told, **chosen}
    try:
        arguments = {**architecture.arguments(state_dict, chosen), **chosen}
    except DscsrError as error:
        raise WeightsError(error.expected, error.got, error.remedy, path) from error
    except (TypeError, ValueError, ArithmeticError) as error:
        words, got = f"weights of {architecture.name} in shapes that it has", f"others ({error})"
        raise WeightsError(words, got, "Ask for a whole file.", path) from error
    except LookupError as error:
        got = f"a layer that is missing or has too few dimensions ({error})"
        raise WeightsError(f"all weights of {architecture.name}", got, "Ask for a whole file.", path) from error
    _check_shapes(sections, arguments, given, path)
    notes: list[DscsrWarning] = []
    unlike = {} if said is None else differences(Metadata(architecture.name, arguments), said.metadata)
    if said is not None and unlike:
        its, taken = (", ".join(f"{name} {shown(pair[i])}" for name, pair in unlike.items()) for i in (1, 0))
        notes.append(DscsrWarning(f"{said.path} says {its}; taken, as given: {taken}."))
    matters = {name: arguments.get(name, parameters[name].default) for name in architecture.not_in_shapes}
    assumed = {name: value for name, value in matters.items() if name not in chosen}
    if assumed and matters.get("norm") is not False:  # else nothing reads range and mean
        values = ", ".join(f"{name} {shown(value)}" for name, value in assumed.items())
        notes.append(AssumedWarning(f"{path} does not say what its shapes cannot tell; assumed: {values}."))
    return arguments, notes


def _check_shapes(sections: list[Metadata], arguments: Mapping[str, Any], given: Given, path: FilePath) -> None:
    """Raise `WeightsError` unless one of the networks of an option file has what the shapes of the weights tell."""
    faults = []
    for metadata in sections:
        both = [name for name in arguments if name in metadata.arguments and not name.startswith("lora_")]
        told = [name for name in both if name not in deciding_arguments() and name not in given.overrides]
        faults.append([name for name in told if metadata.arguments[name] != arguments[name]])
    if faults and all(faults):
        wrong = min(faults, key=len)
        expected = ", ".join(f"{name}: {sections[0].arguments[name]}" for name in wrong)
        got = ", ".join(f"{name}: {arguments[name]}" for name in wrong)
        words = f"weights of `network_g` of the option file ({expected})"
        raise WeightsError(words, f"others ({got})", "Name the one of their training.", path)
