"""`train: stages`: what changes at their borders, and that a run resumed near one ends at the same bits.

Kills at random moments: test_runs.py.
"""

import contextlib
import functools
import io
import os
import re
import signal
from pathlib import Path
from typing import Any

import forks
import pytest
from small_models import distance
from training_runs import (
    LAST,
    MODELS,
    checkpoint,
    dscsr,
    last_log,
    pipeline,
    resume_from,
    saved,
    weights_on_disk,
    write_short,
)

from dscsr_model.models.efficient_sr_model import EfficientSRModel

MSE = {"type": "MSELoss", "loss_weight": 10.0}
FIRST, SECOND = 4, 7  # inside the second epoch of the first stage; inside the first one of the second
LOSSES: dict[str, list[dict[str, Any]]] = {
    "EfficientSRModel": [{}, {"pixel_opt": MSE}, {"pixel_opt": None, "mse_opt": MSE}],
    "DSCLoRAModel": [
        {"teacher_opt": None, "affinity_opt": None, "hint_opt": None},
        {"pixel_opt": MSE},
        {"teacher_opt": None},
    ],
    "CSDModel": [{"contrastive_opt": None}, {"pixel_opt": MSE}, {"teacher_opt": None, "contrastive_opt": None}],
}
LOSSES["DistillationModel"] = LOSSES["DSCLoRAModel"]


def table(model: str) -> list[dict[str, Any]]:
    """Three stages: patches and batches, another rate that warms up, another schedule; losses come and go."""
    first, second, third = LOSSES[model]
    rate = {"optim_g": {"lr": 0.004}, "warmup_iter": 2, "accumulate_steps": 2}
    schedule = {"type": "OneCycleLR", "max_lr": 0.02, "total_steps": 3}
    return [
        {"until": FIRST, "train": first},
        {"until": SECOND, "gt_size": 32, "batch_size_per_gpu": 1, "train": rate | second},
        {"batch_size_per_gpu": 3, "train": {"scheduler": schedule, "warmup_iter": -1} | third},
    ]


