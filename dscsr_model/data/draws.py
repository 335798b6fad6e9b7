"""What a sampler hands to a dataset that draws by key: not only which image, but in which epoch and for which time.

BasicSR's ``EnlargedSampler`` knows the epoch, its datasets don't; and with ``dataset_enlarge_ratio`` it hands out the
same index many times in an epoch. A dataset whose randomness is keyed needs all of it, in whatever process it runs and
however far the loader reads ahead, so it travels with the index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Draw(NamedTuple):
    """One sample to be made: of the image of this number, drawn for the ``repeat``-th time (from 0) in ``epoch``."""

    image: int
    epoch: int = 0
    repeat: int = 0


def draws(sampler: Any) -> Iterator[Draw]:
    """What a BasicSR ``EnlargedSampler`` iterates over, in its order, as draws.

    Args:
        sampler: Has ``dataset``, ``epoch``, ``rank``, ``num_replicas`` and ``total_size``.
    """
    generator = torch.Generator()
    generator.manual_seed(sampler.epoch)
    order = torch.randperm(sampler.total_size, generator=generator)[sampler.rank :: sampler.num_replicas]
    size = len(sampler.dataset)
    return (Draw(place % size, sampler.epoch, place // size) for place in order.tolist())


def takes_draws(dataset: Any) -> bool:
    """Whether a dataset asks for draws instead of bare indices."""
    return bool(getattr(dataset, "takes_draws", False))
