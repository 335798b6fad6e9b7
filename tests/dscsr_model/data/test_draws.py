import pickle

import pytest

from dscsr_model.data.draws import Draw, draws, takes_draws
from dscsr_model.data.paired_crop_dataset import PairedCropDataset


@pytest.fixture
def sampler():
    return pytest.importorskip("basicsr.data.data_sampler").EnlargedSampler


def plain_order(sampler_class, *args, epoch):
    """What the sampler gives to a dataset that does not ask for draws."""
    sampler = sampler_class(*args)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("replicas", "ratio"), [(1, 1), (1, 10), (2, 3), (3, 1), (3, 0.5)])
def test_same_images_in_the_same_order(sampler, replicas, ratio):
    dataset = list("abcdefg")
    for epoch in (0, 4):
        every_draw = []
        for rank in range(replicas):
            of_rank = sampler(dataset, replicas, rank, ratio)
            of_rank.set_epoch(epoch)
            drawn = list(draws(of_rank))
            assert [draw.image for draw in drawn] == plain_order(sampler, dataset, replicas, rank, ratio, epoch=epoch)
            assert {draw.epoch for draw in drawn} == {epoch}
            assert len(drawn) == len(of_rank)
            every_draw += drawn
        assert len(set(every_draw)) == len(every_draw)  # none is drawn twice in an epoch


def test_number_of_ranks_changes_no_draw(sampler):
    dataset = list(range(12))
    alone = list(draws(sampler(dataset, 1, 0, 2)))
    shared = [list(draws(sampler(dataset, 2, rank, 2))) for rank in range(2)]
    assert alone == [draw for pair in zip(*shared, strict=True) for draw in pair]


def test_travels_between_processes():
    assert pickle.loads(pickle.dumps(Draw(3, 1, 2))) == Draw(3, 1, 2)


def test_who_takes_draws():
    assert takes_draws(PairedCropDataset)
    assert not takes_draws([1, 2])
