"""Figures of the demo: PSNR and SSIM on the luma, parameters, seconds; and the table of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
from PIL import Image as ImageFile
from tabulate import tabulate

from dscsr_arch import load_model
from dscsr_arch.deployable import deployable
from dscsr_model.cli.demo.commands import Training
from dscsr_model.data.bicubic import resize
from dscsr_model.data.image_io import read_rgb
from dscsr_model.evaluation.metrics import psnr, ssim
from dscsr_model.evaluation.protocol import Image, super_resolve


class Row(NamedTuple):
    """A row of the table; PSNR in dB, seconds of wall clock."""

    label: str
    psnr_y: float
    ssim_y: float
    upscaling: float
    parameters: int | None = None
    iterations: int | None = None
    training: float | None = None


def bicubic(held_out: Path, out: Path, scale: int) -> Row:
    """Enlarge the held-out photographs by bicubic interpolation into ``out``, and score that."""
    return Row("bicubic", *_scored(lambda image: resize(image, scale), out, held_out, scale))


@torch.no_grad()
def network(label: str, weights: Path, out: Path, held_out: Path, scale: int, training: Training | None = None) -> Row:
    """Enlarge the held-out photographs by a network, fused, into ``out``, and score that."""
    fused = deployable(load_model(weights))
    scored = _scored(partial(super_resolve, fused), out, held_out, scale)
    parameters = sum(parameter.numel() for parameter in fused.parameters())
    return Row(label, *scored, parameters, *((training.iterations, training.seconds) if training else ()))


def psnr_of(images: Path, held_out: Path, name: str, scale: int) -> float:
    """Of one photograph, on the luma."""
    return psnr(read_rgb(images / f"{name}.png"), read_rgb(held_out / "GT" / f"{name}.png"), scale, luma=True)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    cells = [
        (
            row.label,
            f"{row.psnr_y:.2f} dB",
            f"{row.ssim_y:.4f}",
            "-" if row.parameters is None else f"{row.parameters:,}",
            "-" if row.training is None else f"{row.training:.0f} s, {row.iterations:,} iterations",
            f"{row.upscaling:.3f} s",
        )
        for row in rows
    ]
    headers = ("", "PSNR-Y", "SSIM-Y", "parameters", "trained here", "per image")
    return tabulate(cells, headers, disable_numparse=True, colalign=("left", *["right"] * 5))


def _scored(enlarge: Callable[[Image], Image], out: Path, held_out: Path, scale: int) -> tuple[float, float, float]:
    """PSNR, SSIM and the median of the seconds of the photographs, whose enlarged images are left in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    qualities, times = [], []
    for path in sorted((held_out / "LQ").glob("*.png")):
        lr, truth = read_rgb(path), read_rgb(held_out / "GT" / path.name)
        enlarge(lr)  # warms up
        start = time.perf_counter()
        image = enlarge(lr)
        times.append(time.perf_counter() - start)
        ImageFile.fromarray(image).save(out / path.name)
        qualities.append((psnr(image, truth, scale, luma=True), ssim(image, truth, scale, luma=True)))
    decibels, similarities = zip(*qualities, strict=True)
    return mean(decibels), mean(similarities), median(times)
