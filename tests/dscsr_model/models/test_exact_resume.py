"""A run that is resumed from any of its checkpoints ends at the same bits, whatever draws random numbers."""

import shutil
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from training_runs import experiment, pipeline, write_options

import dscsr_model
from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle, save_state_dict

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
    from dscsr_arch.cssr_arch import find_backbone

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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("model", RUNS)
def test_resumed_from_every_iteration(tmp_path, model, workers):
    run(tmp_path, model, range(1, LAST), workers)
