"""SIGTERM and Ctrl-C: a training makes its step, saves and says how to go on; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dscsr_model.training.stopping import StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# `timeout` sends its signal twice, and torchrun passes a Ctrl-C on that the terminal has sent to its processes already:
# within so many seconds that is no second one.
ECHO, ECHO_OF_TORCHRUN = 0.2, 1.0
# A worker that got a SIGTERM serves so many seconds more: as long as others give a job to end.
_GRACE = 60


@contextmanager
def noted_in(stop: StopRequest, *, tell: bool, echo: float = ECHO) -> Iterator[None]:
    """While the block runs, note the first signal in ``stop``; the second does what it does without us.

    Args:
        stop: Of the model that is trained.
        tell: Whether to say so on stderr.
        echo: What comes sooner, in seconds, is no second signal.
    """
    process, first = os.getpid(), float("-inf")

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != process:
            return  # forked from it, and not yet `start_worker`'s
        if not stop.asked:
            stop.asked, first = number, time.monotonic()
            if tell:  # not by print, which may be what was interrupted
                name = signal.Signals(number).name
                with suppress(OSError):  # Ctrl-C has ended `| tee`, too
                    os.write(2, f"dscsr: {name}: stopping after this step; again stops at once\n".encode())
        elif time.monotonic() - first > echo:
            signal.signal(number, signal.SIG_DFL)
            os.kill(process, number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python has handlers in the main thread only
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_worker(initialize: Callable[[int], None] | None, worker: int) -> None:
    """In a loader's worker: leave Ctrl-C, which it gets as well, to the training, which still wants a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    if initialize is not None:
        initialize(worker)
