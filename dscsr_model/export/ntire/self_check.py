"""Run `bare_check` on a submission's file in a bare process, and judge its answer."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import DscsrError
from dscsr_model.export.compare import soft_image
from dscsr_model.export.ntire import bare_check
from dscsr_model.export.ntire.own_file import OwnFile
from dscsr_model.export.ntire.single_file import single_file
from dscsr_model.profiling.machine import processor

SIZE = (256, 256)
"""Of the input for which the challenge counts operations."""

TOLERANCE = 1e-4
"""Largest difference from the trained network, both in float64, as part of the largest value (at least 1): weights that
were merged from training branches, or folded, are rounded to float32 once. A step of 8 bits is 40 times as much."""

LIMIT = 900
"""Seconds for the whole check, which takes some."""

_STEPS = {
    "import": ("{0} to be imported", "Correct it: the challenge imports it alone."),
    "build": ("{1} to be built by what --set says, as the challenge does", "Correct --set, or the file."),
    "weights": ("weights that fit {1}", "Check --class and --set; --param-key names other weights of the file."),
    "run": (
        "{1} to run on images of odd sizes",
        "The challenge's have any size: whatever it pads, it has to pad itself.",
    ),
    "size": ("{1} to make one image (1, 3, 4H, 4W) of one (1, 3, H, W)", "The challenge asks for that."),
    "warm": ("{1} to do the same when an image ran through it before its weights came", "The kit warms a GPU up so."),
    "finite": ("{1} to give finite numbers", "Take other weights, or the right --data-range."),
    "count": ("fvcore to count {1}, as the challenge does", "It traces the network: leave out what it stumbles on."),
}
"""What is wrong with a network of the user's own when this step of the check fails, and what to do."""


class Job(NamedTuple):
    """What is checked."""

    file: str
    class_name: str
    weights: str
    border: int
    """Pixels of the output, from each side, in which it may differ from the trained network's."""
    seconds: float
    """How long to take the time; 0: not at all."""


class Figures(NamedTuple):
    """What the bare process found."""

    parameters: int
    flops: int
    activations: int
    convolutions: int
    inside: float
    """Largest difference from the trained network, in float64."""
    at_border: float
    """The same where the file may differ from it by design (`folding.BORDER`)."""
    sizes: list[list[int]]
    python: str
    torch: str
    counted_by: str = ""
    """What has counted ``flops``; nothing: the convolutions alone were counted."""
    likeness: float | None = None
    """Of a network of the user's own: PSNR between its input and its output, reduced to that size."""
    runtime_ms: float | None = None
    baseline_ms: float | None = None
    """Of SPAN with 28 channels, the baseline of 2026, in the same process."""
    runs: int = 0
    machine: str = ""


