"""How long calls take: warmed up, waited for, in turns, with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]

LEAST = 3
"""Runs that a median is made of at least, however long they take."""
progress = partial(tqdm, leave=False, disable=None, dynamic_ncols=True)
"""A bar that vanishes when all is done; none where there is no terminal."""


class Latency(NamedTuple):
    """Milliseconds of one call."""

    median_ms: float
    low_ms: float
    """First quartile: a quarter of the runs was faster."""
    high_ms: float
    """Third quartile."""
    mean_ms: float
    runs: int


def measure(calls: Mapping[Key, Call], *, device: torch.device, seconds: float = 2.0) -> dict[Key, Latency | Exception]:
    """Time several calls in turns, so that whatever else the machine does meets all alike.

    Each is warmed up for a quarter of ``seconds``, once at least. A turn runs each call once more unmeasured, then
    `LEAST` times; turns go on until each has had its ``seconds``.
    What a call raises while it is warmed up is its result.
    """
    warm = {key: _warm_up(calls[key], device, seconds / 4) for key in progress(list(calls), "warming up")}
    times: dict[Key, list[float]] = {key: [] for key, fault in warm.items() if fault is None}
    waiting = list(times)
    with progress(desc="timing") as bar:
        while waiting:
            for key in waiting:
                calls[key]()  # caches are another call's, and threads of ONNX Runtime may still be waiting for work
                times[key] += [milliseconds(calls[key], device) for _ in range(LEAST)]
                bar.update(LEAST)
            waiting = [key for key in waiting if sum(times[key]) < 1000 * seconds]
    return {key: fault or summarise(times[key]) for key, fault in warm.items()}


def milliseconds(call: Call, device: torch.device) -> float:
    """Of one run; on a GPU between events that are recorded on its stream, as NTIRE does."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def summarise(times: list[float]) -> Latency:
    """Of milliseconds, at least two."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(middle, low, high, statistics.fmean(times), len(times))


def _warm_up(call: Call, device: torch.device, seconds: float) -> Exception | None:
    """What it raised: what a machine cannot do is a result, too."""
    try:
        call()  # may compile, and choose algorithms: its time says nothing
        spent = 0.0
        while spent < 1000 * seconds:
            spent += milliseconds(call, device)
    except Exception as error:
        return error
    return None
