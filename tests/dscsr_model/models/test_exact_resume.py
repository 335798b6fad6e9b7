"""A run that was killed anywhere, or stopped by a signal, and is resumed ends at the same bits."""

import functools
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import forks
import option_files
import pytest
import torch
import yaml
from small_models import distance
from training_runs import dscsr, experiment, pipeline, weights_on_disk, write_options

import dscsr_model
from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_model.training import checkpoints

EPOCH = 3  # iterations: six samples in batches of two
LAST = 3 * EPOCH

EDSR = {**option_files.edsr(), "num_feat": 4}
LORA = {
    "network_g": {**EDSR, "lora": {"layers": {"body.*": [1, 2]}, "dropout": 0.5}},
    "path:pretrain_network_g": "EDSR.pth",
}
ADAPTED = {"type": "SPAN", "feature_channels": 4, "upscale": 4, "lora": {"layers": {"block_*": [1, 2]}, "dropout": 0.5}}
TEACHER = {
    "teacher": {"weights": "SPAN.pth"},
    "path:pretrain_network_g": "SPAN.pth",
    "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
}
RUNS: dict[str, dict[str, Any]] = {
    "EfficientSRModel": LORA,
    "DistillationModel": {"network_g": ADAPTED, **TEACHER},
    "DSCLoRAModel": {"network_g": ADAPTED, **TEACHER},
    "CSDModel": {
        "network_g": {"type": "CSSRNet", "backbone": EDSR, "widths": [0.5]},
        "path:pretrain_network_g": "EDSR.pth",
        "train:contrastive_opt": {
            "type": "ContrastiveLoss", "loss_weight": 0.1, "num_negatives": 1, "features": "teacher",
            "feature_layers": ["conv_first"],
        },
    },
}  # fmt: skip


def write(folder: Path, model: str, **changes: Any) -> None:
    """A run that saves after every iteration."""
    from dscsr_arch.foreign import find_backbone

    torch.manual_seed(2)
    edsr = find_backbone("EDSR")(**{name: value for name, value in EDSR.items() if name != "type"})
    save_state_dict({"params": SPAN(feature_channels=4).state_dict()}, folder / "SPAN.pth")
    save_state_dict({"params": edsr.state_dict()}, folder / "EDSR.pth")
    write_options(
        folder,
        **{
            "model_type": model,
            "datasets:train:dataset_enlarge_ratio": 2,
            "datasets:train:gt_size": 16,
            "train:total_iter": LAST,
            "train:scheduler:T_max": LAST,
            "train:warmup_iter": 4,
            "logger:save_checkpoint_freq": 1,
            "logger:use_tb_logger": False,
            "val:val_freq": 100,
            **RUNS[model],
            **changes,
        },
    )


def states(folder: Path, iteration: int) -> dict[str, Any]:
    """All that belongs to the checkpoint of an iteration."""
    root = experiment(folder)
    return {
        "network": read_pickle(root / f"models/net_g_{iteration}.pth"),
        "state": read_pickle(root / f"training_states/{iteration}.state"),
    }


def assert_same(one: Any, two: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for number, (ours, theirs) in enumerate(zip(one, two, strict=True)):
            assert_same(ours, theirs, f"{where}/{number}")
    else:
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two, where


def resume_from(whole: Path, folder: Path, iteration: int) -> None:
    """Kill the run after this iteration, resume it, and compare all that follows with the run that went on."""
    shutil.copytree(whole, folder)
    for file in experiment(folder).glob("*/*"):
        number = file.stem.rpartition("_")[2]
        if file.parent.name in ("models", "training_states") and not (number.isdigit() and int(number) <= iteration):
            file.unlink()
    pipeline(folder, "--auto_resume")
    for later in range(iteration + 1, LAST + 1):
        assert_same(states(folder, later), states(whole, later), f"resumed from {iteration}, at {later}")


def run(tmp_path: Path, model: str, iterations, workers: int) -> None:
    dscsr_model.register()
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, model, **{"datasets:train:num_worker_per_gpu": workers})
    pipeline(whole)
    weights = [states(whole, iteration)["network"]["params"] for iteration in (LAST - 1, LAST)]
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for iteration in iterations:
        resume_from(whole, tmp_path / str(iteration), iteration)


