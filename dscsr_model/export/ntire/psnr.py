"""The challenge's PSNR: RGB of 8 bits, 4 pixels cut off each side, the mean over all images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dscsr_arch.errors import DscsrError, ImageError
from dscsr_model.data.image_io import read_header, read_rgb
from dscsr_model.data.pairing import find_images, listed, pair
from dscsr_model.evaluation.protocol import Image, evaluate

SCALE = 4
BORDER = 4
THRESHOLD = 26.90
"""dB on DIV2K_LSDIR_valid: a submission below it is not ranked."""

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class Pair(NamedTuple):
    """Files of one image."""

    hr: Path
    lr: Path


def find_pairs(hr_folder: Path, lr_folder: Path) -> list[Pair]:
    """Pair the images of two folders: ``0001.png`` with ``0001x4.png``, as the challenge names them, or ``0001.png``.

    Only the files' heads are read; whatever does not fit is told at once.

    Raises:
        DscsrError: A folder is none, or empty; an HR image has no LR image, or none of a quarter of its size.
    """
    names = pair(find_images(hr_folder), find_images(lr_folder), SCALE)
    pairs = [Pair(hr_folder / hr, lr_folder / lr) for hr, lr in names.items()]
    if faults := [fault for each in pairs if (fault := _size_fault(each))]:
        raise DscsrError(
            f"an LR image of a quarter of the size for every image in {hr_folder}",
            listed(faults, "fault"),
            "Give --data HR LR, such as DIV2K_LSDIR_valid_HR DIV2K_LSDIR_valid_LR.",
        )
    return pairs


def mean_psnr(network: nn.Module, pairs: list[Pair], progress: Progress) -> float:
    """The mean PSNR in dB of ``network`` over ``pairs``, on the GPU if there is one.

    Raises:
        ImageError: An image is broken.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    images = ((read_rgb(each.lr), _cut(read_rgb(each.hr))) for each in progress(pairs, "PSNR", len(pairs)))
    with torch.inference_mode():
        return evaluate(lambda x: network(x.to(device)), images, BORDER).psnr


def _cut(image: Image) -> Image:
    """Leave out what is more than a multiple of the scale, at the right and at the bottom."""
    return image[: image.shape[0] // SCALE * SCALE, : image.shape[1] // SCALE * SCALE]


def _size_fault(files: Pair) -> str | None:
    try:
        large, small = read_header(files.hr), read_header(files.lr)
    except ImageError as error:
        return str(error)
    expected = large.height // SCALE, large.width // SCALE
    if (small.height, small.width) != expected or min(expected) * SCALE <= 2 * BORDER:
        names = f"{files.lr.name}: {small.height}x{small.width} to {files.hr.name}"
        return f"{names} of {large.height}x{large.width}"
    return None