def write(folder: Path, model: str = "EfficientSRModel", **changes: Any) -> None:
    write_short(folder, model, **{"train:stages": table(model), "val:val_freq": 4, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, what it showed, and each batch that it trained on."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    batches, step = [], EfficientSRModel.optimize_parameters

    def noted(model: Any, iteration: int) -> None:
        step(model, iteration)
        batches.append((tuple(model.lq.shape), tuple(model.get_current_log())[:-1], model.epoch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EfficientSRModel, "optimize_parameters", noted)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            pipeline(folder)
    return folder, said.getvalue(), batches


def test_each_stage_has_its_patches_losses_rates_and_epochs(run):
    folder, said, batches = run
    small, large = (2, 3, 4, 4), (1, 3, 8, 8)
    assert [shape for shape, _, _ in batches] == [small] * 4 + [large] * 3 + [(3, 3, 4, 4)] * 2
    assert [names[0] for _, names, _ in batches] == ["l_pix"] * 7 + ["l_mse"] * 2
    assert [epoch for _, _, epoch in batches] == [0] * 3 + [1] + [2] * 3 + [3] * 2
    rates = [float(rate) for rate in re.findall(r"lr:\(([\d.e+-]+),\)", last_log(folder))]
    assert rates[:3] == pytest.approx([0.0025, 0.005, 0.0075], rel=1e-3)  # warming up
    assert rates[4:6] == pytest.approx([0.002, 0.004 * 0.97], rel=1e-3)
    assert rates[7:] == pytest.approx([0.01989, 0.009253], rel=1e-3)  # as OneCycleLR has it
    lines = [line for line in said.splitlines() if line.startswith("Stage")]
    assert lines == [
        "Stage 2 of 3, iterations 5 to 7: gt_size 16 → 32, batch_size_per_gpu 2 → 1, warmup_iter 4 → 2, "
        "accumulate_steps 1 → 2, optim_g:lr 0.01 → 0.004, pixel_opt L1Loss → MSELoss, its own schedule",
        "Stage 3 of 3, iterations 8 to 9: gt_size 32 → 16, batch_size_per_gpu 1 → 3, warmup_iter 2 → -1, "
        "accumulate_steps 2 → 1, optim_g:lr 0.004 → 0.01, scheduler CosineAnnealingLR → OneCycleLR, pixel_opt off, "
        "mse_opt MSELoss, its own schedule",
    ]
    assert "9 iterations in 3 stages; stage 1 ends with 4" in said


@pytest.mark.parametrize(
    ("model", "iterations", "workers"),
    [
        ("DSCLoRAModel", (FIRST, SECOND + 1), 0),
        ("CSDModel", (FIRST - 1, SECOND), 0),
        *(
            pytest.param(model, range(1, LAST), workers, marks=pytest.mark.slow)
            for model in MODELS
            for workers in (0, 1)
        ),
    ],
)
def test_resumed_around_the_borders(tmp_path, model, iterations, workers):
    whole = tmp_path / "whole"
    write(whole, model, **{"datasets:train:num_worker_per_gpu": workers})
    pipeline(whole)
    if model == "CSDModel":
        (whole / "teacher.pth").unlink()  # its teacher goes on from the checkpoint
    for iteration in iterations:
        resume_from(whole, tmp_path / str(iteration), iteration)


@pytest.mark.parametrize(
    "loader",
    [
        {"num_worker_per_gpu": 2, "persistent_workers": True},
        pytest.param({"prefetch_mode": "cpu", "num_prefetch_queue": 4}, marks=pytest.mark.slow),
    ],
)
def test_what_is_read_ahead_is_of_the_same_stage(run, tmp_path, loader):
    write(tmp_path, **{f"datasets:train:{key}": value for key, value in loader.items()})
    pipeline(tmp_path)
    assert distance(weights_on_disk(tmp_path), weights_on_disk(run[0])) == 0


def test_stages_are_what_one_would_do_by_hand(tmp_path):
    """Stop at the end of an epoch, change the option file, and go on."""
    constant = {"train:scheduler": {"type": "MultiStepLR", "milestones": [100]}, "train:warmup_iter": -1}
    changed = {"train:optim_g:lr": 0.003, "train:pixel_opt": MSE, "datasets:train:gt_size": 32}
    stage = {"gt_size": 32, "train": {"optim_g": {"lr": 0.003}, "pixel_opt": MSE}}
    write(tmp_path / "stages", **constant, **{"train:stages": [{"until": 6}, stage]})
    pipeline(tmp_path / "stages")
    write(tmp_path / "hand", **constant, **{"train:stages": None, "train:total_iter": 6})
    pipeline(tmp_path / "hand")
    write(tmp_path / "hand", **constant, **{"train:stages": None}, **changed)
    pipeline(tmp_path / "hand", "--auto_resume")
    ours, theirs = (checkpoint(tmp_path / name, LAST)[1] for name in ("stages", "hand"))
    assert str(ours["optimizers"]) == str(theirs["optimizers"])
    assert distance(weights_on_disk(tmp_path / "stages"), weights_on_disk(tmp_path / "hand")) == 0


def test_two_ranks_cross_a_border_together(tmp_path, monkeypatch):
    """Killed between the checkpoint at its end and its validation, which they make up for together."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write(folder)
    run = functools.partial(dscsr, "train", "-opt", "opt.yml", "--launcher", "pytorch")
    for done in forks.ranks(run, whole):
        assert done.returncode == 0, done.stderr
    validate = EfficientSRModel.nondist_validation

    def dying(self, loader, current_iter, *arguments):
        if current_iter == FIRST:
            os.kill(os.getpid(), signal.SIGKILL)
        validate(self, loader, current_iter, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(EfficientSRModel, "nondist_validation", dying)
        assert [each.returncode for each in forks.ranks(run, killed)] == [-signal.SIGKILL] * 2
    assert saved(killed) == list(range(1, FIRST + 1))
    for done in forks.ranks(functools.partial(run, "--auto_resume"), killed):
        assert done.returncode == 0, done.stderr
    assert last_log(killed).count(f"Validating iteration {FIRST}") == 1
    for name in ("latest", "best"):
        assert distance(weights_on_disk(killed, name), weights_on_disk(whole, name)) == 0