@pytest.mark.parametrize("model", ["DSCLoRAModel", "CSDModel"])
def test_resumed_inside_and_at_the_end_of_an_epoch(tmp_path, model):
    """LoRA's dropout and CSD's negatives are drawn from torch's generator."""
    run(tmp_path, model, (EPOCH - 1, EPOCH), workers=0)


def test_longer_epochs_do_not_end_a_run(tmp_path):
    """BasicSR's loop counts epochs: with today's length of them, it would have been through them all."""
    write(tmp_path, "EfficientSRModel", **{"train:total_iter": 8})
    pipeline(tmp_path)
    write(tmp_path, "EfficientSRModel", **{"datasets:train:dataset_enlarge_ratio": 12})
    pipeline(tmp_path, "--auto_resume")
    assert states(tmp_path, LAST)["state"]["epoch"] == 0
    log = max(experiment(tmp_path).glob("*.log"), key=lambda file: file.stat().st_mtime).read_text()
    assert "datasets:train:dataset_enlarge_ratio: 2 before this resume, 12 from here on" in log
    assert "iteration 8, which was in epoch 2, is in epoch 0, after 8 of 18 batches." in log


# --- stopped by a signal ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run that saves in iterations 4 and 8 and validates in 6."""
    dscsr_model.register()
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_seldom(folder)
    pipeline(folder)
    return folder


def write_seldom(folder: Path) -> None:
    write(folder, "EfficientSRModel", **{"logger:save_checkpoint_freq": 4, "val:val_freq": 6})


def run_with_signal(folder: Path, monkeypatch, where: tuple[type, str], call: int, number: int) -> int:
    """The exit code of a run that gets a signal in the n-th call of a method."""
    (owner, name), calls = where, []
    method = getattr(owner, name)

    @functools.wraps(method)
    def signalled(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return method(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signalled)
        with pytest.raises(SystemExit) as stopped:
            pipeline(folder)
    return int(stopped.value.code)


@pytest.mark.parametrize(
    ("method", "call", "number", "code", "saved"),
    [
        ("optimize_parameters", 3, signal.SIGTERM, 143, 3),
        ("optimize_parameters", LAST, signal.SIGINT, 130, LAST),
        ("training_state", 1, signal.SIGTERM, 143, 4),  # while saving
        ("super_resolve", 1, signal.SIGINT, 130, 6),  # while validating
        ("validation", 2, signal.SIGTERM, 143, LAST),  # when training has ended
    ],
)
def test_a_signal_lets_the_step_end_saves_and_exits(
    uninterrupted, tmp_path, monkeypatch, capfd, method, call, number, code, saved
):
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    write_seldom(tmp_path)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert run_with_signal(tmp_path, monkeypatch, (EfficientSRModel, method), call, number) == code
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert max(checkpoints.iterations(experiment(tmp_path) / "training_states")) == saved
    said = capfd.readouterr().err
    assert f"dscsr: {number.name}: stopping after this step; again stops at once\n" in said
    assert f"Stopped by {number.name} after iteration {saved}. The last checkpoint is " in said
    assert f"models/net_g_{saved}.pth: the same command with `--auto_resume` goes on from it." in said
    pipeline(tmp_path, "--auto_resume")
    for name in ("latest", "best"):
        assert distance(weights_on_disk(tmp_path, name), weights_on_disk(uninterrupted, name)) == 0


@pytest.mark.parametrize(("pause", "echo", "ended"), [(0.1, 0.05, -signal.SIGTERM), (0, 5, 0)], ids=["second", "echo"])
def test_a_second_signal_ends_a_run_at_once(tmp_path, pause, echo, ended):
    """Not what `timeout` and torchrun send twice."""
    from dscsr_model.training.signals import noted_in
    from dscsr_model.training.stopping import StopRequest

    def run() -> bool:
        with noted_in(stop := StopRequest(), tell=False, echo=echo):
            for wait in (pause, 0):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(wait)
        return stop.asked != signal.SIGTERM

    assert forks.finished(run, tmp_path).returncode == ended


def test_a_signal_before_the_first_step(tmp_path, monkeypatch, capfd):
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    write_seldom(tmp_path)
    where = (EfficientSRModel, "update_learning_rate")
    assert run_with_signal(tmp_path, monkeypatch, where, 1, signal.SIGTERM) == 143
    assert "Stopped by SIGTERM. No iteration was trained, and nothing is saved." in capfd.readouterr().err


def test_a_signal_is_heard_where_nobody_reads_any_more(tmp_path, monkeypatch):
    """Ctrl-C ends all of `dscsr train … 2>&1 | tee log`."""
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    write_seldom(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    stderr = os.dup(2)
    os.dup2(writing, 2)
    try:
        code = run_with_signal(tmp_path, monkeypatch, (EfficientSRModel, "optimize_parameters"), 2, signal.SIGINT)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writing)
    assert code == 130
    assert checkpoints.iterations(experiment(tmp_path) / "training_states") == [2]


def test_a_worker_leaves_signals_to_the_training(uninterrupted, tmp_path, monkeypatch, capfd):
    """A terminal sends Ctrl-C, and a cluster SIGTERM, to every process of a run."""
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    write(tmp_path, "EfficientSRModel", **{"datasets:train:num_worker_per_gpu": 1, "logger:save_checkpoint_freq": LAST})
    step, workers = EfficientSRModel.optimize_parameters, set()

    def signalled(self: Any, current_iter: int) -> None:
        step(self, current_iter)
        for worker in multiprocessing.active_children():
            workers.add(worker.pid)
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)

    monkeypatch.setattr(EfficientSRModel, "optimize_parameters", signalled)
    pipeline(tmp_path)
    assert workers
    assert "Traceback" not in capfd.readouterr().err
    assert distance(weights_on_disk(tmp_path), weights_on_disk(uninterrupted)) == 0


