"""Epochs of a training, through its stages, counted from the iteration alone."""

import itertools
from types import SimpleNamespace

import pytest
from torch.utils.data import BatchSampler, SequentialSampler
from training_runs import last_log, pipeline, write_options

from dscsr_arch.errors import DscsrError
from dscsr_model.data.keyed_samples import KeyedSampler
from dscsr_model.host.train_data import TrainEpochs
from dscsr_model.training.stages import stages_of


class Sampler(SequentialSampler):
    def set_epoch(self, epoch: int) -> None: ...


def loader(samples: int, batch: int):
    sampler = KeyedSampler(Sampler(range(samples)))
    return SimpleNamespace(batch_sampler=BatchSampler(sampler, batch, drop_last=True)), sampler


def read(epochs: TrainEpochs, batches, sampler, start: int):
    """All batches from an epoch on, as BasicSR's loop reads them: (epoch, number of patches, their size)."""
    for epoch in itertools.count(start):
        if epoch >= len(epochs):
            return
        sampler.sampler.set_epoch(epoch)
        epochs.begin(epoch)
        yield from ((epoch, tuple(batch)) for batch in batches)


@pytest.mark.parametrize("ends", [(4, 7), (3, 9), (1, 2), (7, 8)])
def test_a_resumed_training_reads_on_where_the_whole_one_would_have(ends):
    """Seven samples; batches of 2, 3 and 1 (of twice as many devices)."""
    entries = [{"until": ends[0], "gt_size": 8}, {"until": ends[1], "batch_size_per_gpu": 3}, {"batch_size_per_gpu": 1}]
    stages = stages_of({"total_iter": 20, "stages": entries}, {"batch_size_per_gpu": 2, "gt_size": 16})
    made, sampler = loader(7, 2)
    epochs = TrainEpochs(stages, made, 2)
    whole = list(read(epochs, made.batch_sampler, sampler, 0))[:20]
    assert len(whole) == 20
    for iteration, (_, batch) in enumerate(whole, start=1):
        stage = next(stage for stage in stages if iteration <= stage.until)
        assert (len(batch), batch[0].gt_size) == (stage.data["batch_size_per_gpu"], stage.gt_size)
        if iteration == stage.first:
            assert batch[0].position == 0
    for iteration in range(20):
        made, sampler = loader(7, 2)
        epochs = TrainEpochs(stages, made, 2)
        state = {"iter": iteration, "epoch": whole[iteration - 1][0] if iteration else 0}
        epochs.resume(state)
        assert list(read(epochs, made.batch_sampler, sampler, state["epoch"]))[: 20 - iteration] == whole[iteration:]


def test_an_epoch_without_a_batch():
    stages = stages_of(
        {"total_iter": 9, "stages": [{"until": 3, "batch_size_per_gpu": 4}, {}]}, {"batch_size_per_gpu": 2}
    )
    made, _ = loader(7, 4)  # two devices
    with pytest.raises(
        DscsrError, match=r"at least one batch, but got 7 samples for batches of 8\. Lower `batch_size_"
    ):
        TrainEpochs(stages, made, 2)


def test_a_run_makes_all_its_iterations(tmp_path):
    """Three samples in batches of two: BasicSR counts two batches in an epoch, and reads one."""
    write_options(tmp_path, **{"datasets:train:dataset_enlarge_ratio": 1, "train:total_iter": 9, "val:val_freq": 100})
    pipeline(tmp_path)
    assert "iter:       9" in last_log(tmp_path)
