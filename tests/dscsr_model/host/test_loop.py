"""Whose run it is decides what the train loop meets: ours all that a `Run` does, a host's own nothing."""

import errno
import fcntl
import logging
import os
import sys
import warnings
from pathlib import Path

import filelock
import forks
import option_files
import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import experiment, log_of_its_own, pipeline, prepare_dsclora, weights_on_disk, write_options

import dscsr_model
from dscsr_arch.errors import BusyError, DscsrError, DscsrWarning
from dscsr_model import weights
from dscsr_model.data.keyed_samples import SampleKey
from dscsr_model.host import loop
from dscsr_model.host.patches import installed


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return int(index.image if isinstance(index, SampleKey) else index)


class Keyed(Images):
    takes_sample_keys = True


@pytest.fixture
def namespace():
    """The names that a train script looks up, without BasicSR's, and one that is left alone."""
    dscsr_model.register()
    names = {
        "load_resume_state": lambda opt: opt["path"].get("resume_state") and torch.load(opt["path"]["resume_state"]),
        "get_root_logger": lambda: logging.getLogger("basicsr"),
        "build_dataloader": lambda dataset, opt, sampler=None: DataLoader(dataset, batch_size=2, sampler=sampler),
        "build_model": map,
        "MessageLogger": map,
        "EnlargedSampler": map,
    }
    with loop.checked({}):
        yield names
    loop.leave()


def options(**changes):
    return {
        "name": "run", "model_type": "EfficientSRModel", "auto_resume": True, "rank": 0, "dist": False, "num_gpu": 0,
        "manual_seed": 3, "path": {}, "train": {"total_iter": 10}, "is_train": False, **changes,
    }  # fmt: skip


def changed_by(namespace, model):
    before = dict(namespace)
    loop.enter(namespace, options(model_type=model), None)
    return {name for name in before if namespace[name] is not before[name]}


# --- whose run it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["EfficientSRModel", "DistillationModel", "DSCLoRAModel", "CSDModel"])
def test_a_run_of_ours_ends_where_the_next_begins(namespace, model):
    before = dict(namespace), sys.excepthook, warnings.showwarning
    assert changed_by(namespace, model) == set(loop.Run.LOOP)
    namespace["get_root_logger"]()
    loop.leave()
    assert (namespace, sys.excepthook, warnings.showwarning) == before
    assert not logging.getLogger("basicsr").filters


def test_a_host_s_own_run_gets_sample_keys_through_and_nothing_else(namespace):
    hook = sys.excepthook
    assert changed_by(namespace, "SRModel") == {"build_dataloader"}
    assert sys.excepthook is hook
    for dataset, phase, kinds in ((Images(), "train", {int}), (Keyed(), "val", {int}), (Keyed(), "train", {SampleKey})):
        loader = namespace["build_dataloader"](dataset, {"phase": phase})
        assert loader.dataset is dataset
        assert {type(index) for batch in loader.batch_sampler for index in batch} == kinds
    del namespace["build_dataloader"]
    assert changed_by(namespace, "SRModel") == set()  # to test with


def test_a_module_without_a_train_loop_is_let_be(namespace):
    del namespace["MessageLogger"]
    assert changed_by(namespace, "EfficientSRModel") == set()


def test_stages_need_a_loop_whose_epochs_can_be_counted(namespace):
    with pytest.raises(
        DscsrError, match=r"whose epochs can be counted, for `train: stages`, but got one without `create_"
    ):
        loop.enter(namespace, options(train={"total_iter": 10, "stages": [{}]}), None)