def test_other_models_are_stopped_as_ever(tmp_path, monkeypatch):
    from basicsr.models.sr_model import SRModel

    seen = []

    def look(self: Any, current_iter: int) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    monkeypatch.setattr(SRModel, "optimize_parameters", look)
    monkeypatch.setattr(SRModel, "get_current_log", lambda self: {})
    write(tmp_path, "EfficientSRModel", **{"model_type": "SRModel", "network_g": EDSR, "train:total_iter": 1})
    options = option_files.changed(
        yaml.safe_load((tmp_path / "opt.yml").read_text()),
        {"train:scheduler": {"type": "MultiStepLR", "milestones": [5]}},
    )
    option_files.write_options(tmp_path / "opt.yml", options)
    pipeline(tmp_path)
    assert seen == [signal.SIG_DFL]


def test_two_ranks_stop_together_where_one_was_asked(tmp_path, monkeypatch):
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    write(tmp_path, "EfficientSRModel", **{"logger:save_checkpoint_freq": 1000})
    step = EfficientSRModel.optimize_parameters

    def signalled(self: Any, current_iter: int) -> None:
        step(self, current_iter)
        if (os.environ["RANK"], current_iter) == ("1", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(EfficientSRModel, "optimize_parameters", signalled)
    run = functools.partial(dscsr, "train", "-opt", "opt.yml", "--launcher", "pytorch")
    done = forks.ranks(run, tmp_path)
    assert [each.returncode for each in done] == [143, 143], done[0].stderr
    (saved,) = checkpoints.iterations(experiment(tmp_path) / "training_states")
    assert saved == 5  # which both had begun when it was known
    assert len(states(tmp_path, saved)["state"]["random_states"]) == 2
    assert [each.stderr.count(f"Stopped by SIGTERM after iteration {saved}.") for each in done] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("model", RUNS)
def test_resumed_from_every_iteration(tmp_path, model, workers):
    run(tmp_path, model, range(1, LAST), workers)
