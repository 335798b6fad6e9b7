"""Run ``dscsr`` commands as a user would: each is printed, and speaks for itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dscsr_arch.checkpoint import read_pickle
from dscsr_arch.errors import DscsrError
from dscsr_model.training import checkpoints


class Training(NamedTuple):
    """What a training was, and the folder of its experiment."""

    folder: Path
    iterations: int
    seconds: float


def run(*words: object) -> None:
    """Run ``dscsr`` with these words.

    Raises:
        DscsrError: It failed.
    """
    arguments = [str(word) for word in words]
    command = f"dscsr {shlex.join(arguments)}"
    print(f"$ {command}", flush=True)
    # Elsewhere than on a screen, the bars of what is soon done are litter.
    environment = os.environ if sys.stderr.isatty() else {**os.environ, "TQDM_DELAY": "10"}
    done = subprocess.run([sys.executable, "-m", "dscsr_model.cli", *arguments], env=environment, check=False)
    if done.returncode:
        raise DscsrError(f"`{command}` failed; its message stands above")


def seconds_of(option_file: str) -> float:
    """How long it trains."""
    return float(_read(option_file)["train"]["max_seconds"])


def train(option_file: str) -> Training:
    """Train by BasicSR's loop; tells what the last checkpoint says of it."""
    run("train", "-opt", option_file)
    folder = Path("experiments", _read(option_file)["name"])
    states = folder / "training_states"
    iterations = checkpoints.iterations(states)[-1]
    return Training(folder, iterations, read_pickle(states / f"{iterations}.state")["seconds"])


def _read(option_file: str) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(Path(option_file).read_text(encoding="utf-8"))
    return options
