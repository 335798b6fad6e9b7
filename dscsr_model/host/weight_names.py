"""Names of weights in option files: the files that they stand for take their places, before anything reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model.weights import find

Key = tuple[str, ...]


def put_files(
    options: Mapping[Any, Any], catching: Callable[[Key], AbstractContextManager[Any]] | None = None, *, is_train: bool
) -> None:
    """Put files in place of names, in the options themselves.

    Args:
        options: What an option file says.
        catching: Gives, for a key, what catches a `DscsrError` about its value. None: the value stays what it is, and
            the option check says what is wrong with it.
        is_train: Whether to train with it; else nobody reads a teacher.
    """
    for key, given, put in [*_weights(options, is_train)]:
        if isinstance(given, str):
            with catching(key) if catching is not None else suppress(DscsrError):
                if (file := find(given)) != Path(given).expanduser():
                    put(str(file))


def _weights(options: Mapping[Any, Any], is_train: bool) -> Iterator[tuple[Key, Any, Callable[[str], None]]]:
    """The keys that name weights, what they say, and how to say something else."""
    path = _section(options, "path")
    for name in path:
        if str(name).startswith("pretrain_network_"):
            yield ("path", str(name)), path[name], partial(path.__setitem__, name)
    lora, teacher = _section(options, "network_g", "lora"), _section(options, "teacher") if is_train else {}
    yield ("network_g", "lora", "weights"), lora.get("weights"), partial(lora.__setitem__, "weights")
    yield ("teacher", "weights"), teacher.get("weights"), partial(teacher.__setitem__, "weights")
    files = teacher["weights"] if isinstance(teacher.get("weights"), list) else []
    for number, file in enumerate(files):
        yield ("teacher", "weights", str(file)), file, partial(files.__setitem__, number)


def _section(options: Mapping[Any, Any], *key: str) -> dict[Any, Any]:
    found: Any = options
    for name in key:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
