"""What the option check finds: one `Fault` per mistake, gathered in a `Report`, raised together as `OptionsError`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many

MOST_PRINTED = 30
Key = tuple[str, ...]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Fault:
    """One mistake in an option file.

    Attributes:
        file: The option file, as the user named it.
        key: Where in it, as ``datasets: train: dataroot_gt``; empty when the fault is the file itself.
        said: What would have been right, what stood there, and what to do, a did-you-mean included.
        line: Line of the key (or of the section that lacks it), 1-based; None when it is not known.
    """

    file: str
    key: str
    said: DscsrError
    line: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}  {self.key}".rstrip() + f"\n    {self.said}"


class OptionsError(DscsrError):
    """An option file cannot be run. Lists every fault that was found, not only the first.

    Attributes:
        faults: All of them, in the order of the file.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        shown = self.faults[:MOST_PRINTED]
        count = many(len(self.faults), "fault")
        lines = [f"{count} in {self.faults[0].file}:", *(f"{i}. {fault}" for i, fault in enumerate(shown, 1))]
        if len(self.faults) > len(shown):
            lines.append(f"… and {len(self.faults) - len(shown)} more.")
        super().__init__("\n".join(lines))


@dataclass
class Report:
    """Gathers faults of one file. The first fault of a key is kept: later stages only see its consequences."""

    file: str
    lines: dict[Key, int] = field(default_factory=dict)
    found: dict[Key, Fault] = field(default_factory=dict)
    notes: list[Fault] = field(default_factory=list)

    def add(self, key: Key, expected: str, got: object, remedy: str = "") -> None:
        """Record a fault at ``key``, unless this key or a section around it already has one."""
        self.add_error(key, DscsrError(expected, got, remedy))

    def add_error(self, key: Key, error: DscsrError) -> None:
        """As `add`, with what another room found wrong."""
        if not any(key[:n] in self.found for n in range(len(key) + 1)):
            self.found[key] = Fault(self.file, ": ".join(key), error, self._line(key))

    def add_raised(self, key: Key, expected: str, error: Exception) -> None:
        """As `add`, with what was raised for the user's values, perhaps by code of others."""
        if isinstance(error, DscsrError):
            self.add_error(key, error)
            return
        message = str(error).strip().rstrip(".") or type(error).__name__
        self.add(key, expected, f"others: {message}", "Correct them.")

    @contextmanager
    def catching(self, key: Key) -> Iterator[None]:
        """Record a `DscsrError` that is raised inside."""
        try:
            yield
        except DscsrError as error:
            self.add_error(key, error)

    def each(self, function: Callable[[Given], Made], values: Mapping[Key, Given]) -> list[Made] | None:
        """What ``function`` makes of the value of each key; None, and faults, where it raises a `DscsrError`."""
        made = []
        for key, value in values.items():
            with self.catching(key):
                made.append(function(value))
        return made if len(made) == len(values) else None

    def add_note(self, key: Key, line: int, *said: str) -> None:
        """Record a fault that says nothing about the value at ``key``: the value is still checked."""
        self.notes.append(Fault(self.file, ": ".join(key), DscsrError(*said), line))

    def has(self, *prefix: str) -> bool:
        """Whether anything at or below ``prefix`` is faulty: then what depends on it need not be tried."""
        return any(key[: len(prefix)] == prefix for key in self.found)

    def stop(self, expected: str, got: str, remedy: str) -> NoReturn:
        """Raise at once with a fault of the file as a whole: nothing else can be said about it."""
        raise OptionsError([Fault(self.file, "", DscsrError(expected, got, remedy))])

    def raise_if_any(self) -> None:
        """Raise `OptionsError` with everything recorded so far; do nothing when there is nothing."""
        faults = [*self.notes, *self.found.values()]
        if faults:
            raise OptionsError(sorted(faults, key=lambda fault: fault.line or 0))

    def _line(self, key: Key) -> int | None:
        for n in range(len(key), 0, -1):
            if key[:n] in self.lines:
                return self.lines[key[:n]]
        return None


def nearest(word: Any, known: Iterable[str]) -> str | None:
    """The known word closest to ``word`` (letter case does not count), or None when none is close."""
    by_lower = {name.lower(): name for name in sorted(known)}
    word = str(word).lower()
    beginning = [name for name in by_lower if len(word) > 1 and name.startswith(word)]  # L1 for L1Loss
    close = beginning or difflib.get_close_matches(word, by_lower, n=4, cutoff=0.6)
    if not close:
        return None

    def closeness(name: str) -> tuple[float, int]:
        same_letters = sum((Counter(word) & Counter(name)).values())  # EDRS is EDSR rather than EDVR
        return difflib.SequenceMatcher(None, name, word).ratio(), same_letters

    return by_lower[max(close, key=closeness)]


def did_you_mean(word: Any, known: Iterable[str], otherwise: str = "") -> str:
    """Ask whether the nearest known word was meant, or give ``otherwise`` when none is close."""
    close = nearest(word, known)
    return f"Did you mean `{close}`?" if close else otherwise
