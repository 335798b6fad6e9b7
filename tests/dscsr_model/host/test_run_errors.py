"""Whose error it is that ended a run, and what is told of it."""

import os
import re
import signal
import sys

import pytest
import torch

import dscsr_model
from dscsr_model.host.run_errors import explained
from dscsr_model.training.precision import Precision


def caught(run):
    try:
        run()
    except Exception as error:
        return error
    return pytest.fail("nothing was raised")


def build_theirs():
    dscsr_model.register()
    from basicsr.data.reds_dataset import REDSDataset

    return REDSDataset({"dataroot_gt": "x"})


def test_errors_of_basicsr_are_told_in_one_line():
    told = str(explained(caught(build_theirs)))
    words = r"Expected options that BasicSR's reds_dataset\.py, line \d+, can use, but got KeyError: 'dataroot_lq'\."
    assert re.match(rf"{words} Compare", told)
    assert "Traceback" not in told


def test_what_does_not_fit_into_memory():
    told = str(explained(caught(lambda: bytearray(sys.maxsize))))
    assert told.startswith("Expected the run to fit into memory, but got MemoryError. Take smaller batches")


def test_losses_that_several_ranks_cannot_train_by():
    told = str(explained(RuntimeError("Expected to have finished reduction in the prior iteration before …")))
    assert told.endswith("but got some without a gradient. Add a loss on the output; a small `loss_weight` will do.")


def test_errors_of_ours_are_not_explained_away(monkeypatch):
    ours = caught(lambda: Precision("fp8", "cpu"))
    assert explained(ours) is None
    monkeypatch.setenv("DSCSR_TRACEBACK", "1")
    assert explained(caught(build_theirs)) is None


def test_an_error_in_a_reading_process_is_its_last_line():
    said = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most …):\n  …\nKeyError: 'lq'"
    error = RuntimeError(said).with_traceback(caught(build_theirs).__traceback__)
    assert "got KeyError: 'lq'. Compare" in str(explained(error))


class KillsItsReader(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_reading_process_that_was_killed_is_no_fault_of_the_options():
    error = caught(lambda: list(torch.utils.data.DataLoader(KillsItsReader(), num_workers=1)))
    told = str(explained(error))
    assert told.startswith(
        "Expected the reading processes to live as long as the run, but got RuntimeError: DataLoader"
    )
    assert "a smaller `num_worker_per_gpu`" in told
