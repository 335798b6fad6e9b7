"""Makes the random draws of any dataset a function of the sample, so that a resumed run draws what it would have."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from dscsr_model.data.draws import Draw


class KeyedDataset(Dataset[Any]):
    """A dataset whose generators are seeded anew for each sample: Python's and numpy's, which BasicSR's draw from.

    Args:
        dataset: Takes whole numbers.
        seed: Of the run.
    """

    takes_draws = True

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int | Draw) -> Any:
        draw = index if isinstance(index, Draw) else Draw(index)
        digest = hashlib.blake2b(struct.pack("<4q", self.seed, draw.epoch, draw.image, draw.repeat), digest_size=12)
        number, short = struct.unpack("<QI", digest.digest())
        random.seed(number)
        np.random.seed(short)  # noqa: NPY002 - the generator that BasicSR's datasets draw from
        if get_worker_info() is not None:  # in the main process torch's generator belongs to the network
            torch.manual_seed(number)
        return self.dataset[draw.image]
