"""Run ``dscsr`` commands as a user would, with BasicSR's long log kept in its files and a progress bar instead."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from dscsr_arch.errors import DscsrError

_PROGRESS = re.compile(r"iter: *([\d,]+).*?l_pix: (\S+)")
_METRIC = re.compile(r"# ([\w.]+): (\S+)")  # of a network with several widths: psnr_w0.5


def run(*words: object, follow: Callable[[str], object] | None = None) -> None:
    """Run a command.

    Args:
        *words: Behind ``dscsr``.
        follow: Is given the lines of its output, of which only the end is shown, and only if it fails; without it the
            command speaks for itself.

    Raises:
        DscsrError: It failed.
    """
    arguments = [str(word) for word in words]
    _say(f"$ dscsr {shlex.join(arguments)}")
    end: deque[str] = deque(maxlen=20)
    pipes: dict[str, Any] = {} if follow is None else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-m", "dscsr_model.cli", *arguments], text=True, **pipes) as process:
        for line in process.stdout or ():
            end.append(line)
            if follow is not None:
                follow(line)
    if process.returncode:
        told = "its message stands above" if follow is None else f"the end of its output:\n{''.join(end)}"
        raise DscsrError(f"`dscsr {shlex.join(arguments)}` failed; {told}")


def train(option_file: str) -> float:
    """Train by BasicSR's loop, with a progress bar; returns the seconds it took."""
    total = _read(option_file)["train"]["total_iter"]
    start = time.perf_counter()
    with tqdm(total=total, unit="it", mininterval=0.5 if sys.stderr.isatty() else 20, ncols=100) as bar:
        run("train", "-opt", option_file, follow=partial(report, bar=bar))
        bar.update(total - bar.n)
    return time.perf_counter() - start


def test(option_file: str) -> tuple[Path, Path]:
    """Test by BasicSR's loop; returns the weights it used and the folder of its images."""
    run("test", "-opt", option_file, follow=report)
    options = _read(option_file)
    dataset = next(iter(options["datasets"].values()))
    images = Path("results", options["name"], "visualization", dataset["name"])
    return Path(options["path"]["pretrain_network_g"]), images


def report(line: str, bar: tqdm | None = None) -> None:
    """Turn a line of BasicSR's log into progress of ``bar``, or into a line of ours about a metric."""
    if bar is not None and (found := _PROGRESS.search(line)):
        bar.set_postfix_str(f"loss {float(found[2]):.4f}", refresh=False)
        bar.update(int(found[1].replace(",", "")) - bar.n)
    elif found := _METRIC.search(line):
        at = f"at iteration {bar.n:,}: " if bar is not None else ""
        metric, _, width = found[1].upper().partition("_W")
        _say(f"  held-out photographs {at}{metric} {found[2]}{f' at width {width}' if width else ''}")


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def _read(option_file: str) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(Path(option_file).read_text(encoding="utf-8"))
    return options
