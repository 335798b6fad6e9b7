"""Figures of a running training that BasicSR's log line and TensorBoard show."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from dscsr_model.training.ranks import together


def reduced(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of each loss over all ranks. Reads from the device and talks to the other ranks: only when asked to log.

    Args:
        losses: Scalars on one device; the same names in the same order on every rank.
    """
    if not losses:
        return {}
    values = torch.stack([loss.detach().float().mean() for loss in losses.values()])
    if together():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return dict(zip(losses, values.tolist(), strict=True))


class Throughput:
    """Images per second between two readings, all ranks together. The clock starts when the first step has ended."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._images = 0
        self._since: float | None = None

    def add(self, images: int) -> None:
        """Count the images of a step of this rank."""
        if self._since is None:
            self._since = time.perf_counter()
        else:
            self._images += images

    def read(self) -> float | None:
        """Images per second since the last reading, or None where no step was timed; starts anew."""
        now = time.perf_counter()
        rate = self._images * self._world_size / (now - self._since) if self._since and self._images else None
        self._images, self._since = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - start


def peak_memory_gib(device: torch.device) -> float:
    """The most memory in use so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
