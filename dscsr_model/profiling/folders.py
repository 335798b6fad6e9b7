"""Folders of images: those to time a network on, and pairs to measure its PSNR on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from dscsr_arch.errors import DscsrError, ImageError
from dscsr_model.data.image_io import in_channels, read_header, read_rgb
from dscsr_model.data.pairing import find_images, listed, pair
from dscsr_model.evaluation.protocol import Image, Quality, as_input, evaluate
from dscsr_model.inference.engines import Engine
from dscsr_model.profiling.latency import progress

Pairs = list[tuple[Path, Path]]
"""HR and LR images."""
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Hands on items, of this label and number."""


def evaluate_folders(engine: Engine, hr: Path, lr: Path) -> Quality:
    """PSNR of ``engine`` on the images of two folders; see `find_pairs` and `quality_of`."""
    if engine.channels not in (1, 3):
        raise DscsrError(
            "a network of RGB or gray images", f"one that takes {engine.channels} channels", "Leave --data out."
        )
    return quality_of(engine, find_pairs(hr, lr, engine.scale), engine.scale, progress, engine.channels)


def find_pairs(hr_folder: Path, lr_folder: Path, scale: int) -> Pairs:
    """HR and LR images of two folders, paired by name: ``0001.png`` with ``0001x4.png`` or ``0001.png``.

    Only the files' heads are read; whatever does not fit is told at once.

    Raises:
        DscsrError: A folder is none, or empty; an HR image has no LR image, or none whose size is its own by ``scale``,
            rounded down; or nothing of it is inside its border.
    """
    names = pair(find_images(hr_folder), find_images(lr_folder), scale)
    pairs = [(hr_folder / hr, lr_folder / lr) for hr, lr in names.items()]
    if faults := [fault for each in pairs if (fault := _size_fault(*each, scale))]:
        raise DscsrError(
            f"an LR image of 1/{scale} of the size for every image in {hr_folder}, which is larger than its border",
            listed(faults, "fault"),
            f"Give folders of scale {scale}, such as Set5/HR and Set5/LRbicx{scale}.",
        )
    return pairs


def quality_of(
    forward: Callable[[Tensor], Tensor], pairs: Pairs, scale: int, progress: Progress, channels: int = 3
) -> Quality:
    """PSNR of ``forward`` on `find_pairs`, as BasicSR and NTIRE have it.

    Of HR what is more than a multiple of the scale is cut off at the right and at the bottom, and of the rest a border
    as wide as the scale is left out.

    Raises:
        ImageError: An image is broken.
    """

    def images() -> Iterator[tuple[Image, Image]]:
        for files in progress(pairs, "PSNR", len(pairs)):
            large, small = (in_channels(read_rgb(file), channels) for file in files)
            yield small, large[: scale * small.shape[0], : scale * small.shape[1]]

    return evaluate(forward, images(), scale)


def read_images(folder: Path) -> tuple[Tensor, ...]:
    """All images of a folder, each (1, 3, H, W) RGB float32 in [0, 1]."""
    return tuple(as_input(read_rgb(os.path.join(folder, name))) for name in find_images(folder))


def _size_fault(hr: Path, lr: Path, scale: int) -> str | None:
    try:
        large, small = read_header(hr), read_header(lr)
    except ImageError as error:
        return str(error)
    expected = large.height // scale, large.width // scale
    if (small.height, small.width) == expected and min(expected) > 2:
        return None
    return f"{lr.name}: {small.height}x{small.width} to {hr.name} of {large.height}x{large.width}"
