"""What ends a training after a step, the same on all ranks: its time, SIGTERM, Ctrl-C; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch
from torch import Tensor

from dscsr_model.training.clock import TrainingClock
from dscsr_model.training.ranks import together

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# `timeout` sends its signal twice, and torchrun passes a Ctrl-C on that the terminal has sent to its processes already:
# within so many seconds that is no second one.
ECHO, ECHO_OF_TORCHRUN = 0.2, 1.0
# A worker that got a SIGTERM serves so many seconds more: as long as others give a job to end.
_GRACE = 60
# A rank looks at what all had been asked so many steps ago. On a GPU the answer has come by then: nothing waits.
_LAG = 2


class Stopped(SystemExit):
    """A signal has ended the training; the exit code is the shell's for it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


class StopRequest:
    """What a signal handler notes, what the clock says, and what the ranks have agreed on.

    Attributes:
        asked: The signal that this process got, or 0. The handler sets it.
        clock: Of this process.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.clock = TrainingClock()
        self._agreed = 0
        self._share = 0.0
        self._on_the_way: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    @property
    def agreed(self) -> int:
        """The signal that stops all ranks after the step that was just made, or 0."""
        return self._agreed if together() else self.asked

    @property
    def share(self) -> float:
        """Of the time that the training has, which is used: 1 or more ends it."""
        return self._share if together() else self.clock.share

    @property
    def mine(self) -> tuple[int, float]:
        """What this rank brings to the agreement: its signal, and the share of the time by its own clock."""
        return self.asked, self.clock.share

    def agree(self, largest: Tensor) -> None:
        """Note after a step what is the same on every rank.

        Args:
            largest: (2,) The largest values of `mine` among the ranks; on a GPU they are read two steps later.
        """
        if largest.is_cuda:
            event = torch.cuda.Event()
            self._on_the_way.append((largest.to("cpu", non_blocking=True), event))
            event.record()
            if len(self._on_the_way) <= _LAG:
                return
            largest, event = self._on_the_way.popleft()
            event.synchronize()
        signal_number, share = largest.tolist()
        self._agreed, self._share = max(self._agreed, int(signal_number)), max(self._share, share)

    def resume(self, seconds: float) -> None:
        """Go on where so many seconds are used, on every rank."""
        self.clock.set(seconds)
        self._share = self.clock.share


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
                line = f"dscsr: {name}: stopping after this step; again stops at once\n"
                with suppress(OSError):  # Ctrl-C has ended `| tee`, too
                    os.write(2, ("\n" * os.isatty(2) + line).encode())  # not behind a bar
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
