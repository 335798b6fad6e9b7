"""Whose run it is decides what the train loop meets: ours all that we add, a host's own nothing."""

import errno
import sys
import warnings
from pathlib import Path

import option_files
import pytest
import torch

import dscsr_model
from dscsr_arch.errors import DscsrError, DscsrWarning
from dscsr_model.host import loop
from dscsr_model.host.patches import installed

OURS = {"load_resume_state", "build_dataloader", "MessageLogger", "build_model", "create_train_val_dataloader"}


@pytest.fixture
def namespace():
    """What a train script has at hand, without BasicSR's."""
    dscsr_model.register()
    yield dict.fromkeys([*OURS, "EnlargedSampler", "build_dataset"], map)
    loop.leave()


def changed_by(namespace, model):
    before = dict(namespace)
    loop.enter(namespace, {"model_type": model, "manual_seed": 0, "rank": 0, "is_train": False}, None)
    return {name for name in before if namespace[name] is not before[name]}


@pytest.mark.parametrize("model", ["EfficientSRModel", "DistillationModel", "DSCLoRAModel", "CSDModel"])
def test_a_run_of_ours_ends_where_the_next_begins(namespace, model):
    before = dict(namespace)
    assert changed_by(namespace, model) == OURS
    loop.leave()
    assert namespace == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DscsrError("Expected a, but got b."), "dscsr: error: Expected a, but got b.\n"),
        (OSError(errno.ENOSPC, "full", "x/log"), "dscsr: error: Expected room on the disk for x/log"),
        (KeyError("ours"), "Traceback"),
    ],
)
def test_a_script_of_others_ends_with_our_message_in_a_run_of_ours(namespace, capsys, error, told):
    """As `dscsr train` does; a fault of ours keeps its traceback."""
    before = sys.excepthook
    changed_by(namespace, "SRModel")
    assert sys.excepthook is before
    changed_by(namespace, "EfficientSRModel")
    try:
        raise error
    except type(error):
        sys.excepthook(*sys.exc_info())
    said = capsys.readouterr().err
    assert told in said  # behind `[rank0]: `, if an earlier test of this process has been a rank
    assert ("Traceback" in said) == (told == "Traceback")
    loop.leave()
    assert sys.excepthook is before


def test_a_warning_of_ours_is_a_line_of_the_log(namespace, logged):
    before = warnings.showwarning
    changed_by(namespace, "EfficientSRModel")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Mind this.", DscsrWarning, stacklevel=1)
    assert set(logged()) == {"Mind this."}  # twice, if nobody has set BasicSR's logger up before
    loop.leave()
    assert warnings.showwarning is before


def test_a_host_s_own_run_gets_numbers_through_and_nothing_else(namespace):
    assert changed_by(namespace, "SRModel") == {"build_dataloader"}
    assert list(namespace["build_dataloader"](str.upper, {"phase": "train"})) == ["PHASE"]  # `map`, as it was
    del namespace["build_dataloader"]
    assert changed_by(namespace, "SRModel") == set()  # to test with


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
