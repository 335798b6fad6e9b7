"""PNG, written row by row: Pillow has no RGB of 16 bits, and takes twice the image's memory for 8.

From the specification, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dscsr_model.inference.images import DecodedImage

STRIP_BYTES = 1 << 20
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_SUB, _UP, _PAETH = 1, 2, 4


def write_png(stream: BinaryIO, image: DecodedImage, between: Callable[[], None] = lambda: None) -> None:
    """Write ``image``, with its profile, EXIF and resolution; 8 or 16 bits as it is.

    Args:
        stream: Where to.
        image: What.
        between: Called between strips of rows; may raise, to give up.
    """
    height, width, channels = image.pixels.shape
    depth = 8 * image.pixels.dtype.itemsize
    stream.write(b"\x89PNG\r\n\x1a\n")
    _chunk(stream, b"IHDR", struct.pack(">2I5B", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0))
    if image.icc:
        _chunk(stream, b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc))
    if image.dpi:
        x, y = (round(value / 0.0254) for value in image.dpi)
        _chunk(stream, b"pHYs", struct.pack(">2IB", x, y, 1))
    if image.exif:
        _chunk(stream, b"eXIf", image.exif)
    compressor = zlib.compressobj(6)
    for rows in _filtered_strips(image.pixels):
        between()
        if data := compressor.compress(rows):
            _chunk(stream, b"IDAT", data)
    _chunk(stream, b"IDAT", compressor.flush())
    _chunk(stream, b"IEND", b"")


def strips(pixels: NDArray) -> Iterator[slice]:
    """Rows that are about `STRIP_BYTES` together, from the first to the last."""
    rows = max(1, STRIP_BYTES // pixels[0].nbytes)
    return (slice(start, start + rows) for start in range(0, len(pixels), rows))


def _filtered_strips(pixels: NDArray) -> Iterator[memoryview]:
    """The bytes to compress: every row by the filter that leaves the least (the specification's heuristic)."""
    step = pixels.shape[2] * pixels.dtype.itemsize
    above = np.zeros(pixels[0].nbytes, np.uint8)
    for rows in strips(pixels):
        strip = pixels[rows]
        big_endian = strip if strip.itemsize == 1 else strip.astype(">u2")
        raw = np.ascontiguousarray(big_endian).view(np.uint8).reshape(len(strip), -1)
        yield _filtered(raw, above, step).data
        above = raw[-1]


def _filtered(raw: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    up = np.concatenate([above[None], raw[:-1]])
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, step:], corner[:, step:] = raw[:, :-step], up[:, :-step]
    candidates = {_SUB: raw - left, _UP: raw - up, _PAETH: raw - _paeth(left, up, corner)}
    costs = [np.abs(rest.view(np.int8), dtype=np.int16).sum(axis=1, dtype=np.int64) for rest in candidates.values()]
    best = np.argmin(costs, axis=0)
    result = np.empty((len(raw), 1 + raw.shape[1]), np.uint8)
    for number, (kind, rest) in enumerate(candidates.items()):
        chosen = best == number
        result[chosen, 0], result[chosen, 1:] = kind, rest[chosen]
    return result


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of the three neighbours the one that is nearest to left + up − corner; the first of equals."""
    a, b, c = (each.astype(np.int16) for each in (left, up, corner))
    near_a, near_b, near_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    other = np.where(near_b <= near_c, up, corner)
    return np.where((near_a <= near_b) & (near_a <= near_c), left, other)


def _chunk(stream: BinaryIO, kind: bytes, data: bytes) -> None:
    stream.write(struct.pack(">I", len(data)) + kind)
    stream.write(data)
    stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
