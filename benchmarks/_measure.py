"""What the benchmarks of the losses share: two ways timed in turn, and the extra peak memory of one way."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

MB = 1e6


def seconds_of(ways: dict[str, Callable[[], object]], steps: int, cuda: bool) -> dict[str, float]:
    """Median seconds of each way. They are run in turn, so that whatever else the machine does meets all alike."""
    seconds = {name: [] for name in ways}
    for index in range(steps + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if cuda:
                torch.cuda.synchronize()
            if index:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def in_own_process(script: str, *arguments: object) -> float:
    """The figure that ``script``, run with these arguments in a new process, prints as its last word."""
    command = [sys.executable, script, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def extra_peak_memory(small: Callable[[], object], step: Callable[[], object], cuda: bool) -> float:
    """Bytes that ``step`` needs at its peak beyond what is held before it.

    Args:
        small: A tiny form of the step: libraries and threads that the first use brings are not counted.
        step: What is measured.
        cuda: Count the memory of the GPU; else the resident memory of this process, which should do nothing else.
    """
    small()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in bytes on macOS
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def print_rows(ways: tuple[str, str], times: dict[str, float], peaks: dict[str, float]) -> None:
    """Time and extra peak memory of the plain way and ours, with their ratios."""
    plain, ours = ways
    print(f"{'':>10}  {plain:>10}  {ours:>10}  {'ratio':>6}")
    for label, unit, factor, figures in (("time", "ms", 1e3, times), ("extra peak", "MB", 1 / MB, peaks)):
        cells = "  ".join(f"{figures[way] * factor:7.1f} {unit}" for way in ways)
        print(f"{label:>10}  {cells}  {figures[plain] / figures[ours]:5.2f}x")
