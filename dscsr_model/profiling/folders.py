"""Folders of images: those to time a network on, and pairs to measure its PSNR on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import in_channels, read_rgb
from dscsr_model.data.pairing import find_images, pair
from dscsr_model.evaluation.protocol import Image, Quality, as_input, evaluate
from dscsr_model.inference.engines import Engine
from dscsr_model.profiling.latency import progress


def evaluate_folders(engine: Engine, hr: Path, lr: Path) -> Quality:
    """PSNR of ``engine`` on the images of two folders, paired by name; a border as wide as the scale is left out."""
    if engine.channels not in (1, 3):
        raise DscsrError(
            "a network of RGB or gray images", f"one that takes {engine.channels} channels", "Leave --data out."
        )

    def images() -> Iterator[tuple[Image, Image]]:
        for names in progress(list(pair(find_images(hr), find_images(lr), engine.scale).items()), "PSNR"):
            files = (os.path.join(folder, name) for folder, name in zip((hr, lr), names, strict=True))
            large, small = (in_channels(read_rgb(file), engine.channels) for file in files)
            _check_sizes(small, large, engine.scale, *names)
            yield small, large

    return evaluate(engine, images(), engine.scale)


def read_images(folder: Path) -> tuple[Tensor, ...]:
    """All images of a folder, each (1, 3, H, W) RGB float32 in [0, 1]."""
    return tuple(as_input(read_rgb(os.path.join(folder, name))) for name in find_images(folder))


def _check_sizes(lr: Image, hr: Image, scale: int, hr_name: str, lr_name: str) -> None:
    height, width = hr.shape[:2]
    made = lr.shape[0] * scale, lr.shape[1] * scale
    if made != (height, width):
        raise DscsrError(
            f"{lr_name} to become {width}×{height} pixels as {hr_name} has",
            f"{made[1]}×{made[0]} of a network ×{scale}",
            "Give LR images of that scale.",
        )
    if min(height, width) <= 2 * scale:
        raise DscsrError(f"more pixels than the border of {scale}", f"{width}×{height} in {hr_name}", "Leave it out.")
