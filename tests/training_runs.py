"""Whole runs of `dscsr train` in real processes: start them, kill them, look at what is left."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import option_files
import torch

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle, save_state_dict

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "DSCSR_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""}
COMMAND = [sys.executable, "-m", "dscsr_model.cli", "train", "-opt", "opt.yml"]


def write_options(folder: Path, **changes) -> None:
    """A network that costs a few milliseconds a step, on random crops of three pairs: 15 steps an epoch."""
    data = option_files.make_data(folder / "data")
    options = option_files.training_options(data)
    options["model_type"] = "EfficientSRModel"
    options["network_g"]["num_feat"] = 4
    options["datasets"]["train"].update(
        dataroot_gt="data/gt", dataroot_lq="data/lq", io_backend={"type": "disk"}, dataset_enlarge_ratio=10,
        mean=[0, 0, 0], std=[1, 1, 1],
    )  # fmt: skip
    options["datasets"]["val"].update(dataroot_gt="data/gt", dataroot_lq="data/lq")
    options["train"].update(total_iter=48, warmup_iter=20, ema_decay=0.9)
    options["train"]["optim_g"]["lr"] = 0.01
    options["train"]["scheduler"] = {"type": "CosineAnnealingLR", "T_max": 48}
    options["val"].update(val_freq=16, save_img=False)
    options["logger"].update(save_checkpoint_freq=4, use_tb_logger=True)
    option_files.write_options(folder / "opt.yml", option_files.changed(options, changes))


LEARNING = {
    "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
    "train:affinity_opt": {"type": "SpatialAffinityLoss", "layers": ["block_1", "block_6"]},
}


def prepare_dsclora(folder: Path, upscale: int) -> dict[str, Any]:
    """A base and a teacher in ``folder``, and the options that adapt the one to the other."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(2)
    for name, channels in {"base": 4, "teacher": 6}.items():
        save_state_dict(
            {"params": SPAN(feature_channels=channels, upscale=upscale).state_dict()}, folder / f"{name}.pth"
        )
    return {
        **LEARNING,
        "model_type": "DSCLoRAModel",
        "network_g": {"type": "DSCLoRA", "feature_channels": 4, "upscale": upscale},
        "teacher": {"weights": "teacher.pth"},
        "path:pretrain_network_g": "base.pth",
        "path:param_key_g": None,
    }


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=300
    )


def train_until_killed(folder: Path, command: list[str], line: str, delay: float) -> bool:
    """SIGKILL so many seconds after the log has shown ``line``; whether the run was still going."""
    with subprocess.Popen(command, cwd=folder, env=ENV, stderr=subprocess.PIPE, text=True) as process:
        for said in process.stderr:
            if line in said:
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    return process.returncode == -signal.SIGKILL


def experiment(folder: Path) -> Path:
    return folder / "experiments/tiny"


def weights_on_disk(folder: Path, name: str = "latest") -> dict[str, torch.Tensor]:
    content = read_pickle(experiment(folder) / f"models/net_g_{name}.pth")
    return {f"{key}.{layer}": tensor for key in ("params", "params_ema") for layer, tensor in content[key].items()}


def pipeline(folder: Path, *arguments: str) -> None:
    """`dscsr train` in this process, which has imported everything: a fraction of a second for a few steps."""
    from basicsr.utils import logger

    from dscsr_model.cli import main

    before = Path.cwd()
    os.chdir(folder)
    logger.initialized_logger.clear()
    try:
        code = main(["train", "-opt", "opt.yml", *arguments])
    finally:
        os.chdir(before)
        _close_log(logger.initialized_logger)
    if code:
        raise RuntimeError(f"exit code {code}")


def _close_log(initialized: dict[str, bool]) -> None:
    """BasicSR sets its logger up once per process; the next run has a file of its own."""
    initialized.clear()
    log = logging.getLogger("basicsr")
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
