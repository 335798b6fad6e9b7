"""Bicubic resizing as MATLAB's ``imresize`` does it: antialiased when shrinking, symmetric at the borders.

Published LR images are made with it, and a network trained on another kernel loses tenths of a dB on them.

Both axes are one matrix each, ``out = M_h · image · M_wᵀ``. The matrices are banded (an output pixel sees a few input
pixels), so each is kept as small dense blocks along the band: plain matrix products that meet hardly any zero. The
interleaved channels are folded into the column matrix (``M_w ⊗ I_c``), so that no axis is ever moved in memory.

`basicsr.utils.matlab_functions.imresize`, the field's reference, computes the weights in single precision. So do we:
with coordinates in double precision, ×3 would differ from it by 1e-5 of the range and more.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_KERNEL_WIDTH = 4  # input pixels under the cubic kernel when nothing is shrunk
_BLOCK = 8  # output pixels of one block when shrinking; measured, flat between 6 and 16


class Block(NamedTuple):
    """Part of a banded matrix: input pixels ``start`` … ``stop`` times ``weights`` give outputs from ``first`` on."""

    first: int
    start: int
    stop: int
    weights: NDArray[np.float32]


def resize(
    image: NDArray, scale: float | None = None, *, out_size: tuple[int, int] | None = None, antialias: bool = True
) -> NDArray:
    """Resize one image, or many of one size at once.

    Args:
        image: (H, W), (H, W, C) or (N, H, W, C), channels in any order; float32 or float64 in any range, uint8, uint16.
        scale: Factor of both sides, such as 1 / 4. The result is ceil(H · scale) × ceil(W · scale) pixels large.
        out_size: Height and width of the result; with ``scale`` it only settles the rounding.
        antialias: Widen the kernel when shrinking, as MATLAB does unless told otherwise.

    Returns:
        The image in its own dtype. Floats are not clipped (a cubic overshoots); integers are rounded and clipped.

    Raises:
        TypeError: Another dtype.
        ValueError: Another number of axes, an empty image, neither a positive ``scale`` nor an ``out_size``.
    """
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise TypeError(f"Expected `image` to be uint8, uint16, float32 or float64, but got {image.dtype}. Convert it.")
    if image.ndim not in (2, 3, 4) or 0 in image.shape:
        raise ValueError(f"Expected `image` to be (H, W), (H, W, C) or (N, H, W, C), not empty, but got {image.shape}.")
    stack = image if image.ndim == 4 else image[None] if image.ndim == 3 else image[None, :, :, None]
    n, height, width, channels = stack.shape
    rows, columns = _size(height, width, scale, out_size)
    dtype = np.dtype(np.float64 if image.dtype == np.float64 else np.float32)

    lines = stack.reshape(n, height, width * channels)
    halfway = np.empty((n, rows, width * channels), dtype)
    for first, start, stop, weights in _row_blocks(height, rows, scale or rows / height, antialias):
        strip = lines[:, start:stop].astype(dtype, copy=False)
        np.matmul(weights, strip, out=halfway[:, first : first + weights.shape[0]])

    result = np.empty((n, rows, columns * channels), dtype)
    for first, start, stop, weights in _column_blocks(width, columns, scale or columns / width, antialias, channels):
        np.matmul(halfway[:, :, start:stop], weights, out=result[:, :, first : first + weights.shape[1]])

    if image.dtype.kind == "u":
        result = _round(result, image.dtype)
    return result.reshape((rows, columns) if image.ndim == 2 else (*image.shape[:-3], rows, columns, channels))


def downscale(image: NDArray, scale: int) -> NDArray:
    """Make the LR image of an HR image, as the field's data sets do.

    Args:
        image: As `resize`'s, usually uint8 (H, W, C). Sides that ``scale`` does not divide are rounded up, as in
            MATLAB; crop them beforehand if LR and HR are to be a pair.
        scale: Whole number, at least 1.

    Returns:
        (ceil(H / scale), ceil(W / scale), C) in the dtype of ``image``; integers are rounded.

    Raises:
        ValueError: ``scale`` is no whole number from 1 on.
    """
    if scale != int(scale) or scale < 1:
        raise ValueError(f"Expected `scale` to be a whole number, at least 1, but got {scale}.")
    height, width = image.shape[-3:-1] if image.ndim > 2 else image.shape
    return resize(image, 1 / scale, out_size=(-(-height // int(scale)), -(-width // int(scale))))


def cubic(distance: NDArray) -> NDArray:
    """Keys' cubic convolution kernel with a = −1/2, for distances in pixels; zero from 2 on."""
    x = np.abs(distance)
    x2, x3 = x * x, x * x * x
    near = 1.5 * x3 - 2.5 * x2 + 1
    far = -0.5 * x3 + 2.5 * x2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0)).astype(x.dtype)


