"""Run ``dscsr`` commands as a user would, with BasicSR's long log kept in its files and a progress bar instead."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from dscsr_arch.errors import DscsrError

_PROGRESS = re.compile(r"iter: *([\d,]+).*?l_pix: (\S+)")
_METRIC = re.compile(r"# ([\w.]+): (\S+)")  # of a network with several widths: psnr_w0.5


def show(*words: object) -> None:
    """Run a command that speaks for itself.

    Raises:
        DscsrError: It failed.
    """
    arguments = _announce(words)
    if subprocess.run([sys.executable, "-m", "dscsr_model.cli", *arguments], check=False).returncode:
        raise DscsrError(f"`dscsr {shlex.join(arguments)}` failed; its message stands above.")


def train(option_file: str) -> float:
    """Train by BasicSR's loop, with a progress bar; returns the seconds it took."""
    total = read(option_file)["train"]["total_iter"]
    start = time.perf_counter()
    with tqdm(total=total, unit="it", mininterval=0.5 if sys.stderr.isatty() else 20, ncols=100) as bar:
        _follow(bar, "train", "-opt", option_file)
        bar.update(total - bar.n)
    return time.perf_counter() - start


def test(option_file: str) -> tuple[Path, Path]:
    """Test by BasicSR's loop; returns the weights it used and the folder of its images."""
    _follow(None, "test", "-opt", option_file)
    options = read(option_file)
    dataset = next(iter(options["datasets"].values()))
    images = Path("results", options["name"], "visualization", dataset["name"])
    return Path(options["path"]["pretrain_network_g"]), images


def read(option_file: str) -> dict[str, Any]:
    """The options in a file."""
    options: dict[str, Any] = yaml.safe_load(Path(option_file).read_text(encoding="utf-8"))
    return options


def _announce(words: tuple[object, ...]) -> list[str]:
    arguments = [str(word) for word in words]
    tqdm.write(f"$ dscsr {shlex.join(arguments)}", file=sys.stdout)
    sys.stdout.flush()
    return arguments


def _follow(bar: tqdm | None, *words: str) -> None:
    """Run a command and turn its log into progress; show the end of the log only if it fails."""
    arguments = _announce(words)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "dscsr_model.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            _report(line, bar)
    if process.returncode:
        raise DscsrError(f"`dscsr {shlex.join(arguments)}` failed. The end of its output:\n{''.join(lines[-20:])}")


def _report(line: str, bar: tqdm | None) -> None:
    if bar is not None and (found := _PROGRESS.search(line)):
        bar.set_postfix_str(f"loss {float(found[2]):.4f}", refresh=False)
        bar.update(int(found[1].replace(",", "")) - bar.n)
    elif found := _METRIC.search(line):
        at = f"at iteration {bar.n:,}: " if bar is not None else ""
        metric, _, width = found[1].upper().partition("_W")
        of = f" at width {width}" if width else ""
        tqdm.write(f"  held-out photographs {at}{metric} {found[2]}{of}", file=sys.stdout)
        sys.stdout.flush()