def self_check(job: Job, network: nn.Module | OwnFile, folder: Path, python: str | None = None) -> Figures:
    """Check a submission's file and weights against the trained network.

    Args:
        job: The submission.
        network: As it was trained; or the user's own file, which is the trained one itself.
        folder: An empty one for what the two processes tell each other.
        python: Interpreter of the bare process, as a path or as on the PATH; None: this one.

    Raises:
        DscsrError: The file does not do what the trained network does, or not alone.
    """
    interpreter = sys.executable if python is None else _found(python)
    examples, baseline = folder / "examples.pth", folder / "baseline.py"
    own = isinstance(network, OwnFile)
    pairs = images_for(network) if isinstance(network, OwnFile) else examples_of(network, job.border)
    save_state_dict({"examples": pairs}, examples)
    text = single_file(SPAN(feature_channels=28).fuse()).text("Baseline", "The baseline of 2026.")
    baseline.write_text(text, encoding="utf-8")  # its weights do not matter for its time
    files = {"examples": str(examples), "baseline": str(baseline), "size": SIZE, "own": own}
    told = json.dumps({**job._asdict(), **files, "packages": _packages(None if python is None else interpreter)})
    command = [interpreter, "-I", "-S", "-W", "ignore", os.path.abspath(bare_check.__file__)]  # no environment, no site
    try:
        ended = subprocess.run(
            command, input=told, cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as error:
        remedy = "Look for a loop without end. Nothing was kept."
        raise DscsrError(f"the file to be checked within {LIMIT} seconds", "no end", remedy) from error
    if ended.returncode or not ended.stdout:
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise DscsrError(
            "the file to run alone in a bare process",
            f"{last} (from {' '.join(command[:3])} …)",
            "Nothing was kept. If the interpreter lacks torch, name another; a file must not end the process itself.",
        )
    answer = json.loads(ended.stdout)
    if "failed" in answer:
        raise failed(answer["failed"], network)
    figures = judge(answer)
    return figures if torch.cuda.is_available() else figures._replace(machine=f"{processor()}, {figures.machine}")


def judge(answer: dict[str, Any]) -> Figures:
    """The figures in the answer of `bare_check`.

    Raises:
        DscsrError: The process was not bare, or the images differ by more than `TOLERANCE`, or are NaN.
    """
    if seen := sorted(set(bare_check.FORBIDDEN) - set(answer.pop("hidden"))):
        raise DscsrError(
            f"a bare process that has no {', '.join(seen)}",
            "one that could import them, so that the check says nothing",
            "Please report this.",
        )
    largest, inside = answer.pop("largest"), answer["inside"]
    if not inside <= TOLERANCE * max(1.0, largest):  # NaN is no pass
        raise DscsrError(
            f"the file to give the trained network's images up to {TOLERANCE:g}",
            f"images that differ by {inside:.2e} (of at most {largest:.2e})",
            "Nothing was kept. Weights that are broken (NaN) do this; if yours are not, please report it.",
        )
    return Figures(**answer)


def failed(what: Sequence[str], network: nn.Module | OwnFile) -> DscsrError:
    """A step of the check failed, saying so: what to do about a user's file, or that one of ours is to be reported."""
    step, said = what
    if not isinstance(network, OwnFile):
        return DscsrError("the file to run alone in a bare process", said, "Nothing was kept. Please report this.")
    words, remedy = _STEPS[step]
    lines = [line.strip()[:300] for line in said.splitlines() if "Error(s) in loading state_dict" not in line]
    got = " ".join(lines).rstrip(".")
    return DscsrError(words.format(network.path, network.network), got, f"{remedy} Nothing was kept.")


def images_for(own: OwnFile) -> list[tuple[Tensor, Tensor]]:
    """Images of odd sizes for a network of the user's own, as large as padding by any window takes; each twice."""
    generator = torch.Generator().manual_seed(0)
    images = [own.data_range * soft_image((1, 3, *size), generator) for size in ((97, 130), (115, 89))]
    return [(image, image) for image in images]


@torch.no_grad()
def examples_of(network: nn.Module, border: int) -> list[tuple[Tensor, Tensor]]:
    """Images of random sizes, larger than two borders, and what the trained network makes of them, in float64."""
    trained = copy.deepcopy(network).cpu().double().eval()
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(border // 2 + 16, border // 2 + 48, (3, 2), generator=generator).tolist()
    images = [soft_image((1, 3, *size), generator).double() for size in sizes]
    return [(image, trained(image)) for image in images]


def _found(python: str) -> str:
    """The interpreter as a whole path, symbolic links as they are: a virtual environment is known by its link."""
    found = shutil.which(python)
    if found is None:
        raise DscsrError(f"a Python interpreter at {python}", "none", "Name one that has torch.")
    return os.path.abspath(found)


def _packages(python: str | None) -> list[str]:
    """Folders of installed packages of an interpreter, which a bare one does not look into by itself."""
    if python is None:
        return [str(Path(torch.__file__).parents[1]), *(path for path in sys.path if path.endswith("-packages"))]
    code = "import json, sys; print(json.dumps([p for p in sys.path if p.endswith('-packages')]))"
    try:
        ended = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
        folders: list[str] = json.loads(ended.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1].rstrip(".")
        raise DscsrError(f"a Python interpreter at {python}", said, "Name one that has torch.") from error
    return folders
