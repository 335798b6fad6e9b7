"""A run that was killed anywhere, or stopped by a signal, and is resumed ends at the same bits."""

import functools
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import forks
import option_files
import pytest
import torch
import yaml
from option_files import REMOVED, changed
from option_files import write_options as write_options_file
from small_models import distance
from training_runs import (
    EPOCH,
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

import dscsr_model


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_resumed_everywhere(tmp_path, model, workers):
    """Some places, through stages: test_stages.py. LoRA's dropout and CSD's negatives are torch's generator's."""
    whole = tmp_path / "whole"
    write_short(whole, model, **{"datasets:train:num_worker_per_gpu": workers})
    pipeline(whole)
    before, after = (checkpoint(whole, iteration)[0]["params"] for iteration in (LAST - 1, LAST))
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    for iteration in range(1, LAST):
        resume_from(whole, tmp_path / str(iteration), iteration)


@pytest.mark.parametrize("method", ["pact", pytest.param("pams", marks=pytest.mark.slow)])
def test_quantized(tmp_path, method, capfd, monkeypatch):
    """Under everything else that touches a step; tested, the file quantizes the plain network of its options."""
    whole = tmp_path / "whole"
    options = {
        "network_g": {"type": "SPAN", "feature_channels": 4, "upscale": 4},
        "train:quantize": {"method": method, "bits": 4, "clip_decay": 0.01},
        "train:precision": "bf16",
        "train:accumulate_steps": 2,
        "train:grad_clip_norm": 1.0,
        "datasets:train:num_worker_per_gpu": 0,
        "val:val_freq": LAST,
    }
    write_short(whole, "EfficientSRModel", **options)
    pipeline(whole)
    state = checkpoint(whole, LAST)[0]["params"]
    clips = [tensor for name, tensor in state.items() if name.endswith("quant_clip")]
    assert len(clips) == 20
    assert all(clip != 0 for clip in clips)
    resume_from(whole, tmp_path / "resumed", EPOCH + 1)
    best = re.findall(r"best .*: psnr\w* (\S+) on Set", capfd.readouterr().err)[0]
    tested = option_files.testing_options(whole / "data") | {"network_g": options["network_g"]}
    tested |= {
        "model_type": "EfficientSRModel",
        "path": {"pretrain_network_g": "experiments/tiny/models/net_g_best.pth"},
    }
    write_options_file(whole / "opt.yml", option_files.changed(tested, {
        "path:param_key_g": None, "datasets:test_2": REMOVED, "val:save_img": False,
        "val:metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}},
    }))  # fmt: skip
    monkeypatch.chdir(whole)
    assert dscsr("test", "-opt", "opt.yml") == 0
    assert f"psnr {best}" in capfd.readouterr().out


def test_with_a_teachers_stored_outputs(tmp_path, monkeypatch, capfd):
    """`dscsr prepare --teacher` beside a pair of LMDBs that BasicSR would read; no teacher runs in the training."""
    whole = tmp_path / "whole"
    write_short(whole, "DistillationModel", **{"datasets:train:num_worker_per_gpu": 1})
    changes = dict.fromkeys(
        ("teacher", "train:affinity_opt", "train:hint_opt", "datasets:train:mean", "datasets:train:std"), REMOVED
    )
    changes |= {f"datasets:train:dataroot_{name}": f"data/{name.upper()}.lmdb" for name in ("gt", "lq")}
    changes |= {"datasets:train:io_backend:type": "lmdb", "datasets:train:type": "PairedCropDataset"}
    options = changed(yaml.safe_load((whole / "opt.yml").read_text()), changes)
    options["datasets"]["train"]["dataroot_teacher"] = "TEACHER_X4.lmdb"
    write_options_file(whole / "opt.yml", options)
    monkeypatch.chdir(whole)
    assert dscsr("prepare", "--lq", "data/LQ.lmdb", "--out", ".", "--teacher", "teacher.pth") == 0
    (whole / "teacher.pth").unlink()
    pipeline(whole)
    assert "teacher     stored outputs of SPAN (teacher.pth)" in capfd.readouterr().err
    assert "Teacher: stored outputs of SPAN (teacher.pth)" in last_log(whole)
    assert "l_teacher: " in last_log(whole)
    resume_from(whole, tmp_path / "resumed", EPOCH + 1)


def test_longer_epochs_do_not_end_a_run(tmp_path):
    """BasicSR's loop counts epochs: with today's length of them, it would have been through them all."""
    write_short(tmp_path, "EfficientSRModel", **{"train:total_iter": 8})
    pipeline(tmp_path)
    write_short(tmp_path, "EfficientSRModel", **{"datasets:train:dataset_enlarge_ratio": 12})
    pipeline(tmp_path, "--auto_resume")
    assert checkpoint(tmp_path, LAST)[1]["epoch"] == 0
    log = last_log(tmp_path)
    assert "datasets:train:dataset_enlarge_ratio: 2 before this resume, 12 from here on" in log
    assert "iteration 8, which was in epoch 2, is in epoch 0, after 8 of 18 batches." in log


# --- stopped by a signal ------------------------------------------------------------------------------------------


def write_seldom(folder: Path, **changes: Any) -> None:
    """A run that saves in iterations 4 and 8 and validates in 6."""
    write_short(folder, "EfficientSRModel", **{"logger:save_checkpoint_freq": 4, "val:val_freq": 6, **changes})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_seldom(folder)
    pipeline(folder)
    return folder


@pytest.fixture
def signalled(monkeypatch):
    """Let a method of EfficientSRModel do something as it begins for the n-th time."""
    dscsr_model.register()
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    def arrange(name: str, call: int, act: Any) -> None:
        method, calls = getattr(EfficientSRModel, name), []

        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                act()
            return method(*args, **kwargs)

        monkeypatch.setattr(EfficientSRModel, name, wrapper)

    return arrange


def stopped(folder: Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        pipeline(folder)
    return int(stopped.value.code)


@pytest.mark.parametrize(
    ("method", "call", "number", "code", "last"),
    [
        ("update_learning_rate", 1, signal.SIGTERM, 143, None),
        ("optimize_parameters", 3, signal.SIGTERM, 143, 3),
        ("optimize_parameters", LAST, signal.SIGINT, 130, LAST),
        ("training_state", 1, signal.SIGTERM, 143, 4),  # while saving
        ("super_resolve", 1, signal.SIGTERM, 143, None),  # while validating what it starts from, three images
        ("super_resolve", 4, signal.SIGINT, 130, 6),  # while validating
        ("validation", 3, signal.SIGTERM, 143, LAST),  # when training has ended
    ],
)
def test_a_signal_lets_the_step_end_saves_and_exits(
    uninterrupted, tmp_path, signalled, capfd, method, call, number, code, last
):
    write_seldom(tmp_path)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    signalled(method, call, lambda: os.kill(os.getpid(), number))
    assert stopped(tmp_path) == code
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    said = capfd.readouterr().err
    assert f"dscsr: {number.name}: stopping after this step; again stops at once\n" in said
    if last is None:
        assert said.endswith("Stopped by SIGTERM. No iteration was trained, and nothing is saved.\n")
        return
    assert max(saved(tmp_path)) == last
    told = f"Stopped by {number.name}. Iteration {last} is saved in experiments/tiny. To go on:\n"
    assert said.endswith(f"{told}  dscsr train -opt opt.yml --auto_resume\n")
    pipeline(tmp_path, "--auto_resume")
    for name in ("latest", "best"):
        assert distance(weights_on_disk(tmp_path, name), weights_on_disk(uninterrupted, name)) == 0


def test_a_signal_is_heard_where_nobody_reads_any_more(tmp_path, signalled):
    """Ctrl-C ends all of `dscsr train … 2>&1 | tee log`."""
    write_seldom(tmp_path)
    signalled("optimize_parameters", 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    reading, writing = os.pipe()
    os.close(reading)
    with open(os.devnull, "w") as nowhere, os.fdopen(writing, "w") as said:
        run = functools.partial(dscsr, "train", "-opt", "opt.yml")
        assert forks.Fork(run, tmp_path, {}, nowhere.fileno(), said.fileno()).wait() == 130
    assert saved(tmp_path) == [2]


def test_a_worker_leaves_signals_to_the_training(uninterrupted, tmp_path, signalled, capfd):
    """A terminal sends Ctrl-C, and a cluster SIGTERM, to every process of a run."""
    write_seldom(tmp_path, **{"datasets:train:num_worker_per_gpu": 1})
    workers = set()

    def to_workers() -> None:
        for worker in multiprocessing.active_children():
            workers.add(worker.pid)
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)

    for call in range(1, LAST + 1):
        signalled("optimize_parameters", call, to_workers)
    pipeline(tmp_path)
    assert workers
    assert "Traceback" not in capfd.readouterr().err
    assert distance(weights_on_disk(tmp_path), weights_on_disk(uninterrupted)) == 0


@pytest.mark.parametrize(("pause", "echo", "ended"), [(0.1, 0.05, -signal.SIGTERM), (0, 5, 0)], ids=["second", "echo"])
def test_a_second_signal_ends_a_run_at_once(tmp_path, pause, echo, ended):
    """Not what `timeout` and torchrun send twice."""
    from dscsr_model.training.stopping import StopRequest, noted_in

    def run() -> bool:
        with noted_in(stop := StopRequest(), tell=False, echo=echo):
            for wait in (pause, 0):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(wait)
        return stop.asked != signal.SIGTERM

    assert forks.finished(run, tmp_path).returncode == ended


def test_two_ranks_stop_together_where_one_was_asked(tmp_path, signalled):
    write_seldom(tmp_path, **{"logger:save_checkpoint_freq": 1000})
    signalled("optimize_parameters", 4, lambda: os.environ["RANK"] == "1" and os.kill(os.getpid(), signal.SIGTERM))
    done = forks.ranks(functools.partial(dscsr, "train", "-opt", "opt.yml", "--launcher", "pytorch"), tmp_path)
    assert [each.returncode for each in done] == [143, 143], done[0].stderr
    (last,) = saved(tmp_path)
    assert last == 4
    assert len(checkpoint(tmp_path, last)[1]["random_states"]) == 2
    assert [each.stderr.count(f"Stopped by SIGTERM. Iteration {last} is saved") for each in done] == [1, 0]
