"""Random states go through a checkpoint."""

import random

import numpy as np
import torch

from dscsr_arch.checkpoint import read_pickle
from dscsr_model.training import checkpoints


def draws() -> tuple:
    return random.random(), np.random.rand(3).tolist(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002


def test_random_states_go_through_a_file_that_only_weights_are_loaded_from(tmp_path):
    draws()  # one normal number is left over in numpy's generator
    torch.save({"random": checkpoints.random_state()}, tmp_path / "state")
    wanted = draws()
    assert draws() != wanted
    checkpoints.restore_random_state(read_pickle(tmp_path / "state")["random"])
    assert draws() == wanted
