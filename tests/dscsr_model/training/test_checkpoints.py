"""Which checkpoints on disk are whole, which may go, and random states."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dscsr_arch.checkpoint import read_pickle
from dscsr_model.training import checkpoints


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """training_states and models with the checkpoints 5, 10 and 15, and a latest and a best network."""
    states, models = tmp_path / "training_states", tmp_path / "models"
    for folder in (states, models):
        folder.mkdir()
    for iteration in (5, 10, 15):
        torch.save({"iter": iteration}, states / f"{iteration}.state")
        torch.save({"params": {"w": torch.rand(100)}}, models / f"net_g_{iteration}.pth")
    for name in ("latest", "best"):
        torch.save({"params": {}}, models / f"net_g_{name}.pth")
    return states, models


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize("broken", ["training_states/15.state", "models/net_g_15.pth", "models/net_d_15.pth"])
def test_one_that_does_not_open_is_passed_over_and_reported(folders, tmp_path, broken):
    (tmp_path / broken).touch()
    cut(tmp_path / broken)
    state, passed_over = checkpoints.newest_whole(*folders)
    assert state == folders[0] / "10.state"
    assert len(passed_over) == 1
    assert passed_over[0].startswith("Checkpoint 15 does not open and is passed over: Expected a")
    assert str(tmp_path / broken) in passed_over[0]


def test_a_state_without_its_network_is_passed_over(folders):
    (folders[1] / "net_g_15.pth").unlink()
    cut(folders[1] / "net_g_10.pth")
    state, passed_over = checkpoints.newest_whole(*folders)
    assert state == folders[0] / "5.state"
    assert passed_over[0].startswith("Checkpoint 15 has a training state but no network in ")
    assert len(passed_over) == 2


def test_none_at_all(folders, tmp_path):
    assert checkpoints.newest_whole(tmp_path / "nowhere", tmp_path) == (None, [])
    for file in folders[0].iterdir():
        cut(file)
    state, passed_over = checkpoints.newest_whole(*folders)
    assert state is None
    assert [line.split()[1] for line in passed_over] == ["15", "10", "5"]


def draws() -> tuple:
    return random.random(), np.random.rand(3).tolist(), np.random.randn(), torch.rand(3).tolist()  # noqa: NPY002


def test_random_states_go_through_a_file_that_only_weights_are_loaded_from(tmp_path):
    draws()  # one normal number is left over in numpy's generator
    torch.save({"random": checkpoints.random_state()}, tmp_path / "state")
    wanted = draws()
    assert draws() != wanted
    checkpoints.restore_random_state(read_pickle(tmp_path / "state")["random"])
    assert draws() == wanted
