"""What an option can be: its kind of value, and which values belong to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A type of value: what it is called in messages, which values belong to it, and the words if these are few."""

    words: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One known key.

    Attributes:
        kind: Its type.
        about: One line that says what it does.
        required: "" | "always" | "train" | "test": when BasicSR stops with a KeyError without it.
        null: Whether `~` is a value too (it then means "not given").
    """

    kind: Kind
    about: str
    required: str = ""
    null: bool = False


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can be
        return False


def _is_template(value: Any) -> bool:
    """Whether BasicSR's ``value.format(name)`` works and keeps the name."""
    return (
        isinstance(value, str) and value.replace("{}", "", 1).count("{") == value.count("}") - 1 == 0 and "{}" in value
    )


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()  # BasicSR's own options write `val_freq: !!float 5e3`


def one_of(*words: str) -> Kind:
    """One of a few words."""
    return Kind("one of " + ", ".join(f"`{word}`" for word in words), lambda value: value in words, words)


SECTION = Kind("a section (indented `key: value` lines)", lambda v: isinstance(v, dict))
TEXT = Kind("text", lambda v: isinstance(v, str) and v != "")
PATH = Kind("a path", lambda v: isinstance(v, str) and v != "")
TEMPLATE = Kind("text with `{}` for the name of the GT file, like `'{}x4'`", _is_template)
NAMES = Kind("a name or a list of names", lambda v: isinstance(v, (str, list)))
BOOL = Kind("true or false", lambda v: isinstance(v, bool))
COUNT = Kind("a whole number of at least 1", lambda v: _is_int(v) and v >= 1)
WORKERS = Kind("a whole number from 0 to 256", lambda v: _is_int(v) and 0 <= v <= 256)
NATURAL = Kind("a whole number of at least 0", lambda v: _is_int(v) and v >= 0)
SEED = Kind("a whole number between 0 and 4294967295", lambda v: _is_int(v) and 0 <= v < 2**32)
ITERATIONS = Kind("a whole number of iterations, at least 1", lambda v: _is_whole(v) and v >= 1)
WARMUP = Kind("a whole number of iterations, or -1 for none", lambda v: _is_whole(v) and v >= -1)
RATIO = Kind("a number above 0", lambda v: _is_number(v) and v > 0)
DECAY = Kind("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
NUMBER = Kind("a number", _is_number)
FILES = Kind(
    "a path or a list of paths",
    lambda v: (isinstance(v, str) and v != "") or (isinstance(v, list) and v != [] and all(map(PATH.accepts, v))),
)
CODE = Kind("a file or module, or a list of them", FILES.accepts)
NUMBERS = Kind("a list of numbers", lambda v: isinstance(v, list) and all(_is_number(n) for n in v))
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
COMPILE = Kind(
    "true, false or a mode of torch.compile", lambda v: isinstance(v, bool) or v in COMPILE_MODES, COMPILE_MODES
)
GPUS = Kind("`auto` or a whole number of at least 0", lambda v: v == "auto" or (_is_int(v) and v >= 0))
