"""Any sampler's indices become sample keys: in its own order, told apart by epoch and position."""

import pytest
import torch

import dscsr_model
from dscsr_model.data.keyed_sampler import KeyedSampler
from dscsr_model.data.sample_keys import SampleKey


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
