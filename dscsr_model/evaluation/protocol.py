"""A network against the truth: its output clamped and rounded to 8 bits, the mean over images, each counted alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscsr_model.evaluation.metrics import psnr

Image = NDArray[np.uint8]
"""(H, W, C), RGB or gray."""


class Quality(NamedTuple):
    """Means over images, in dB."""

    psnr: float
    """On R, G and B, as NTIRE's efficient-SR track has it, or on the one channel of gray images."""
    psnr_y: float
    """On the luma of BT.601, as papers have it; the same as ``psnr`` for gray images."""
    images: int


def evaluate(forward: Callable[[Tensor], Tensor], pairs: Iterable[tuple[Image, Image]], border: int) -> Quality:
    """Super-resolve images and compare them with the truth.

    Args:
        forward: From (1, C, H, W) to (1, C, H·s, W·s), in [0, 1], as engines and networks do.
        pairs: LR and HR image of each; at least one pair, with HR of the size that ``forward`` makes of LR.
        border: Pixels of HR left out at each side: the scale.
    """
    figures = []
    for lr, hr in pairs:
        result = super_resolve(forward, lr)
        figures.append((psnr(result, hr, border), psnr(result, hr, border, luma=True)))
    rgb, luma = zip(*figures, strict=True)
    return Quality(fmean(rgb), fmean(luma), len(figures))


def as_input(image: Image) -> Tensor:
    """An image as (1, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255


def super_resolve(forward: Callable[[Tensor], Tensor], image: Image) -> Image:
    """From (H, W, C) to (H·s, W·s, C), both uint8."""
    y = (forward(as_input(image))[0].clamp(0, 1) * 255).round().to(torch.uint8)
    result: Image = y.permute(1, 2, 0).cpu().numpy()
    return result
