"""Makes the random draws of any dataset a function of the sample, so that a resumed run draws what it would have."""

from __future__ import annotations

import hashlib
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from dscsr_model.data.sample_keys import SampleKey


class KeyedDataset(Dataset[Any]):
    """A dataset whose generators, Python's, numpy's and torch's, are seeded anew for each sample.

    In the main process they are put back afterwards: there they belong to the network (dropout, CSD's negatives).
    A number is handed on, and drawn for as ever; so are attributes that are asked for.

    Args:
        dataset: Takes whole numbers.
        seed: Of the run.
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
        digest = hashlib.blake2b(key, digest_size=12)
        number, short = struct.unpack("<QI", digest.digest())
        with _seeded(number, short):
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
