"""A training that is asked to stop does so after a step, and all ranks after the same one."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from dscsr_model.training.ranks import together

# A rank looks at what all had been asked so many steps ago. On a GPU the answer has come by then: nothing waits.
_LAG = 2


class Stopped(SystemExit):
    """A signal has ended the training; the exit code is the shell's for it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


class StopRequest:
    """What a signal handler notes, and what the ranks have agreed on.

    Attributes:
        asked: The signal that this process got, or 0. The handler sets it.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._agreed = 0
        self._on_the_way: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    @property
    def agreed(self) -> int:
        """The signal that stops all ranks after the step that was just made, or 0."""
        return self._agreed if together() else self.asked

    def agree(self, signal_number: int | Tensor) -> None:
        """Note after a step what is the same on every rank: the largest signal that any of them got.

        Args:
            signal_number: A scalar on the device is read two steps later.
        """
        if isinstance(signal_number, Tensor) and signal_number.is_cuda:
            event = torch.cuda.Event()
            self._on_the_way.append((signal_number.to("cpu", non_blocking=True), event))
            event.record()
            if len(self._on_the_way) <= _LAG:
                return
            signal_number, event = self._on_the_way.popleft()
            event.synchronize()
        self._agreed = max(self._agreed, int(signal_number))
