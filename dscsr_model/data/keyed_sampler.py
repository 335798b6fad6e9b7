"""Lets any sampler tell a dataset more than a number: epoch and position too (see `sample_keys`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import distributed
from torch.utils.data import Sampler

from dscsr_model.data.sample_keys import SampleKey


class KeyedSampler(Sampler[Any]):
    """The indices of another sampler, in that one's own order, as sample keys.

    The train loop goes on talking to the other sampler, so its ``set_epoch`` is listened to. Where nobody tells the
    epoch, the rounds through the sampler are counted.

    Args:
        sampler: Gives whole numbers; whatever else it gives is handed on as it is.

    Attributes:
        resumed_epoch: The epoch in which the first ``seen`` samples are left out.
        on_epoch: Called with each epoch that is told.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.resumed_epoch, self.seen = -1, 0
        self.rounds = 0
        self.epoch: int | None = None
        self.on_epoch: Callable[[int], None] = lambda epoch: None
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:

            @functools.wraps(set_epoch)
            def listen(epoch: int) -> None:
                self.epoch = epoch
                set_epoch(epoch)
                self.on_epoch(epoch)

            sampler.set_epoch = listen

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        epoch, begin = self.rounds, 0
        if self.epoch is None:
            self.rounds += 1
        else:
            epoch, begin = self.epoch, self.seen if self.epoch == self.resumed_epoch else 0
        rank, ranks = _rank_of(self.sampler)
        for number, index in islice(enumerate(self.sampler), begin, None):
            # Ranks take every n-th sample of one order: the position in it does not depend on how many there are.
            yield SampleKey(int(index), epoch, number * ranks + rank) if hasattr(index, "__index__") else index


def _rank_of(sampler: Any) -> tuple[int, int]:
    if hasattr(sampler, "rank") and hasattr(sampler, "num_replicas"):
        return sampler.rank, sampler.num_replicas
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
