"""PSNR as NTIRE's efficient-SR track measures it: on 8-bit RGB, without a border as wide as the scale."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import in_channels, read_rgb
from dscsr_model.data.pairing import find_images, pair
from dscsr_model.inference.engines import Engine

_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Of R, G, B in [0, 255], ITU-R BT.601, as MATLAB's rgb2ycbcr; papers report PSNR on this Y."""


class Quality(NamedTuple):
    """Means over images, in dB."""

    psnr: float
    """On R, G and B, or on the one channel of a gray network."""
    psnr_y: float
    """On the luma of BT.601, or the same as ``psnr``."""
    images: int


def evaluate(engine: Engine, hr: Path, lr: Path, watch: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> Quality:
    """Super-resolve all images of a folder and compare them with the truth.

    The output is clamped and rounded to 8 bits; ``scale`` pixels at every side are left out; the mean is over
    images, each counted alike.

    Args:
        engine: From RGB to RGB, or gray to gray, whose levels are then compared for both figures.
        hr: Folder of the truth.
        lr: Folder of the images that go in; names as `pairing.pair` matches them.
        watch: Wraps the pairs, for a progress bar.

    Raises:
        DscsrError: The network has other channels, images are missing or broken, or sizes do not fit.
    """
    if engine.channels not in (1, 3):
        raise DscsrError(
            f"Expected a network of RGB or gray images, but it takes {engine.channels} channels. Leave --data."
        )
    pairs = pair(find_images(hr), find_images(lr), engine.scale)
    rgb, luma = [], []
    for hr_name, lr_name in watch(list(pairs.items())):
        truth = in_channels(read_rgb(os.path.join(hr, hr_name)), engine.channels)
        result = super_resolve(engine, in_channels(read_rgb(os.path.join(lr, lr_name)), engine.channels))
        if result.shape != truth.shape:
            raise DscsrError(
                f"Expected {lr_name} to become {truth.shape[1]}×{truth.shape[0]} pixels as {hr_name} has, but "
                f"a network ×{engine.scale} makes {result.shape[1]}×{result.shape[0]}. Give LR images of that scale."
            )
        if min(truth.shape[:2]) <= 2 * engine.scale:
            raise DscsrError(
                f"Expected more pixels than the border of {engine.scale}, but {hr_name} has "
                f"{truth.shape[1]}×{truth.shape[0]}. Leave it out."
            )
        rgb.append(psnr(result, truth, engine.scale))
        luma.append(psnr(result @ _LUMA, truth @ _LUMA, engine.scale) if engine.channels == 3 else rgb[-1])
    return Quality(fmean(rgb), fmean(luma), len(rgb))


def read_images(folder: Path) -> tuple[Tensor, ...]:
    """All images of a folder, each (1, 3, H, W) RGB float32 in [0, 1].

    Raises:
        DscsrError: There are none, or one is broken.
    """
    return tuple(_as_input(read_rgb(os.path.join(folder, name))) for name in find_images(folder))


def _as_input(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255


def super_resolve(engine: Callable[[Tensor], Tensor], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """From (H, W, C) to (H·s, W·s, C), both uint8, by an engine or anything else that maps images as one does."""
    y = (engine(_as_input(image))[0].clamp(0, 1) * 255).round().to(torch.uint8)
    result: NDArray[np.uint8] = y.permute(1, 2, 0).cpu().numpy()
    return result


def psnr(one: NDArray[Any], other: NDArray[Any], border: int) -> float:
    """``10·log10(255² / mean squared difference)`` of two images in [0, 255], without their borders; inf if equal."""
    inside = (slice(border, -border or None),) * 2
    error = np.mean((one[inside].astype(np.float64) - other[inside]) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))
