"""Images that 8-bit networks are calibrated on and, others of the same set, measured on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DataError
from dscsr_model.data.basicsr_pairs import check_keys
from dscsr_model.data.image_io import in_channels
from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.pairing import find_images
from dscsr_model.data.sources import FileSource, ImageSource
from dscsr_model.profiling.folders import find_pairs

MOST, SIDE = 48, 128
"""Images that are read, evenly spread over the set; and the longest side of what is taken of each, its middle."""
_HELD_OUT = 3  # every third

Image = NDArray[np.uint8]
"""(H, W, C)."""


class Sample(NamedTuple):
    """The middle of one image, and what it should become, if that is known."""

    lq: Image
    gt: Image | None


class Samples(NamedTuple):
    """A calibration set."""

    learned_from: list[Sample]
    held_out: list[Sample]


def read_samples(lq: Path, gt: Path | None, scale: int, channels: int) -> Samples:
    """Read a part of a set of images, always the same.

    Args:
        lq: A folder or an LMDB of images as the network gets them.
        gt: One of the same kind of what they should become, or None.
        scale: Of the network.
        channels: Of its images, 3 or 1.

    Raises:
        DscsrError: There are fewer than two images; they cannot be read; or GT and LQ do not belong together.
    """
    sources = _open(lq, gt, scale)
    count = len(sources[0])
    if count < 2:
        raise DataError("at least two images to calibrate with", count, "Some of them are to measure on.", lq)
    samples = [
        Sample(*_middle(sources, int(index), scale, channels)) for index in np.linspace(0, count - 1, min(count, MOST))
    ]
    held_out = samples[_HELD_OUT - 1 :: _HELD_OUT] or samples[-1:]
    return Samples([sample for sample in samples if not any(sample is each for each in held_out)], held_out)


def _open(lq: Path, gt: Path | None, scale: int) -> list[ImageSource]:
    """LQ and, if there is one, GT, in one order."""
    if (lq / "data.mdb").exists():
        readers = [LmdbReader(path) for path in (lq, gt) if path is not None]
        check_keys(set(readers[-1].keys), set(readers[0].keys))
        return [*readers]
    if gt is None:
        return [FileSource(str(lq), find_images(lq))]
    pairs = find_pairs(gt, lq, scale)
    return [FileSource("", [str(pair[side]) for pair in pairs]) for side in (1, 0)]


def _middle(sources: list[ImageSource], index: int, scale: int, channels: int) -> tuple[Image, Image | None]:
    images = []
    for source in sources:
        with source.pixels(index) as pixels:
            images.append(in_channels(pixels, channels).copy())
    height, width = images[0].shape[:2]
    top, left = max(0, height - SIDE) // 2, max(0, width - SIDE) // 2
    lq = images[0][top : top + SIDE, left : left + SIDE]
    if len(images) == 1:
        return lq, None
    bottom, right = top + lq.shape[0], left + lq.shape[1]
    gt = images[1][scale * top : scale * bottom, scale * left : scale * right]
    if gt.shape[:2] != (scale * lq.shape[0], scale * lq.shape[1]):
        got = f"{images[1].shape[:2]} for {images[0].shape[:2]}"
        raise DataError(
            f"GT images {scale} times as large as LQ", got, "Give LQ first: --calibrate LQ GT.", sources[1].name(index)
        )
    return lq, gt
