"""What the steps share: where they run and for how long, what a figure is, and ways that are timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from dscsr_model.inference.receptive_field import peak_memory
from dscsr_model.profiling.latency import measure
from dscsr_model.profiling.profile import reason


@dataclass(frozen=True)
class Plan:
    """Where a step runs, and what it has."""

    device: torch.device
    smoke: bool
    """Tiny sizes: whether everything runs, not how fast."""
    assets: Path | None
    """Folder with bsds400, set5 and weights."""
    out: Path
    ends: float
    """When the step has to be done, by `time.monotonic`."""

    @property
    def left(self) -> float:
        """Seconds that the step has left."""
        return self.ends - time.monotonic()

    @property
    def seconds(self) -> float:
        """For the runs of one way."""
        return 0.0 if self.smoke else 0.5

    @property
    def steps(self) -> int:
        """Of a training that are timed as one: the host may run ahead of the GPU, as it does in a training."""
        return 5 if self.device.type == "cuda" else 1


class Figure(NamedTuple):
    """What was measured, or why it was not."""

    what: str
    way: str
    value: float | None = None
    unit: str = "ms"
    against: str = ""
    """What `ratio` compares with."""
    ratio: float | None = None
    """How many times as fast, or as little memory."""
    peak_mib: float | None = None
    note: str = ""
    quartiles: tuple[float, float] | None = None
    runs: int | None = None


def compared(
    plan: Plan,
    what: str,
    calls: Mapping[str, Callable[[], object]],
    against: Mapping[str, str] | None = None,
    *,
    notes: Mapping[str, str] | None = None,
    steps: int = 1,
) -> Iterator[Figure]:
    """Ways timed in turns, each beside another one.

    Args:
        plan: Of the step.
        what: All of them do.
        calls: The ways; each call does ``steps`` steps.
        against: What each is compared with: the first, if it says nothing of it.
        notes: Of ways.
        steps: See `calls`.
    """
    times = measure(calls, device=plan.device, seconds=plan.seconds)
    first = next(iter(calls))
    for way, found in times.items():
        if isinstance(found, Exception):
            yield Figure(what, way, note=reason(found))
            continue
        other = (against or {}).get(way, first)
        base = times.get(other)
        ratio = (
            None if base is None or isinstance(base, Exception) or other == way else base.median_ms / found.median_ms
        )
        yield Figure(
            what,
            way,
            found.median_ms / steps,
            against="" if ratio is None else other,
            ratio=ratio,
            peak_mib=peak_memory(calls[way], plan.device) / 2**20,
            note=(notes or {}).get(way, ""),
            quartiles=(found.low_ms / steps, found.high_ms / steps),
            runs=found.runs,
        )


def float32_is_float32() -> None:
    """No TF32, of ten bits, for convolutions and matrix products: what is compared computes in the same numbers."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def replayed(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A step as one CUDA graph: recorded once, then replayed with the same memory. On the CPU the step itself."""
    if device.type != "cuda":
        return step
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is chosen or taken at first is not recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
