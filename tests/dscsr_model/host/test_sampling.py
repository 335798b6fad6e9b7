import dscsr_model
from dscsr_model.data.draws import Draw


class Plain:
    def __len__(self):
        return 3


class Keyed(Plain):
    takes_draws = True


def test_the_sampler_tells_the_epoch_to_datasets_that_ask_and_keeps_its_order():
    dscsr_model.register()
    dscsr_model.register()
    from basicsr.data.data_sampler import EnlargedSampler

    for rank in (0, 1):
        plain, keyed = (EnlargedSampler(kind(), 2, rank, 4) for kind in (Plain, Keyed))
        for epoch in (0, 5):
            plain.set_epoch(epoch)
            keyed.set_epoch(epoch)
            numbers, told = list(plain), list(keyed)
            assert all(isinstance(number, int) for number in numbers)
            assert [draw.image for draw in told] == numbers
            assert {draw.epoch for draw in told} == {epoch}
            assert len(set(told)) == len(told) == 6


def test_two_epochs_of_basicsr_s_own_sampler_differ_in_their_draws():
    dscsr_model.register()
    from basicsr.data.data_sampler import EnlargedSampler

    sampler = EnlargedSampler(Keyed(), 1, 0)
    first = set(sampler)
    sampler.set_epoch(1)
    assert first == {Draw(image, 0) for image in range(3)}
    assert set(sampler) == {Draw(image, 1) for image in range(3)}
