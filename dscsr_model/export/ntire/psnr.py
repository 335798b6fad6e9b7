"""The challenge's PSNR: RGB of 8 bits, 4 pixels cut off each side, the mean over all images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dscsr_arch.errors import DscsrError, ImageError
from dscsr_model.data.image_io import read_header, read_rgb
from dscsr_model.data.pairing import find_images, listed, pair
from dscsr_model.evaluation.protocol import Image, Quality, evaluate

SCALE = 4
BORDER = 4
THRESHOLD = 26.90
"""dB on DIV2K_LSDIR_valid: a submission below it is not ranked."""

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def find_pairs(hr_folder: Path, lr_folder: Path) -> list[tuple[Path, Path]]:
    """HR and LR image of two folders: ``0001.png``, and ``0001x4.png`` as the challenge names it, or ``0001.png``.

    Only the files' heads are read; whatever does not fit is told at once.

    Raises:
        DscsrError: A folder is none, or empty; an HR image has no LR image, or none of a quarter of its size.
    """
    names = pair(find_images(hr_folder), find_images(lr_folder), SCALE)
    pairs = [(hr_folder / hr, lr_folder / lr) for hr, lr in names.items()]
    if faults := [fault for each in pairs if (fault := _size_fault(*each))]:
        raise DscsrError(
            f"an LR image of a quarter of the size for every image in {hr_folder}",
            listed(faults, "fault"),
            "Give --data HR LR, such as DIV2K_LSDIR_valid_HR DIV2K_LSDIR_valid_LR.",
        )
    return pairs


def quality_of(network: nn.Module, pairs: list[tuple[Path, Path]], progress: Progress) -> Quality:
    """PSNR of ``network`` over pairs of HR and LR image, on the GPU if there is one.

    Raises:
        ImageError: An image is broken.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    images = ((read_rgb(lr), _cut(read_rgb(hr))) for hr, lr in progress(pairs, "PSNR", len(pairs)))
    with torch.inference_mode():
        return evaluate(lambda x: network(x.to(device)), images, BORDER)


def _cut(image: Image) -> Image:
    """Leave out what is more than a multiple of the scale, at the right and at the bottom."""
    return image[: image.shape[0] // SCALE * SCALE, : image.shape[1] // SCALE * SCALE]


def _size_fault(hr: Path, lr: Path) -> str | None:
    try:
        large, small = read_header(hr), read_header(lr)
    except ImageError as error:
        return str(error)
    expected = large.height // SCALE, large.width // SCALE
    if (small.height, small.width) == expected and min(expected) * SCALE > 2 * BORDER:
        return None
    return f"{lr.name}: {small.height}x{small.width} to {hr.name} of {large.height}x{large.width}"
