"""Figures of the demo: PSNR and SSIM on the luma, parameters, seconds; and the table of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
from PIL import Image
from tabulate import tabulate

from dscsr_arch import load_model
from dscsr_arch.deployable import deployable
from dscsr_model.cli.demo.photographs import in_pairs
from dscsr_model.data.bicubic import resize
from dscsr_model.data.image_io import read_rgb
from dscsr_model.evaluation.metrics import psnr, ssim
from dscsr_model.evaluation.protocol import as_input


class Row(NamedTuple):
    """A row of the table; PSNR in dB, times in seconds of wall clock."""

    label: str
    psnr_y: float
    ssim_y: float
    parameters: int | None
    training: float | None
    upscaling: float


def bicubic(held_out: Path, out: Path, scale: int) -> Row:
    """Enlarge the held-out photographs by bicubic interpolation into ``out``, and score that."""
    out.mkdir(parents=True, exist_ok=True)
    seconds = []
    for path in sorted((held_out / "LQ").glob("*.png")):
        image = read_rgb(path)
        seconds.append(_seconds(partial(resize, image, scale)))
        Image.fromarray(resize(image, scale)).save(out / path.name)
    return Row("bicubic", *_quality(out, held_out, scale), None, None, median(seconds))


@torch.no_grad()
def network(label: str, weights: Path, images: Path, held_out: Path, scale: int, training: float) -> Row:
    """Score the ``images`` that BasicSR's test loop made with ``weights``; the network is timed fused."""
    fused = deployable(load_model(weights))
    parameters = sum(parameter.numel() for parameter in fused.parameters())
    inputs = [as_input(read_rgb(path)) for path in sorted((held_out / "LQ").glob("*.png"))]
    seconds = [_seconds(partial(fused, x)) for x in inputs]
    return Row(label, *_quality(images, held_out, scale), parameters, training, median(seconds))


def table(rows: Sequence[Row]) -> str:
    """The rows as text, the first of them what the others are compared with."""
    cells = [
        (
            row.label,
            f"{row.psnr_y:.2f} dB",
            f"{row.ssim_y:.4f}",
            "-" if row.parameters is None else f"{row.parameters:,}",
            "-" if row.training is None else f"{row.training:.0f} s",
            f"{row.upscaling:.3f} s",
        )
        for row in rows
    ]
    headers = ("", "PSNR-Y", "SSIM-Y", "parameters", "training", "per image")
    return tabulate(cells, headers, disable_numparse=True, colalign=("left", *["right"] * 5))


def _quality(images: Path, held_out: Path, scale: int) -> tuple[float, float]:
    pairs = [(read_rgb(made), read_rgb(truth)) for _, made, truth in in_pairs(images, held_out / "GT")]
    decibels = [psnr(*pair, scale, luma=True) for pair in pairs]
    return mean(decibels), mean(ssim(*pair, scale, luma=True) for pair in pairs)


def _seconds(run: Callable[[], object]) -> float:
    """The median of three runs after one that warms up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times[1:])
