"""Any sampler's indices become draws: in its own order, told apart by epoch and position."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import dscsr_model
from dscsr_model.data.sample_keys import SampleKey
from dscsr_model.host import resume
from dscsr_model.host.patches import Patches
from dscsr_model.host.sampling import DrawSampler, handing_out_draws


class Images(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, torch.rand(())


class Drawing(Images):
    takes_sample_keys = True


@pytest.fixture
def enlarged():
    dscsr_model.register()
    from basicsr.data.data_sampler import EnlargedSampler

    return EnlargedSampler


def draws_of(sampler, epoch, seen=0):
    sampler = DrawSampler(sampler)
    sampler.resumed_epoch, sampler.seen = 8, seen
    sampler.sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("ratio", [1, 10, 0.5])
def test_basicsrs_sampler_in_its_order_whatever_the_number_of_ranks(enlarged, ratio):
    plain = enlarged(Images(), 1, 0, ratio)
    plain.set_epoch(4)
    alone = draws_of(enlarged(Images(), 1, 0, ratio), 4)
    assert [draw.image for draw in alone] == list(plain)
    assert {draw.epoch for draw in alone} == {4}
    assert len(set(alone)) == len(alone) == len(plain)
    shared = [draws_of(enlarged(Images(), 3, rank, ratio), 4) for rank in range(3)]
    assert alone == [draw for each in zip(*shared, strict=True) for draw in each]


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
    assert draws_of(sampler, 7, seen=2) == [(2, "as it is"), SampleKey(1, 7, 1), SampleKey(0, 7, 2)]
    assert sampler._number == 7
    assert draws_of(sampler, 8, seen=2) == [SampleKey(0, 8, 2)]


class Counting(list):
    """Has an epoch, but nobody tells it one."""

    epoch = 0


def test_where_nobody_tells_the_epoch_rounds_are_counted():
    sampler = DrawSampler(Counting([3, 1]))
    sampler.resumed_epoch, sampler.seen = 0, 1  # nothing is left out: which epoch it was is not known
    assert [list(sampler), list(sampler)] == [
        [SampleKey(3, 0), SampleKey(1, 0, 1)],
        [SampleKey(3, 1), SampleKey(1, 1, 1)],
    ]


def build_dataloader(dataset, dataset_opt, sampler=None):
    return DataLoader(dataset, batch_size=2, sampler=sampler, shuffle=sampler is None)


@pytest.mark.parametrize("sampler", [None, Backwards(0, 1, 2, 3)])
def test_another_s_dataset_under_another_s_model_gets_numbers(sampler):
    wrapped = handing_out_draws(build_dataloader)
    torch.manual_seed(5)
    plain = list(build_dataloader(Images(), {"phase": "train"}, sampler))
    torch.manual_seed(5)
    loader = wrapped(Images(), {"phase": "train"}, sampler)
    assert str(list(loader)) == str(plain)
    assert type(loader.dataset) is Images
    assert type(loader.batch_sampler.sampler) is type(loader.sampler)


@pytest.mark.parametrize("sampler", [None, Backwards(0, 1, 2, 3, 4, 5)])
def test_a_dataset_that_takes_sample_keys_gets_them_in_training_only(sampler):
    wrapped = handing_out_draws(build_dataloader)
    collate = Drawing.__getitem__
    seen = []
    dataset = Drawing()
    Drawing.__getitem__ = lambda self, index: seen.append(index) or 0
    try:
        for phase in ("train", "val"):
            loader = wrapped(dataset, {"phase": phase}, sampler)
            for _ in loader:
                pass
            assert len(loader) == 3
    finally:
        Drawing.__getitem__ = collate
    assert {type(index) for index in seen[:6]} == {SampleKey}
    assert {type(index) for index in seen[6:]} == {int}
    assert sorted(draw.position for draw in seen[:6]) == list(range(6))


def test_under_any_sampler_a_run_of_ours_draws_anew_in_every_epoch_and_the_same_when_repeated(enlarged):
    """The augmentation of BasicSR's datasets comes from Python's and numpy's generators, here numpy's."""

    class Noise(Images):
        def __getitem__(self, index):
            return np.random.rand()  # noqa: NPY002

    def epochs(sampler, *numbers):
        namespace = {"load_resume_state": len, "build_dataloader": build_dataloader}
        resume.install(Patches(), namespace)
        loader = namespace["build_dataloader"](Noise(), {"phase": "train"}, sampler)
        found = []
        for number in numbers:
            sampler.set_epoch(number)
            found.append([float(value) for batch in loader for value in batch])
        return found

    for sampler in (enlarged(Images(), 1, 0), Backwards(0, 1, 2, 3)):
        one, two = epochs(sampler, 1, 2)
        assert set(one).isdisjoint(two)
        np.random.seed(99)  # noqa: NPY002 - whatever was drawn before
        assert epochs(sampler, 2) == [two]
