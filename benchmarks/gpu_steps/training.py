"""The shipped SPAN-26 x4, trained from random weights for the time that is left, from stored outputs of its teacher."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from dscsr_model.cli import main as dscsr
from gpu_steps.photographs import photographs
from gpu_steps.plan import Figure, Plan

ROOT = Path(__file__).parents[2]
OPTIONS = ROOT / "options" / "train_shipped_span_x4.yml"
AFTERWARDS = 12.0
"""Seconds for validations, which the clock of a training does not count, and for saving."""
_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ INFO: (.*)")
_METRIC = re.compile(r"\t # (\S+): (\S+)")


def figures(plan: Plan) -> Iterator[Figure]:
    """Train; what came of it is in the log, which `results` reads, also of a training that was ended."""
    folder = plan.out / "training"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    opt = yaml.safe_load(OPTIONS.read_text(encoding="utf-8"))
    teacher = _data(plan, opt)
    _run("prepare", "--out", "datasets/bsds400", "--teacher", teacher, "--device", plan.device)
    opt["teacher"]["weights"] = teacher
    opt["datasets"]["train"]["dataroot_teacher"] = "datasets/bsds400/TEACHER_X4.lmdb"
    _enlarge(plan, opt)
    Path("options.yml").write_text(yaml.safe_dump(opt, sort_keys=False), encoding="utf-8")
    yield Figure("training", "started", plan.left, "s", note="left for it")
    _run("train", "-opt", "options.yml")


def results(out: Path) -> Iterator[Figure]:
    """PSNR over the time since the first line of the log; and the best weights, copied to ``out``."""
    folder = out / "training" / "experiments" / "train_shipped_span_x4"
    for log in sorted(folder.glob("train_*.log")):
        began, now, dataset = None, 0.0, ""
        for line in log.read_text(encoding="utf-8").splitlines():
            if found := _LINE.match(line):
                time = datetime.fromisoformat(found[1]).timestamp()
                began = began or time
                now = time - began
                dataset = found[2].removeprefix("Validation ") if found[2].startswith("Validation ") else ""
            elif dataset and (metric := _METRIC.match(line)):
                yield Figure(f"training: {dataset}", f"{metric[1]} after {now:.0f} s", float(metric[2]), "dB")
    for weights in folder.glob("models/net_g_best*.pth"):
        shutil.copyfile(weights, out / "span_x4_trained.pth")
        yield Figure("training", "weights", weights.stat().st_size / 2**10, "KiB", note="span_x4_trained.pth")


def _data(plan: Plan, opt: dict[str, Any]) -> str:
    """Pairs below datasets/, as the option file names them; gives the teacher."""
    if plan.assets is not None and not plan.smoke:
        sys.path.insert(0, str(ROOT / "datasets"))
        from bsds400 import collect

        assert collect(plan.assets) == 0
        return str(opt["teacher"]["weights"])
    gt = photographs(plan, Path("photographs"))
    whole = ("--scale", 4, "--crop-size", 0, "--hold-out", 1, *(("--workers", 1) if plan.smoke else ()))
    _run("prepare", "--gt", gt, "--out", "datasets/bsds400", *whole)
    held_out = opt["datasets"]["val_2"]
    held_out |= {"dataroot_gt": "datasets/bsds400/GT_val", "dataroot_lq": "datasets/bsds400/LQ_X4_val"}
    opt["datasets"] = {"train": opt["datasets"]["train"], "val": held_out}
    return "span_x4"


def _enlarge(plan: Plan, opt: dict[str, Any]) -> None:
    """Larger batches of larger patches, and workers, since a GPU has room for them; the schedule goes by the time."""
    data, train = opt["datasets"]["train"], opt["train"]
    if plan.smoke:
        data |= {"gt_size": 16, "batch_size_per_gpu": 2}
        train |= {"total_iter": 2, "warmup_iter": -1}
        train["scheduler"]["periods"] = [2]
        opt["val"]["val_freq"] = opt["logger"]["save_checkpoint_freq"] = 2
        return
    data |= {"gt_size": 192, "batch_size_per_gpu": 64, "num_worker_per_gpu": min(12, os.cpu_count() or 1)}
    if plan.device.type == "cuda":
        data |= {"prefetch_mode": "cuda", "pin_memory": True}
    train |= {"total_iter": 10**6, "max_seconds": max(10.0, plan.left - AFTERWARDS)}
    train["scheduler"]["periods"] = [10**6]
    opt["val"]["val_freq"] = opt["logger"]["save_checkpoint_freq"] = 1000


def _run(*words: object) -> None:
    """A command of ours."""
    if code := dscsr([str(word) for word in words]):
        raise RuntimeError(f"dscsr {words[0]} ended with {code}: see gpu.log")
