"""Whole runs of `dscsr train`, in this process or in forks of it: start them, kill them, look at what is left."""

import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import forks
import option_files
import pytest
import torch
from small_models import LEARNING
from torch.utils._pytree import tree_flatten
from tqdm import tqdm

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_model.cli import main
from dscsr_model.training import checkpoints


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


def prepare_csd(folder: Path, upscale: int) -> dict[str, Any]:
    """A teacher in ``folder``, and the options of CSD with a student of half its width."""
    folder.mkdir(exist_ok=True)
    backbone = {**option_files.edsr(), "num_feat": 4, "upscale": upscale}
    torch.manual_seed(2)
    save_state_dict({"params": option_files.build(backbone).state_dict()}, folder / "teacher.pth")
    return {
        "model_type": "CSDModel",
        "network_g": {"type": "CSSRNet", "backbone": backbone, "widths": [0.5]},
        "path:pretrain_network_g": "teacher.pth",
        "train:teacher_opt": {"type": "L1Loss", "output_of": "teacher", "end_iter": 14},
        "train:contrastive_opt": {
            "type": "ContrastiveLoss", "loss_weight": 0.1, "num_negatives": 1, "features": "teacher",
            "feature_layers": ["conv_first", "body.0"], "every": 2,
        },
    }  # fmt: skip


EPOCH = 3  # iterations: six samples in batches of two
LAST = 3 * EPOCH

MODELS = ("EfficientSRModel", "DistillationModel", "DSCLoRAModel", "CSDModel")
ADAPTED = {"type": "SPAN", "feature_channels": 4, "upscale": 4, "lora": {"layers": {"block_*": [1, 2]}, "dropout": 0.5}}


def write_short(folder: Path, model: str, **changes: Any) -> None:
    """A run of three epochs that saves after every iteration."""
    if model == "CSDModel":  # with our dataset, which takes keys by itself; the others with BasicSR's
        prepared = prepare_csd(folder, 4) | {"datasets:train:type": "PairedCropDataset"}
        prepared |= dict.fromkeys(("datasets:train:mean", "datasets:train:std"), option_files.REMOVED)
    else:
        prepared = prepare_dsclora(folder, 4) | {"network_g": ADAPTED, "model_type": model}
    if model == "EfficientSRModel":
        prepared = {name: prepared[name] for name in ("model_type", "network_g", "path:pretrain_network_g")}
    write_options(
        folder,
        **{
            **prepared,
            "datasets:train:dataset_enlarge_ratio": 2,
            "datasets:train:gt_size": 16,
            "train:total_iter": LAST,
            "train:scheduler:T_max": LAST,
            "train:warmup_iter": 4,
            "logger:save_checkpoint_freq": 1,
            "logger:use_tb_logger": False,
            "val:val_freq": 100,
            **changes,
        },
    )


@contextmanager
def log_of_its_own() -> Iterator[None]:
    """BasicSR sets its logger up once per process; a run inside has a file of its own, and this process's stderr."""
    from basicsr.utils.logger import initialized_logger

    def forget() -> None:
        initialized_logger.clear()
        log = logging.getLogger("basicsr")
        for handler in log.handlers[:]:
            log.removeHandler(handler)
            handler.close()

    forget()
    try:
        yield
    finally:
        forget()


def dscsr(*arguments: str) -> int:
    """A command in this process."""
    with log_of_its_own():
        return main(arguments)


def pipeline(folder: Path, *arguments: str) -> None:
    """`dscsr train` in this process: a fraction of a second for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = dscsr("train", "-opt", "opt.yml", *arguments)
    if code:
        raise RuntimeError(f"exit code {code}")


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dscsr train` in a process of its own."""
    return forks.finished(partial(dscsr, "train", "-opt", "opt.yml", *arguments), folder)


def train_until_killed(folder: Path, delay: float, *arguments: str, script: str | None = None) -> bool:
    """SIGKILL so many seconds after the console has told how to resume; whether the run was still going.

    Args:
        script: To be run in place of `dscsr`, as users of a clone run BasicSR's own.
    """

    def run() -> Any:
        tqdm.set_lock(threading.RLock())  # the one of before is this process's too, and the killed never give it back
        if script is None:
            return dscsr("train", "-opt", "opt.yml", *arguments)
        sys.argv = [script, "-opt", "opt.yml", *arguments]
        with log_of_its_own():
            runpy.run_path(script, run_name="__main__")
        return 0

    reading, writing = os.pipe()
    child = forks.Fork(run, folder, {}, writing, writing)
    os.close(writing)
    with os.fdopen(reading) as said:
        if any("to resume" in line for line in said):
            time.sleep(delay)
            child.kill()
        said.read()
    return child.wait() == -signal.SIGKILL


def experiment(folder: Path) -> Path:
    return folder / "experiments/tiny"


def last_log(folder: Path) -> str:
    """BasicSR names logs by the second: two runs in one share a file, which the later one begins anew."""
    return max(experiment(folder).glob("train_*.log")).read_text()


def weights_on_disk(folder: Path, name: str = "latest") -> dict[str, torch.Tensor]:
    content = read_pickle(experiment(folder) / f"models/net_g_{name}.pth")
    return {f"{key}.{layer}": tensor for key in ("params", "params_ema") for layer, tensor in content[key].items()}


def saved(folder: Path) -> list[int]:
    return checkpoints.iterations(experiment(folder) / "training_states")


def checkpoint(folder: Path, iteration: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network and the training state of an iteration."""
    root = experiment(folder)
    return read_pickle(root / f"models/net_g_{iteration}.pth"), read_pickle(root / f"training_states/{iteration}.state")


def resume_from(whole: Path, folder: Path, iteration: int) -> None:
    """Kill the run after this iteration, resume it, and compare all that follows with the run that went on."""
    shutil.copytree(whole, folder)
    for file in experiment(folder).glob("*/*"):
        number = file.stem.rpartition("_")[2]
        if file.parent.name in ("models", "training_states") and not (number.isdigit() and int(number) <= iteration):
            file.unlink()
    pipeline(folder, "--auto_resume")
    for later in range(iteration + 1, LAST + 1):
        (ours, names), (theirs, same) = tree_flatten(checkpoint(folder, later)), tree_flatten(checkpoint(whole, later))
        assert names == same
        for one, two in zip(ours, theirs, strict=True):
            equal = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
            assert equal, f"resumed from {iteration}, at {later}: {one}, {two}"
