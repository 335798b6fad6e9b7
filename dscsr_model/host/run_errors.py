"""Errors of BasicSR, and of the user's own code, that a run ends with: told without a traceback through the program.

The option check knows the keys and values of the types that it knows. What others make of theirs shows only when they
are built or run: an option that REDSDataset misses, a loss that cannot compare what a network gives.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model.files import REFUSED, for_the_user

_OURS = ("dscsr_arch", "dscsr_model")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def explained(error: Exception) -> DscsrError | None:
    """What to tell of an error that ended a run; None for a fault of ours, whose traceback is to be seen.

    Whose it is, the last of its frames tells that is neither Python's nor a library's.
    """
    if "DSCSR_TRACEBACK" in os.environ:
        return None
    if isinstance(error, OSError) and error.errno in REFUSED:
        return None  # the command line tells it
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        remedy = "Take smaller batches, patches or networks, `accumulate_steps`, or `val: tile`."
        return DscsrError("the run to fit into memory", _said(error), remedy)
    if re.search(r"DataLoader worker \(pid.*(is killed|exited unexpectedly)", str(error)):
        remedy = (
            "Memory may have been short (see `dmesg`): take a smaller `num_worker_per_gpu`. `--auto_resume` goes on."
        )
        return DscsrError("the reading processes to live as long as the run", _said(error), remedy)
    if "Expected to have finished reduction" in str(error):
        words = "losses that reach each trained parameter in each step, as several processes need it"
        return DscsrError(words, "some without a gradient", "Add a loss on the output; a small `loss_weight` will do.")
    inside: TracebackType | None = error.__traceback__
    last: TracebackType | None = None
    whose = ""
    while inside is not None:
        owner = _owner(inside)
        if owner:
            # The user's own code is shown from where the program first enters it.
            last = last if owner == whose == "theirs" else inside
            whose = owner
        inside = inside.tb_next
    if last is None or whose == "ours":
        return None
    if whose == "theirs":
        shown = "".join(traceback.format_exception(type(error), error, last, chain=False)).rstrip()
        return DscsrError(f"Expected your own code to run, but it raises an error:\n{shown}")
    place = f"{Path(last.tb_frame.f_code.co_filename).name}, line {last.tb_lineno}"
    return DscsrError(
        f"options that BasicSR's {place}, can use",
        _said(error),
        "Compare with option files of the types that you name; DSCSR_TRACEBACK=1 shows the whole way there.",
    )


def without_traceback(hook: Callable[..., Any]) -> Callable[..., Any]:
    """``sys.excepthook`` in a train script of others: what is meant for the user is told as `dscsr train` tells it."""

    @functools.wraps(hook)
    def wrapper(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if (told := for_the_user(error)) is None:
            hook(kind, error, where)
        else:
            print(f"dscsr: error: {told}", file=sys.stderr)

    return wrapper


def _owner(inside: TracebackType) -> str:
    package = str(inside.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    if package in _OURS or package == "basicsr":
        return "basicsr" if package == "basicsr" else "ours"
    file = inside.tb_frame.f_code.co_filename
    return "" if file.startswith((*_LIBRARIES, "<")) else "theirs"


def _said(error: Exception) -> str:
    """Type and message in one line; of an error in a reading process, which comes with its traceback, the last line."""
    lines = str(error).strip().splitlines() or [""]
    if "Original Traceback" in str(error):
        return lines[-1].rstrip(".")
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