def train_stock(folder: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """BasicSR's own train pipeline, model and data set; gives the weights and checks which files are there."""
    import basicsr.train

    folder.mkdir()
    monkeypatch.chdir(folder)
    options = option_files.training_options(option_files.make_data(Path("data")))
    options["datasets"]["train"]["dataset_enlarge_ratio"] = 2
    option_files.write_options(Path("opt.yml"), options)
    monkeypatch.setattr(sys, "argv", ["train.py", "-opt", "opt.yml"])
    basicsr.train.train_pipeline(str(folder))
    files = sorted(str(file.relative_to("experiments/tiny")) for file in Path("experiments/tiny").rglob("*.*"))
    assert [name for name in files if "train_tiny" not in name] == [
        "models/net_g_10.pth", "models/net_g_5.pth", "models/net_g_latest.pth", "opt.yml",
        "training_states/10.state", "training_states/5.state",
    ]  # fmt: skip
    return torch.load("experiments/tiny/models/net_g_latest.pth")["params"]


def test_installed_and_unused_is_not_there(tmp_path, monkeypatch):
    """Crops, flips and rotations of a stock run, and so its weights, are the same bits with the plugin and without."""
    dscsr_model.register()
    with_us = train_stock(tmp_path / "with", monkeypatch)
    installed.undo()
    try:
        without = train_stock(tmp_path / "without", monkeypatch)
    finally:
        dscsr_model.register()
    assert with_us.keys() == without.keys()
    assert all(torch.equal(with_us[name], without[name]) for name in without)


def script(folder: Path, *arguments: str) -> None:
    """BasicSR's train loop as scripts of others call it."""
    import basicsr.train

    with pytest.MonkeyPatch.context() as patch, log_of_its_own():
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", "-opt", "opt.yml", *arguments])
        basicsr.train.train_pipeline(str(folder))
        loop.leave()


def test_a_script_of_others_that_reads_keys_of_its_own_trains_the_same_network(tmp_path, monkeypatch):
    """From weights that it names, as well."""
    own = {"mine": {"a": 1}, "train:mine": 2, "datasets:train:mine": 3, "val:mine": 4}
    own |= {"path:pretrain_network_g": "base", "teacher": {"weights": ["teacher"]}}
    rows = {name: weights.Card(name, {"file": "any.pth"}) for name in ("base", "teacher")}
    monkeypatch.setattr(weights, "public", lambda: rows)
    monkeypatch.setenv("DSCSR_WEIGHTS", str(tmp_path / "dscsr"))
    found = []
    for folder, run, keys in ((tmp_path / "dscsr", pipeline, {}), (tmp_path / "script", script, own)):
        network = prepare_dsclora(folder, 4)
        write_options(folder, **{**network, **keys, "train:total_iter": 2})
        run(folder)
        found.append(weights_on_disk(folder))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_options_are_checked_in_a_script_of_others_before_it_writes(tmp_path):
    network = prepare_dsclora(tmp_path, 4)
    write_options(tmp_path, **{**network, "network_g": option_files.BASE, "teacher": {}, "train:pixel_opt": None})
    ranks = forks.ranks(lambda: script(tmp_path, "--launcher", "pytorch"), tmp_path)
    assert [rank.returncode for rank in ranks] == [1, 1]
    for said in ("faults in opt.yml", "Expected a network with LoRA, but got SPAN without", "teacher: weights"):
        assert [said in rank.stderr for rank in ranks] == [True, False]
    assert "Expected options without faults, but got some, which rank 0 tells" in ranks[1].stderr
    assert not experiment(tmp_path).exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DscsrError("a", "b"), "dscsr: error: Expected a, but got b.\n"),
        (OSError(errno.ENOSPC, "full", "x/log"), "dscsr: error: Expected room on the disk for x/log"),
        (KeyError("ours"), "Traceback"),
    ],
)
def test_a_script_of_others_ends_with_our_message_in_a_run_of_ours(namespace, capsys, error, told):
    """As `dscsr train` does; a fault of ours keeps its traceback."""
    changed_by(namespace, "EfficientSRModel")
    try:
        raise error
    except type(error):
        sys.excepthook(*sys.exc_info())
    said = capsys.readouterr().err
    assert told in said  # behind `[rank0]: `, if an earlier test of this process has been a rank
    assert ("Traceback" in said) == (told == "Traceback")


def test_a_warning_of_ours_is_a_line_of_the_log(namespace, logged):
    changed_by(namespace, "EfficientSRModel")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Mind this.", DscsrWarning, stacklevel=1)
    assert set(logged()) == {"Mind this."}  # twice, if nobody has set BasicSR's logger up before


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """An experiment with checkpoints 4 and 7, with batches of 2 out of 6 images: 7 is the first batch of epoch 2."""
    monkeypatch.chdir(tmp_path)
    for name in ("training_states", "models"):
        (tmp_path / "experiments/run" / name).mkdir(parents=True)
    for iteration, epoch in ((4, 1), (7, 2)):
        state = {"iter": iteration, "epoch": epoch, "manual_seed": 11}
        torch.save(state, tmp_path / f"experiments/run/training_states/{iteration}.state")
        torch.save({"params": {}}, tmp_path / f"experiments/run/models/net_g_{iteration}.pth")
    return tmp_path / "experiments/run"