def taps(size: int, out_size: int, scale: float, antialias: bool) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Input pixels that each output pixel of one axis sees, and their weights.

    Output pixel i (from 1) lies at input coordinate ``i / scale + (1 − 1 / scale) / 2``.

    Args:
        size: Input pixels along the axis.
        out_size: Output pixels.
        scale: Factor between them.
        antialias: Stretch the kernel by 1 / ``scale`` when shrinking.

    Returns:
        Indices (out_size, p) within the axis, mirrored at its ends, and weights (out_size, p), each row's sum 1.
    """
    stretch = np.float32(scale if antialias and scale < 1 else 1)
    width = _KERNEL_WIDTH / (scale if antialias and scale < 1 else 1)
    centre = np.arange(1, out_size + 1, dtype=np.float32) / np.float32(scale) + np.float32(0.5 * (1 - 1 / scale))
    left = np.floor(centre - np.float32(width / 2))
    seen = left[:, None] + np.arange(math.ceil(width) + 2, dtype=np.float32)
    weights = cubic((centre[:, None] - seen) * stretch) * stretch
    weights /= weights.sum(1, keepdims=True)
    mirrored = (seen.astype(np.intp) - 1) % (2 * size)  # an axis and its mirror image, endlessly repeated
    return np.minimum(mirrored, 2 * size - 1 - mirrored), weights


@lru_cache(maxsize=64)
def _row_blocks(size: int, out_size: int, scale: float, antialias: bool) -> tuple[Block, ...]:
    """The matrix (out_size, size) of one axis, along its band."""
    indices, weights = taps(size, out_size, scale, antialias)
    step = max(_BLOCK, round(_BLOCK * scale))
    blocks = []
    for first in range(0, out_size, step):
        seen, part = indices[first : first + step], weights[first : first + step]
        start, stop = int(seen[part != 0].min()), int(seen[part != 0].max()) + 1
        dense = np.zeros((len(part), stop - start), np.float32)
        row, tap = np.nonzero(part)
        np.add.at(dense, (row, seen[row, tap] - start), part[row, tap])  # mirrored pixels are seen twice
        blocks.append(Block(first, start, stop, dense))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _column_blocks(size: int, out_size: int, scale: float, antialias: bool, channels: int) -> tuple[Block, ...]:
    """The same matrix, transposed, for pixels of interleaved channels: all positions are times ``channels``."""
    eye = np.eye(channels, dtype=np.float32)
    return tuple(
        Block(first * channels, start * channels, stop * channels, np.ascontiguousarray(np.kron(weights.T, eye)))
        for first, start, stop, weights in _row_blocks(size, out_size, scale, antialias)
    )


def _size(height: int, width: int, scale: float | None, out_size: tuple[int, int] | None) -> tuple[int, int]:
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"Expected `scale` to be positive, but got {scale}.")
    if out_size is None:
        if scale is None:
            raise ValueError("Expected `scale` or `out_size`, but got neither.")
        return math.ceil(height * scale), math.ceil(width * scale)
    if min(out_size) < 1:
        raise ValueError(f"Expected `out_size` to be at least (1, 1), but got {tuple(out_size)}.")
    return out_size


def _round(values: NDArray, dtype: np.dtype) -> NDArray:
    """Whole numbers of ``dtype``: halves upwards, as MATLAB rounds positive numbers."""
    values += 0.5
    np.clip(values, 0, np.iinfo(dtype).max, out=values)
    return values.astype(dtype)
