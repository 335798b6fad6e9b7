"""Figures of the demo: PSNR and SSIM as BasicSR computes them, parameters, seconds; and the table of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import cv2
import numpy as np
import torch

from dscsr_arch import load_model
from dscsr_arch.deployable import deployable
from dscsr_model.cli.demo.photographs import load
from dscsr_model.data.bicubic import resize
from dscsr_model.evaluation.metrics import psnr, ssim


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
    for path in _images(held_out / "LQ"):
        image = load(path)
        start = time.perf_counter()
        enlarged = resize(image, scale)
        seconds.append(time.perf_counter() - start)
        cv2.imwrite(str(out / path.name), enlarged)
    return Row("bicubic", *_quality(out, held_out, scale), None, None, median(seconds))


def network(label: str, weights: Path, images: Path, held_out: Path, scale: int, training: float) -> Row:
    """Score the ``images`` that BasicSR's test loop made with ``weights``; the network is timed fused."""
    fused = deployable(load_model(weights))
    parameters = sum(parameter.numel() for parameter in fused.parameters())
    times = [_seconds(fused, path) for path in _images(held_out / "LQ")]
    return Row(label, *_quality(images, held_out, scale), parameters, training, median(times))


def table(rows: Sequence[Row]) -> str:
    """The rows as text, the first of them what the others are compared with."""
    head = f"{'':16}{'PSNR-Y':>10}{'SSIM-Y':>9}{'parameters':>13}{'training':>11}{'per image':>14}"
    lines = [head, "-" * len(head)]
    for row in rows:
        parameters = "-" if row.parameters is None else f"{row.parameters:,}"
        training = "-" if row.training is None else f"{row.training:.0f} s"
        lines.append(
            f"{row.label:16}{row.psnr_y:7.2f} dB{row.ssim_y:9.4f}{parameters:>13}{training:>11}{row.upscaling:12.3f} s"
        )
    return "\n".join(lines)


def _quality(images: Path, held_out: Path, scale: int) -> tuple[float, float]:
    decibels, similarities = [], []
    for path in _images(held_out / "GT"):
        # BasicSR's test loop appends the name of the run to that of the image.
        (made,) = images.glob(f"{path.stem}*.png")
        sr, gt = (load(each)[:, :, ::-1] for each in (made, path))
        decibels.append(psnr(sr, gt, scale, luma=True))
        similarities.append(ssim(sr, gt, scale, luma=True))
    return mean(decibels), mean(similarities)


@torch.no_grad()
def _seconds(model: torch.nn.Module, path: Path) -> float:
    image = cv2.cvtColor(load(path), cv2.COLOR_BGR2RGB)
    batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
    times = []
    for _ in range(4):  # the first is warm-up
        start = time.perf_counter()
        model(batch)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _images(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*.png")))
