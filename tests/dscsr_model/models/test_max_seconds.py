"""`train: max_seconds`: time ends a run as `total_iter` does, wherever it is."""

import functools
import os
from pathlib import Path
from typing import Any

import forks
import pytest
from small_models import distance
from training_runs import dscsr, experiment, last_log, pipeline, prepare_csd, weights_on_disk, write_options

import dscsr_model
from dscsr_arch.checkpoint import read_pickle
from dscsr_model.training import checkpoints

TOTAL = 5000  # more than any machine makes of these steps in the time


def write(folder: Path, model: str = "EfficientSRModel", seconds: float = 0.3, **changes: Any) -> None:
    """A run that neither saves nor validates before its end."""
    if model == "CSDModel":
        changes |= prepare_csd(folder, 4) | {"train:teacher_opt:end_iter": TOTAL}
    write_options(
        folder,
        **{
            "train:max_seconds": seconds,
            "train:total_iter": TOTAL,
            "train:scheduler:T_max": TOTAL,
            "train:warmup_iter": TOTAL // 10,
            "logger:save_checkpoint_freq": TOTAL,
            "logger:print_freq": 1,
            "logger:use_tb_logger": False,
            "val:val_freq": TOTAL,
            **changes,
        },
    )


def last_state(folder: Path) -> dict[str, Any]:
    states = experiment(folder) / "training_states"
    return read_pickle(states / f"{checkpoints.iterations(states)[-1]}.state")


@pytest.mark.parametrize("model", ["EfficientSRModel", "CSDModel"])  # the others do not look at the clock
def test_the_end_is_that_of_a_whole_run(tmp_path, model):
    write(tmp_path, model)
    pipeline(tmp_path)
    state = last_state(tmp_path)
    assert 0.3 <= state["seconds"] < 3
    assert 0 < state["iter"] < TOTAL
    assert distance(weights_on_disk(tmp_path), weights_on_disk(tmp_path, str(state["iter"]))) == 0
    # The schedule has come to its end: one step, and what it took, is missing.
    assert state["schedulers"][0]["last_epoch"] > TOTAL // 2
    assert state["optimizers"][0]["param_groups"][0]["lr"] < 0.005
    assert (experiment(tmp_path) / f"training_states/{state['iter']}.validation").is_file()
    said = last_log(tmp_path)
    assert said.index("End of training.") < said.index("Save the latest model.") < said.rindex("# psnr")
    assert "Epochs are counted anew" not in said


def test_a_resumed_run_has_the_time_that_is_left(tmp_path, capfd):
    write(tmp_path)
    pipeline(tmp_path)
    first = last_state(tmp_path)
    pipeline(tmp_path, "--auto_resume")
    assert "this run is at its end, 0.3 s of training; a larger `max_seconds` goes on." in capfd.readouterr().err
    assert last_state(tmp_path)["iter"] == first["iter"]

    write(tmp_path, seconds=first["seconds"] + 0.2)
    pipeline(tmp_path, "--auto_resume")
    second = last_state(tmp_path)
    assert second["iter"] > first["iter"]
    assert 0.2 <= second["seconds"] - first["seconds"] < 2
    assert second["epoch"] >= first["epoch"]


def test_iterations_end_a_run_that_is_fast_enough(tmp_path):
    write(tmp_path, seconds=1000, **{"train:total_iter": 6, "train:scheduler:T_max": 6, "val:val_freq": 6})
    pipeline(tmp_path)
    assert "iter:       6" in last_log(tmp_path)
    assert checkpoints.iterations(experiment(tmp_path) / "training_states") == []


def test_two_ranks_end_after_the_same_step_at_the_same_rates(tmp_path, monkeypatch):
    """Their clocks differ: one of them would otherwise wait for the other for ever."""
    dscsr_model.register()
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    step = EfficientSRModel.optimize_parameters

    @functools.wraps(step)
    def noted(model: Any, iteration: int) -> None:
        model.stop.clock.set(model.stop.clock.seconds + 0.01 * int(os.environ["RANK"]))
        step(model, iteration)
        with (tmp_path / f"rank{os.environ['RANK']}").open("a") as file:
            file.write(f"{iteration} {model.get_current_learning_rate()}\n")

    monkeypatch.setattr(EfficientSRModel, "optimize_parameters", noted)
    write(tmp_path)
    for done in forks.ranks(functools.partial(dscsr, "train", "-opt", "opt.yml", "--launcher", "pytorch"), tmp_path):
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / f"rank{rank}").read_text() for rank in range(2))
    assert one == two
    assert len(one.splitlines()) == last_state(tmp_path)["iter"]
