"""What is replaced in other people's modules and classes: for a while, or remembered so that it can be put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

_NOTHING = object()


class Patches:
    """Replacements of attributes and of dictionary entries, in the order in which they were made."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: object) -> None:
        """Replace an attribute of a module, class or object; an entry, where ``owner`` is a dictionary."""
        owner = vars(owner) if isinstance(owner, ModuleType) else owner
        entries = owner if isinstance(owner, dict) else vars(owner)
        self._before.append((owner, name, entries.get(name, _NOTHING)))
        _write(owner, name, value)

    def undo(self) -> None:
        """Put everything back, the last replacement first."""
        while self._before:
            _write(*self._before.pop())


def _write(owner: Any, name: str, value: object) -> None:
    if isinstance(owner, dict):
        if value is _NOTHING:
            owner.pop(name, None)
        else:
            owner[name] = value
    elif value is _NOTHING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


installed = Patches()
"""What registering replaces, for as long as the process lives."""


class Overlay:
    """An object seen through: the given names are replaced, every other one is its own."""

    def __init__(self, below: object, **names: object) -> None:
        vars(self).update(names, _below=below)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_below"], name)


@contextmanager
def replaced(owner: Any, **values: object) -> Iterator[None]:
    """Inside, attributes or entries of ``owner`` are others; see `Patches.set`. PyTorch itself is never touched."""
    patches = Patches()
    for name, value in values.items():
        patches.set(owner, name, value)
    try:
        yield
    finally:
        patches.undo()


def mentions(function: object, name: str) -> TypeGuard[FunctionType]:
    """Whether the function's own code uses the name. False for our wrappers, and where BasicSR has mended itself."""
    return isinstance(function, FunctionType) and name in function.__code__.co_names + function.__code__.co_consts


def gpu() -> bool:
    """Asked when a run begins, never at import: asking starts CUDA, which makes later forks unsafe."""
    import torch

    return torch.cuda.is_available()
