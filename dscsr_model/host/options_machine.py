"""What of an option file depends on the machine: GPUs, processes, memory, and a place to write."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dscsr_model.host.options_structure import Run


def check_gpus(run: Run) -> None:
    """Report more GPUs than there are. `--launcher` counts processes instead; there `num_gpu` only means "not 0"."""
    wanted, there = run.options.get("num_gpu"), gpus_there()
    if run.report.has("num_gpu") or not isinstance(wanted, int):
        return
    if wanted > 0 and there == 0:
        got = f"{wanted}, and PyTorch {torch.__version__} sees no usable GPU here"
        remedy = "Set `num_gpu: auto`, or 0 for the CPU; `dscsr doctor` says why no GPU is seen."
        run.report.add(("num_gpu",), "`auto` or 0", got, remedy)
    elif wanted > there and run.launcher == "none":
        run.report.add(("num_gpu",), f"at most {there}, the GPUs of this machine", str(wanted), "Set `num_gpu: auto`.")


def check_place(run: Run) -> None:
    """Report that what BasicSR writes has no place: it makes the folder before it opens its log."""
    folder = Path("experiments" if run.is_train else "results")
    if folder.exists() and not folder.is_dir():
        got = f"a file `{folder}` in {Path.cwd()}"
        run.report.add(("name",), f"a folder `{folder}`, or none yet", got, "Move it away.")


def gpus_there() -> int:
    """How many GPUs PyTorch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def processes(launcher: str) -> int:
    """How many processes train together, by the launcher's environment."""
    if launcher == "none":
        return 1
    value = os.environ.get("SLURM_NTASKS" if launcher == "slurm" else "WORLD_SIZE", "1")
    return max(1, int(value)) if value.isdigit() else 1
