"""The arguments of the network in a weight file: what the user says, else the file, else its shapes, else defaults."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from dscsr_arch.architecture import Architecture, StateDict, architectures
from dscsr_arch.constructor import kinds_of
from dscsr_arch.errors import DscsrError, DscsrWarning, WeightsError
from dscsr_arch.metadata import (
    Metadata,
    deciding_arguments,
    described,
    differences,
    from_metadata,
    shown,
    unread,
)
from dscsr_arch.weight_files import FilePath, WeightFile, short


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


def said_by(file: WeightFile, path: FilePath) -> Said | None:
    """What a file that was read from ``path`` says; None if nothing. `WeightsError` if its metadata are damaged."""
    metadata = from_metadata(file.metadata, path)
    return None if metadata is None else Said(metadata, path)


def trained_otherwise(file: WeightFile, path: FilePath, network: Metadata) -> str:
    """What a file says where that is not ``network``: ``trained with img_range: 1, not 255``; else empty."""
    said = said_by(file, path)
    unlike = {} if said is None else differences(said.metadata, network)
    each = [f"{name}: {shown(its)}, not {shown(other)}" for name, (its, other) in unlike.items()]
    return f"trained with {'; '.join(each)}" if each else ""


@contextmanager
def weights_errors(path: FilePath, expected: str, remedy: str) -> Iterator[None]:
    """What reading or building a network raises, as a `WeightsError` about the file at ``path``."""
    try:
        yield
    except DscsrError as error:
        raise WeightsError(error.expected, error.got, error.remedy, path) from error
    except Exception as error:  # of shapes that make no sense, or of somebody's constructor
        raise WeightsError(expected, f"others ({type(error).__name__}: {error})", remedy, path) from error


def arguments_of(
    architecture: Architecture, state_dict: StateDict, given: Given, said: Said | None, path: FilePath
) -> tuple[dict[str, Any], list[DscsrWarning]]:
    """Arguments of the network of ``state_dict`` at ``path``: as given, else as said, else as its shapes tell.

    Beside them, what is to be warned of once the network is there: what is assumed (`AssumedWarning`), and what is
    given while the file says otherwise.
    """
    parameters = inspect.signature(architecture.network).parameters
    if unknown := sorted(set(given.overrides) - set(parameters)):
        words = f"overrides among {', '.join(parameters)} for {architecture.name}"
        raise WeightsError(words, ", ".join(unknown), "Leave out what it does not take.")
    chosen, sections = dict(given.overrides), []
    if given.section is not None:
        sections = described(given.section)
        where, remedy = "network_g of the option file", "Name the one of their training."
        chosen |= _told(Said(sections[0], where), architecture, chosen, remedy)
    if said is not None:
        chosen |= _told(said, architecture, chosen, "Use that network's own code.")
    with weights_errors(path, f"all weights of {architecture.name}, in shapes that it has", "Ask for a whole file."):
        arguments = {**architecture.arguments(state_dict, chosen), **chosen}
    _check_shapes(sections, arguments, given, path)
    notes: list[DscsrWarning] = []
    unlike = {} if said is None else differences(Metadata(architecture.name, arguments), said.metadata)
    if said is not None and unlike:
        its, taken = (", ".join(f"{name} {shown(pair[i])}" for name, pair in unlike.items()) for i in (1, 0))
        notes.append(DscsrWarning(f"{said.path} says {its}; taken, as given: {taken}."))
    matters = {name: arguments.get(name, parameters[name].default) for name in architecture.not_in_shapes}
    if matters.get("norm") is False:
        del matters["norm"]  # the marker says so
    assumed = {name: value for name, value in matters.items() if name not in {*chosen, *unread(arguments)}}
    if assumed:
        values = ", ".join(f"{name} {shown(value)}" for name, value in assumed.items())
        notes.append(AssumedWarning(f"{path} does not say what its shapes cannot tell; assumed: {values}."))
    return arguments, notes


def _told(said: Said, architecture: Architecture, besides: Container[str], remedy: str) -> dict[str, Any]:
    """Of the arguments that shapes cannot tell, those that are said, but ``besides``; of others the weights speak."""
    (network, arguments), where = said
    theirs = architectures().get(network)
    if theirs is None or theirs.family != architecture.family:
        words = f"metadata of {architecture.name}, since the layers are its"
        raise WeightsError(words, short(network), remedy, where)
    told = {name: arguments[name] for name in architecture.known_by_file if name in arguments and name not in besides}
    for name, kind in kinds_of(architecture.network).items():
        if name in told and not kind.accepts(told[name]):
            got = short(told[name])
            raise WeightsError(f"`{name}` to be {kind.words}", got, "Give it yourself, as an override.", where)
    return told


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
