"""Samples that depend on their keys alone, whoever makes them and after whatever else; and the keys."""

import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import dscsr_model
from dscsr_model.data.keyed_samples import KeyedDataset, KeyedSampler, SampleKey, takes_sample_keys


class Noise(Dataset):
    name = "noise"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, random.random(), np.random.rand()  # noqa: NPY002


def sample(seed=0, **key):
    return KeyedDataset(Noise(), seed)[SampleKey(**{"image": 1, "epoch": 2, "position": 0, **key})]


def test_every_part_of_the_key_counts():
    samples = [sample(), sample(image=2), sample(epoch=1), sample(position=1), sample(seed=1)]
    for drawn in (1, 2):
        assert len({each[drawn] for each in samples}) == 5


def test_threads_side_by_side_make_what_each_makes_alone():
    """BasicSR's `prefetch_mode: cpu` reads in one, and that of the last epoch may not have ended."""

    class Slow(Noise):
        def __getitem__(self, index):
            drawn = super().__getitem__(index)
            time.sleep(0.002)  # the other thread's turn
            return *drawn, random.random()

    dataset = KeyedDataset(Slow(), 7)
    keys = [SampleKey(image, 1, position) for position in range(5) for image in range(4)]
    alone = [dataset[key] for key in keys]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(dataset.__getitem__, keys)) == alone


def test_workers_make_what_the_main_process_makes():
    dataset = KeyedDataset(Noise(), 7)
    keys = [SampleKey(image, 1, 0) for image in (2, 0, 3)]
    loaders = [DataLoader(dataset, batch_size=1, sampler=keys, num_workers=n) for n in (0, 2)]
    made = [[[float(value) for value in batch] for batch in loader] for loader in loaders]
    assert made[0] == made[1]
    assert len(dataset) == 4
    assert takes_sample_keys(dataset)


def test_a_number_draws_from_the_generators_as_they_are():
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


@pytest.fixture
def enlarged():
    dscsr_model.register()
    from basicsr.data.data_sampler import EnlargedSampler

    return EnlargedSampler


def keys_of(sampler, epoch, seen=0):
    sampler = KeyedSampler(sampler)
    sampler.resumed_epoch, sampler.seen = 8, seen
    sampler.sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ratio", [1, 10, 0.5])
def test_basicsrs_sampler_in_its_order_whatever_the_number_of_ranks(enlarged, ratio):
    plain = enlarged(range(6), 1, 0, ratio)
    plain.set_epoch(4)
    alone = keys_of(enlarged(range(6), 1, 0, ratio), 4)
    assert [key.image for key in alone] == list(plain)
    assert {key.epoch for key in alone} == {4}
    assert len(set(alone)) == len(alone) == len(plain)
    shared = [keys_of(enlarged(range(6), 3, rank, ratio), 4) for rank in range(3)]
    assert alone == [key for each in zip(*shared, strict=True) for key in each]


class Backwards:
    """A host's own sampler, which keeps the epoch to itself and hands out what it likes."""

    def __init__(self, *given):
        self.given = given

    def set_epoch(self, number):
        self._number = number

    def __len__(self):
        return len(self.given)

    def __iter__(self):
        return reversed(self.given)


def test_a_host_s_own_order_is_asked_and_its_epoch_overheard():
    sampler = Backwards(0, torch.tensor(1), (2, "as it is"))
    assert keys_of(sampler, 7, seen=2) == [(2, "as it is"), SampleKey(1, 7, 1), SampleKey(0, 7, 2)]
    assert sampler._number == 7
    assert keys_of(sampler, 8, seen=2) == [SampleKey(0, 8, 2)]


def test_where_nobody_tells_the_epoch_rounds_are_counted():
    sampler = KeyedSampler([3, 1])
    sampler.resumed_epoch, sampler.seen = 0, 1  # nothing is left out: which epoch it was is not known
    assert [list(sampler), list(sampler)] == [
        [SampleKey(3, 0), SampleKey(1, 0, 1)],
        [SampleKey(3, 1), SampleKey(1, 1, 1)],
    ]
