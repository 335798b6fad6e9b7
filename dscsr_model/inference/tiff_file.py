"""TIFF, written strip by strip: Pillow has no RGB of 16 bits.

From the specification, TIFF 6.0 and its technical notes (Deflate, predictor 2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dscsr_model.inference.images import DecodedImage
from dscsr_model.inference.png_file import strips

_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7
_SIZES = {_SHORT: 2, _LONG: 4, _RATIONAL: 8, _UNDEFINED: 1}
_CODES = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}
_HEADER = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 0)  # little-endian, with an empty directory
_MOST = 2**32 - 1


def write_tiff(stream: BinaryIO, image: DecodedImage, between: Callable[[], None] = lambda: None) -> None:
    """Write ``image``, with its profile, EXIF and resolution; 8 or 16 bits as it is. See `write_png`.

    Raises:
        ValueError: It would be larger than the 4 GiB that a TIFF can be.
    """
    # EXIF is a TIFF structure with places counted from its beginning: put first, its entries can be used as they are.
    start = image.exif if image.exif.startswith(_HEADER[:4]) else _HEADER
    stream.write(start)
    offsets, counts = [], []
    for rows in _compressed_strips(image.pixels):
        between()
        offsets.append(stream.tell())
        counts.append(len(rows))
        stream.write(rows)
        if stream.tell() > _MOST - (1 << 24):
            raise ValueError("more than the 4 GiB that a TIFF can be")
    fields = _fields(image, offsets, counts)
    entries = {entry[:2]: entry for entry in _entries(start)}
    for tag, kind, values in fields:
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
        count = len(data) // _SIZES[kind]
        if len(data) > 4:
            place = stream.tell()
            stream.write(data)
            data = struct.pack("<I", place)
        key = struct.pack("<H", tag)
        entries[key] = key + struct.pack("<HI", kind, count) + data.ljust(4, b"\0")
    if stream.tell() % 2:
        stream.write(b"\0")  # a directory begins at an even place
    place = stream.tell()
    ordered = sorted(entries.values(), key=lambda entry: struct.unpack("<H", entry[:2]))
    stream.write(struct.pack("<H", len(ordered)) + b"".join(ordered) + struct.pack("<I", 0))
    stream.seek(4)
    stream.write(struct.pack("<I", place))


def _fields(image: DecodedImage, offsets: list[int], counts: list[int]) -> list[tuple[int, int, bytes | list[int]]]:
    """Tag, type and values of the directory."""
    height, width, channels = image.pixels.shape
    bits = 8 * image.pixels.dtype.itemsize
    fields: list[tuple[int, int, bytes | list[int]]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [bits] * channels),
        (259, _SHORT, [8]),  # Deflate
        (262, _SHORT, [2 if channels >= 3 else 1]),  # RGB, or black is zero
        (273, _LONG, offsets),
        (277, _SHORT, [channels]),
        (278, _LONG, [next(strips(image.pixels)).stop]),
        (279, _LONG, counts),
        (284, _SHORT, [1]),  # the channels of a pixel together
        (317, _SHORT, [2]),  # differences along the row
    ]
    if image.dpi:
        x, y = (round(value * 1000) for value in image.dpi)
        fields += [(282, _RATIONAL, [x, 1000]), (283, _RATIONAL, [y, 1000]), (296, _SHORT, [2])]
    if image.alpha:
        fields.append((338, _SHORT, [2]))  # not multiplied into the colours
    if image.icc:
        fields.append((34675, _UNDEFINED, image.icc))
    return fields


def _compressed_strips(pixels: NDArray) -> Iterator[bytes]:
    for rows in strips(pixels):
        strip = np.array(pixels[rows], dtype=pixels.dtype.newbyteorder("<"), order="C")
        strip[:, 1:] -= pixels[rows][:, :-1]
        yield zlib.compress(strip.data, 6)


def _entries(structure: bytes) -> Iterator[bytes]:
    """The entries, of 12 bytes, in the first directory of a little-endian TIFF structure."""
    (place,) = struct.unpack_from("<I", structure, 4)
    (count,) = struct.unpack_from("<H", structure, place)
    for index in range(count):
        begin = place + 2 + 12 * index
        yield structure[begin : begin + 12]
