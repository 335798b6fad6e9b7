"""Runs a step in a process of its own: what it breaks or takes too long for is its own, what it has told is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dscsr_model.profiling.profile import reason

LINGER = 3.0
"""Seconds that a step may take longer than it has: it ends by itself where it can."""


def run_apart(step: Callable[[], Iterable[Any]], ends: float, log: Path, tell: Callable[[Any], None]) -> str | None:
    """Tell what a step yields while it runs; returns why it did not come to its end, if it did not.

    The process is forked: nothing is imported twice, and the parent must not have touched a GPU.

    Args:
        step: Makes the figures.
        ends: By `time.monotonic`: then the process is ended, with all that it has started.
        log: Where what it writes is added.
        tell: Called with each figure.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_apart, args=(step, log, sender))
    child.start()
    sender.close()
    fault: str | None = "the process was ended from outside"
    try:
        while True:
            if not receiver.poll(max(0.0, ends + LINGER - time.monotonic())):
                fault = "its share of the budget was used up"
                break
            kind, content = receiver.recv()
            if kind == "figure":
                tell(content)
                continue
            fault = content
            break
    except EOFError:
        pass  # killed, or it crashed
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # itself, and what it has left running
        child.kill()  # it may not have had a group yet
        child.join()
        receiver.close()
    return fault


def _apart(step: Callable[[], Iterable[Any]], log: Path, sender: Connection) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    vars(sys.modules["__main__"]).pop("__file__", None)  # what spawns processes would import it in each
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        for figure in step():
            sender.send(("figure", figure))
        sender.send(("end", None))
    except Exception as error:
        traceback.print_exc()
        sender.send(("end", reason(error)))
