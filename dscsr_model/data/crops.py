"""Random crops and the eight orientations, of pairs, drawn by key."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dscsr_model.data.image_io import in_channels


class Crop(NamedTuple):
    """A square of the LR image, its first row and column, and how it is turned afterwards.

    In this order, as BasicSR does it: mirrored left to right, mirrored top to bottom, rows and columns exchanged.
    """

    top: int
    left: int
    hflip: bool = False
    vflip: bool = False
    transpose: bool = False

    @property
    def orientation(self) -> int:
        """The three as bits 0, 1 and 2 of a number."""
        return self.hflip + 2 * self.vflip + 4 * self.transpose


def draw_crop(
    key: tuple[int, ...], height: int, width: int, size: int, use_hflip: bool = False, use_rot: bool = False
) -> Crop:
    """Draw a crop of ``size`` out of an LR image; the same key gives the same on every machine, in any order of calls.

    Any change of a number in ``key`` gives an independent draw. ``use_hflip`` mirrors every second crop; ``use_rot``
    mirrors top to bottom, and exchanges rows and columns, each for every second crop.
    """
    # A hash is a generator whose every state is one key away; numpy's take ten times as long to be seeded.
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=17).digest()
    top, left, bits = struct.unpack("<QQB", digest)
    return Crop(
        top % (height - size + 1),  # of 64 bits: the rounding towards small numbers is below 1e-15
        left % (width - size + 1),
        use_hflip and bool(bits & 1),
        use_rot and bool(bits & 2),
        use_rot and bool(bits & 4),
    )


def cut(image: NDArray, crop: Crop, size: int, factor: int = 1, channels: int = 3) -> NDArray:
    """Copy a crop out of an image, turned, channels first.

    Args:
        image: (H, W, 3) RGB or (H, W, 1) gray, uint8, or int16 of so many channels; may be mapped from a file: only
            the crop is touched.
        crop: In LR pixels.
        size: Side of the crop in LR pixels.
        factor: How many times as large as the LR image this one is: 1, or the scale for its HR image.
        channels: 3 for RGB, 1 for gray; see `in_channels`.

    Returns:
        (channels, factor · size, factor · size) of the same type, contiguous.
    """
    top, left, side = factor * crop.top, factor * crop.left, factor * size
    return planes(orient(in_channels(image[top : top + side, left : left + side], channels), crop))


def orient(image: NDArray, crop: Crop) -> NDArray:
    """Turn an image (H, W, C) as ``crop`` says; where C is 1, OpenCV leaves it out."""
    hflip, vflip = crop.hflip, crop.vflip
    if crop.transpose:
        image = cv2.transpose(image)
        hflip, vflip = vflip, hflip  # what mirrored columns before mirrors rows now
    if hflip or vflip:
        image = cv2.flip(image, -1 if hflip and vflip else 1 if hflip else 0)
    return image


def planes(image: NDArray) -> NDArray:
    """(H, W, C) or (H, W) to (C, H, W), contiguous; OpenCV splits several times as fast as numpy transposes."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.array(image, order="C").reshape(1, *image.shape[:2])
    result = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(result))
    return result
