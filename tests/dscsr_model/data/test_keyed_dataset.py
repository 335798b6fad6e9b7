"""Draws that depend on the sample alone, whoever makes it and after whatever else."""

import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dscsr_model.data.keyed_dataset import KeyedDataset
from dscsr_model.data.sample_keys import SampleKey, takes_sample_keys


class Noise(Dataset):
    name = "noise"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, random.random(), np.random.rand()  # noqa: NPY002


def sample(seed=0, **draw):
    return KeyedDataset(Noise(), seed)[SampleKey(**{"image": 1, "epoch": 2, "position": 0, **draw})]


def test_the_same_sample_draws_the_same_numbers():
    first = sample()
    sample(image=3)
    assert sample() == first
    assert first[0] == 1


def test_every_part_of_the_key_counts():
    samples = [sample(), sample(image=2), sample(epoch=1), sample(position=1), sample(seed=1)]
    for drawn in (1, 2):
        assert len({each[drawn] for each in samples}) == 5


def test_torchs_generator_in_the_main_process_is_the_networks():
    state = torch.get_rng_state()
    sample()
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_side_by_side_make_what_each_makes_alone():
    """BasicSR's `prefetch_mode: cpu` reads in one, and that of the last epoch may not have ended."""

    class Slow(Noise):
        def __getitem__(self, index):
            drawn = super().__getitem__(index)
            time.sleep(0.002)  # the other thread's turn
            return *drawn, random.random()

    dataset, draws = (
        KeyedDataset(Slow(), 7),
        [SampleKey(image, 1, position) for position in range(5) for image in range(4)],
    )
    alone = [dataset[draw] for draw in draws]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(dataset.__getitem__, draws)) == alone


def test_workers_make_what_the_main_process_makes():
    dataset = KeyedDataset(Noise(), 7)
    draws = [SampleKey(image, 1, 0) for image in (2, 0, 3)]
    loaders = [DataLoader(dataset, batch_size=1, sampler=draws, num_workers=n) for n in (0, 2)]
    made = [[[float(value) for value in batch] for batch in loader] for loader in loaders]
    assert made[0] == made[1]
    assert len(dataset) == 4
    assert takes_sample_keys(dataset)


def test_a_bare_index_draws_from_the_generators_as_they_are():
    dataset = KeyedDataset(Noise(), 7)
    random.seed(3)
    expected = random.random()
    random.seed(3)
    assert dataset[1][:2] == (1, expected)
    assert dataset[1] != dataset[1]


def test_attributes_are_the_dataset_s_also_after_pickling():
    dataset = pickle.loads(pickle.dumps(KeyedDataset(Noise(), 7)))
    assert dataset.name == "noise"
    assert dataset.seed == 7
    assert not hasattr(dataset, "no_such_thing")
    assert not hasattr(dataset, "__getitems__")  # torch would ask for whole batches around the keys
