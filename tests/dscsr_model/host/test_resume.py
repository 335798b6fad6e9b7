"""What is put into BasicSR's train module: the whole checkpoint, the position in the epoch, keyed draws."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from dscsr_arch.errors import DscsrError
from dscsr_model.data.keyed_dataset import KeyedDataset
from dscsr_model.data.sample_keys import SampleKey
from dscsr_model.host import resume, train_log
from dscsr_model.host.patches import Patches
from dscsr_model.host.resume import position
from dscsr_model.training import checkpoints


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return int(index.image if isinstance(index, SampleKey) else index)


class Drawing(Images):
    takes_sample_keys = True


@pytest.fixture
def loop():
    """The names that BasicSR's train module looks up, after the installation."""
    namespace = {
        "load_resume_state": lambda opt: opt["path"].get("resume_state") and torch.load(opt["path"]["resume_state"]),
        "build_dataloader": lambda dataset, opt, sampler=None: DataLoader(dataset, batch_size=2, sampler=sampler),
    }
    resume.install(Patches(), namespace)
    return namespace


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Path:
    """Checkpoints 4 and 7 of a run with batches of 2 out of 6 images: iteration 7 is the first batch of epoch 2."""
    monkeypatch.chdir(tmp_path)
    for name in ("training_states", "models"):
        (tmp_path / "experiments/run" / name).mkdir(parents=True)
    for iteration, epoch in ((4, 1), (7, 2)):
        state = {"iter": iteration, "epoch": epoch, "manual_seed": 11}
        torch.save(state, tmp_path / f"experiments/run/training_states/{iteration}.state")
        torch.save({"params": {}}, tmp_path / f"experiments/run/models/net_g_{iteration}.pth")
    return tmp_path / "experiments/run"


def options(**changes):
    return {
        "name": "run", "model_type": "EfficientSRModel", "auto_resume": True, "rank": 0, "dist": False, "num_gpu": 0,
        "manual_seed": 3, "path": {},
        "datasets": {"train": {"batch_size_per_gpu": 2}}, "train": {"total_iter": 10}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("iteration", "epoch", "found", "told"),
    [(7, 2, (2, 2), ""), (8, 2, (2, 4), ""), (9, 2, (3, 0), ""), (9, 3, (3, 0), ""),
     (8, 1, (2, 4), "iteration 8, which was in epoch 1, is in epoch 2, after 2 of 3 batches"),
     (6, 4, (2, 0), "iteration 6, which was in epoch 4, is in epoch 2, after 0 of 3 batches")],
)  # fmt: skip
def test_the_position_is_that_of_the_iteration_whatever_the_batch_was_before(iteration, epoch, found, told, logged):
    """3 batches of 2 in an epoch of 7 samples."""
    state = {"epoch": epoch, "iter": iteration}
    assert position(7, 2, state) == found
    assert state["epoch"] == found[0]  # where BasicSR's loop begins
    assert any(told in line for line in logged()) if told else not logged()


@pytest.mark.parametrize("dataset", [Images(), Drawing()])
def test_what_was_seen_in_that_epoch_is_left_out_in_it_only(loop, experiment, dataset):
    def epochs(*numbers):
        sampler = DistributedSampler(dataset, 1, 0)
        loader = loop["build_dataloader"](dataset, {"phase": "train"}, sampler)
        assert len(loader) == 3
        found = []
        for epoch in numbers:
            sampler.set_epoch(epoch)
            found.append([batch.tolist() for batch in loader])
            assert [batch.tolist() for batch in loader] == found[-1]  # BasicSR's CUDAPrefetcher starts a loader twice
        return found

    assert loop["load_resume_state"](options(auto_resume=False)) is None
    whole = epochs(2, 3)
    loop["load_resume_state"](options())
    assert epochs(2, 3) == [whole[0][1:], whole[1]]


def test_stock_datasets_are_keyed_by_the_seed_of_the_run_for_training(loop, experiment):
    loop["load_resume_state"](options())
    build = loop["build_dataloader"]
    keyed = build(Images(), {"phase": "train"}).dataset
    assert isinstance(keyed, KeyedDataset)
    assert keyed.seed == 11  # of the checkpoint, not the one drawn at this start
    assert type(build(Drawing(), {"phase": "train"}).dataset) is Drawing
    assert type(build(Images(), {"phase": "val"}).dataset) is Images


def test_samples_and_the_loader_leave_the_generators_to_the_network(loop, experiment):
    """Also of a dataset that draws from all of them in the main process."""

    class Drawn(Images):
        def __getitem__(self, index):
            return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    loop["load_resume_state"](options())
    before = checkpoints.random_state()
    sampler = DistributedSampler(Drawn(), 1, 0)
    loader = loop["build_dataloader"](Drawn(), {"phase": "train"}, sampler)
    sampler.set_epoch(0)
    drawn = [[list(loader) for _ in range(2)], loader.dataset[SampleKey(0)]]
    assert str(drawn[0][0]) == str(drawn[0][1])
    assert len({*drawn[1]}) == 3
    assert str(checkpoints.random_state()) == str(before)


def test_a_seed_that_was_drawn_is_taken_over(loop, experiment, capsys):
    opt = options(rank=1)
    loop["load_resume_state"](opt)
    assert opt["manual_seed"] == 11
    assert torch.initial_seed() == 12
    assert capsys.readouterr().err == ""
    loop["load_resume_state"](options())
    assert capsys.readouterr().err.startswith("dscsr: `manual_seed` stays 11: ")


def test_the_newest_whole_checkpoint_is_loaded_and_the_broken_one_reported(loop, experiment, capsys):
    newest = experiment / "models/net_g_7.pth"
    newest.write_bytes(newest.read_bytes()[:-9])
    opt = options()
    assert loop["load_resume_state"](opt)["iter"] == 4
    assert opt["path"]["resume_state"] == "experiments/run/training_states/4.state"
    said = capsys.readouterr().err
    assert said.startswith("dscsr: Checkpoint 7 does not open and is passed over: ")
    assert "net_g_7.pth" in said
    assert loop["load_resume_state"](options(rank=1))["iter"] == 4
    assert capsys.readouterr().err == ""  # one rank says it


def test_no_checkpoint_opens(loop, experiment):
    for file in (experiment / "training_states").iterdir():
        file.write_bytes(b"not a state")
    message = r"Expected a whole checkpoint in experiments/run, but none of them opens\. Move the folder away"
    with pytest.raises(DscsrError, match=message):
        loop["load_resume_state"](options())


def test_fewer_iterations_than_were_made_are_refused_and_as_many_told(loop, experiment, capsys):
    with pytest.raises(
        DscsrError, match=r"`train: total_iter` to be more than .*training_states/7\.state, but got 6\."
    ):
        loop["load_resume_state"](options(train={"total_iter": 6}, manual_seed=11))
    assert loop["load_resume_state"](options(train={"total_iter": 7}, manual_seed=11))["iter"] == 7
    assert capsys.readouterr().err == "dscsr: this run has made its 7 iterations; a larger `total_iter` goes on.\n"


def test_without_checkpoints_and_without_auto_resume_training_starts_anew(loop, experiment):
    assert loop["load_resume_state"](options(auto_resume=False)) is None
    for file in (experiment / "training_states").iterdir():
        file.unlink()
    assert loop["load_resume_state"](options()) is None


def test_a_module_without_a_train_loop_is_let_be():
    for install in (resume.install, train_log.install):
        elsewhere = {"other": 1}
        install(Patches(), elsewhere)
        assert elsewhere == {"other": 1}
