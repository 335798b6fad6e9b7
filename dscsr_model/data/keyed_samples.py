"""Samples whose randomness is a function of the sample, so that a resumed run draws what it would have drawn.

BasicSR's samplers know the epoch, its datasets don't; and with ``dataset_enlarge_ratio`` the same index comes many
times in an epoch. So all of it travels with the index, whatever process runs and however far a loader reads ahead.
"""

from __future__ import annotations

import functools
import hashlib
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Dataset, Sampler, get_worker_info


class SampleKey(NamedTuple):
    """One sample to be made: of the image of this number, at this position in the order of an epoch (of all ranks).

    Its patch is as large as the data set's options say, unless ``gt_size`` says otherwise: for nothing is drawn by it.
    """

    image: int
    epoch: int = 0
    position: int = 0
    gt_size: int | None = None


def takes_sample_keys(dataset: Any) -> bool:
    """Whether a dataset asks for keys instead of numbers."""
    return bool(getattr(dataset, "takes_sample_keys", False))


class KeyedSampler(Sampler[Any]):
    """The indices of another sampler, in that one's own order, as sample keys; what is no number is handed on.

    The train loop goes on talking to the other sampler, so its ``set_epoch`` is listened to. Where nobody tells the
    epoch, the rounds through the sampler are counted.

    Attributes:
        resumed_epoch: The epoch in which the first ``seen`` samples are left out.
        end: So many samples of an epoch are all, if it is a number.
        gt_size: Of the keys.
        on_epoch: Called with each epoch that is told.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.resumed_epoch, self.seen = -1, 0
        self.end: int | None = None
        self.gt_size: int | None = None
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
        gt_size, (rank, ranks) = self.gt_size, _rank_of(self.sampler)
        for number, index in islice(enumerate(self.sampler), begin, self.end):
            # Ranks take every n-th sample of one order: the position in it does not depend on how many there are.
            position = number * ranks + rank
            yield SampleKey(int(index), epoch, position, gt_size) if hasattr(index, "__index__") else index


def _rank_of(sampler: Any) -> tuple[int, int]:
    if hasattr(sampler, "rank") and hasattr(sampler, "num_replicas"):
        return sampler.rank, sampler.num_replicas
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class KeyedDataset(Dataset[Any]):
    """A dataset whose generators, Python's, numpy's and torch's, are seeded anew for each sample.

    In the main process they are put back afterwards: there they belong to the network (dropout, CSD's negatives).
    A number is handed on, and drawn for as ever; so are attributes that are asked for.
    """

    takes_sample_keys = True

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Not what Python asks for by itself: a `__getitems__` of the dataset would be called around the keys, and
        # nothing is there yet when a worker unpickles.
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, SampleKey):
            return self.dataset[index]
        key = struct.pack("<4q", self.seed, index.epoch, index.image, index.position)
        number, short = struct.unpack("<QI", hashlib.blake2b(key, digest_size=12).digest())
        with _seeded(number, short):
            opt = getattr(self.dataset, "opt", {})
            if index.gt_size not in (None, opt.get("gt_size")):  # BasicSR's datasets read it with each sample
                self.dataset.opt = {**opt, "gt_size": index.gt_size}  # type: ignore[attr-defined]
            return self.dataset[index.image]


GENERATORS = threading.RLock()
"""Held while this process's generators are a sample's: BasicSR's ``prefetch_mode: cpu`` reads in threads beside the
network, of which that of an epoch may begin before the last one has ended."""


@contextmanager
def _seeded(number: int, short: int) -> Iterator[None]:
    if get_worker_info() is not None:  # a process whose generators nobody else needs
        _seed(number, short, with_torch=True)
        yield
        return
    # A loader's thread beside the network must leave torch's generator to it.
    with_torch = threading.current_thread() is threading.main_thread()
    with GENERATORS:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - BasicSR's draw from it
        _seed(number, short, with_torch)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            if with_torch:
                torch.set_rng_state(before[2])


def _seed(number: int, short: int, with_torch: bool) -> None:
    random.seed(number)
    np.random.seed(short)  # noqa: NPY002
    if with_torch:
        torch.default_generator.manual_seed(number)  # the CPU's alone: on a GPU the network draws
