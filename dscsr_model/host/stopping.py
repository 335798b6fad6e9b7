"""SIGTERM and Ctrl-C: a run of our models makes its step, saves and says how to go on; a second one ends it at once."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dscsr_model.training.stopping import StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# `timeout` sends its signal twice, and torchrun passes a Ctrl-C on that the terminal has sent to its processes already:
# within so many seconds that is no second one.
_ECHO, _ECHO_OF_TORCHRUN = 0.2, 1.0
# A worker that got a SIGTERM serves so many seconds more: as long as others give a job to end.
_GRACE = 60


def end_well(model: Any, sampler: Any) -> None:
    """Let a model that is about to train listen to signals.

    It looks for one before each step, and where the loop begins an epoch: before workers start, which can take longer
    than a job is given to end.

    Args:
        model: One of ours.
        sampler: Of its training data.
    """
    set_epoch = sampler.set_epoch

    @functools.wraps(set_epoch)
    def wrapper(epoch: int) -> None:
        set_epoch(epoch)
        model.end_if_asked()

    sampler.set_epoch, model.sampler = wrapper, sampler
    echo = _ECHO_OF_TORCHRUN if model.opt["dist"] else _ECHO
    listen(model.stop, tell=model.opt["rank"] == 0, echo=echo)


def listen(stop: StopRequest, *, tell: bool, echo: float = _ECHO) -> None:
    """Note the first signal in ``stop``, and ``tell`` of it; let the second do what it does without us.

    Args:
        stop: Of the model.
        tell: Whether to say so on stderr.
        echo: What comes sooner, in seconds, is no second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python has handlers in the main thread only
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

    for number in SIGNALS:
        signal.signal(number, handle)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Afterwards signals do what they did before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def start_worker(initialize: Callable[[int], None] | None, worker: int) -> None:
    """In a loader's worker: leave Ctrl-C, which it gets as well, to the training, which still wants a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    if initialize is not None:
        initialize(worker)
