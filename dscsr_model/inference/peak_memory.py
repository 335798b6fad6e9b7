"""The most memory that one call holds at a time, counted where PyTorch allocates: the same in every run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes that ``call`` holds at its peak, beside what is there before: features, scratch room and result.

    On a GPU this is what its caching allocator counts (NTIRE's figure, less what was there before). On the CPU the
    allocations of PyTorch are listed by its profiler, those of oneDNN for its scratch room among them; resident memory
    would tell less, since the heap keeps and reuses what earlier calls gave back. ONNX Runtime allocates by itself
    and is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or else the profiler writes to the terminal
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        result = call()  # kept until the end: it is part of the peak
    del result
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return peak(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def peak(changes: Iterable[int]) -> int:
    """The most that is held, from bytes taken (positive) and given back (negative) in turn; nothing is held at first.

    What is given back without having been taken was there before, and does not count.
    """
    return max(accumulate(changes, lambda held, change: max(0, held + change), initial=0))
