"""Networks of an option file, built to be looked at: without memory where that is possible, and never without end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from dscsr_model.data.memory import free_memory
from dscsr_model.host.options_faults import Key, Report


def build_network(
    key: Key, section: Mapping[str, Any], network_class: Any, known: bool, report: Report
) -> nn.Module | None:
    """Build the network, without memory for its weights where it can be; None when that says nothing.

    Those that need memory are built if they are ``known``. Networks of ours do more than copy when weights are loaded
    (they take fused files), and are small: they get memory.
    """
    arguments = {str(name): value for name, value in section.items() if name != "type"}
    network, error = _try_on("meta", network_class, arguments)
    bytes_needed = sum(p.numel() * p.element_size() for p in network.parameters()) if network is not None else 0
    if bytes_needed > (free := free_memory(torch.device("cpu"))):
        got = f"weights of {bytes_needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        report.add(key, "a network that fits into memory", got, "Make it smaller.")
        return None
    ours = network_class.__module__.startswith("dscsr_arch.")
    says_nothing = not ours and (network is not None or not known)
    if says_nothing and not isinstance(error, _EndlessError):
        return network
    if not isinstance(error, _EndlessError):
        network, error = _try_on("cpu", network_class, arguments)  # some read values that `meta` does not have
    if error is not None:
        message = str(error).strip().rstrip(".") or type(error).__name__
        report.add(key, f"arguments that {section['type']} takes", f"its error: {message}", "Correct them.")
    return network


class _EndlessError(Exception):
    """A constructor that would go on for ever, as with a mistyped number of blocks."""


@contextmanager
def _few_modules(most: int = 100_000) -> Iterator[None]:
    count = 0

    def registered(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise _EndlessError(f"more than {most:,} layers")

    hook = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


def _try_on(device: str, network_class: Any, arguments: dict[str, Any]) -> tuple[nn.Module | None, Exception | None]:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device(device), _few_modules():
            warnings.simplefilter("ignore")  # training will show them
            network = network_class(**arguments)
    except Exception as exc:  # whatever a constructor raises
        return None, exc
    return (network if isinstance(network, nn.Module) else None), None