def resumed(namespace, **changes):
    """The state that a run of ours resumes from, its `build_dataloader`, its options."""
    names, opt = dict(namespace), options(**changes)
    loop.enter(names, opt, None)
    return names["load_resume_state"](opt), names["build_dataloader"], opt


def test_a_seed_that_was_drawn_is_taken_over(namespace, checkpoint, capsys):
    _, _, opt = resumed(namespace, rank=1)
    assert opt["manual_seed"] == 11
    assert torch.initial_seed() == 12
    assert capsys.readouterr().err == ""
    resumed(namespace)
    assert capsys.readouterr().err.startswith("dscsr: `manual_seed` stays 11: ")


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ("training_states/7.state", "does not open and is passed over: Expected a"),
        ("models/net_g_7.pth", "does not open and is passed over: Expected a"),
        ("models/net_d_7.pth", "does not open and is passed over: Expected a"),
        ("models/net_g_7.pth", "has a training state but no network in experiments/run/models"),
    ],
)
def test_the_newest_whole_checkpoint_is_loaded_and_a_broken_one_reported(namespace, checkpoint, capsys, damaged, told):
    file = checkpoint / damaged
    if "no network" in told:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-50] if file.exists() else b"")
    state, _, opt = resumed(namespace, manual_seed=11)
    assert state["iter"] == 4
    assert opt["path"]["resume_state"] == "experiments/run/training_states/4.state"
    said = capsys.readouterr().err
    assert said.startswith(f"dscsr: Checkpoint 7 {told}")
    assert damaged in said or "no network" in told
    assert said.count("\n") == 1
    assert resumed(namespace, rank=1)[0]["iter"] == 4
    assert capsys.readouterr().err == ""  # one rank says it


def test_what_cannot_be_resumed(namespace, checkpoint, capsys):
    with pytest.raises(
        DscsrError, match=r"`train: total_iter` to be more than .*training_states/7\.state, but got 6\."
    ):
        resumed(namespace, train={"total_iter": 6})
    assert resumed(namespace, train={"total_iter": 7}, manual_seed=11)[0]["iter"] == 7
    assert capsys.readouterr().err == "dscsr: this run is at its end, iteration 7; a larger `total_iter` goes on.\n"
    for file in (checkpoint / "training_states").iterdir():
        file.write_bytes(b"not a state")
    message = r"Expected a whole checkpoint in experiments/run, but got none that opens\. Move the folder away"
    with pytest.raises(DscsrError, match=message):
        resumed(namespace)
    for file in (checkpoint / "training_states").iterdir():
        file.unlink()
    assert resumed(namespace)[0] is None


# --- one training at a time in an experiment ----------------------------------------------------------------------


def test_a_second_training_of_the_same_name_is_refused_and_the_first_ones_folder_stays(tmp_path, namespace, capsys):
    write_options(tmp_path, **{"train:total_iter": 1, "logger:save_checkpoint_freq": 1, "val:val_freq": 100})
    (experiment(tmp_path) / "models").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "experiments/.tiny.lock"):  # as the first one, of whatever process, holds it
        for arguments in ([], ["--auto_resume"]):
            with pytest.raises(RuntimeError, match="exit code 1"):
                pipeline(tmp_path, *arguments)
            said = capsys.readouterr().err.strip().splitlines()
            assert said[-1].startswith(f"dscsr: error: Expected no other training in {experiment(tmp_path)}, but")
        assert [folder.name for folder in (tmp_path / "experiments").iterdir() if folder.is_dir()] == ["tiny"]
        hook = sys.excepthook
        with pytest.raises(BusyError):  # in a script of others, too, with the message alone
            loop.enter(namespace, options(is_train=True, path={"experiments_root": str(experiment(tmp_path))}), None)
        assert sys.excepthook is not hook
    pipeline(tmp_path)  # which BasicSR begins by archiving what is there
    assert len(list((tmp_path / "experiments").glob("tiny_archived_*"))) == 1
    pipeline(tmp_path, "--auto_resume")  # the run before has given it back


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_a_run_goes_on_and_says_so(namespace, tmp_path, monkeypatch, capsys, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    root = tmp_path / "experiments/run"
    for _ in range(2):  # nothing stays behind that would keep a run away which goes on after a kill
        loop.enter(dict(namespace), options(is_train=True, path={"experiments_root": str(root)}), None)
        loop.leave()
        said = capsys.readouterr().err
        assert said.startswith("dscsr: a second training named run would not be noticed: the file system of ")
        assert os.strerror(code) in said
