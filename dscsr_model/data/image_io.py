"""Image files as training data: upright RGB, 8 bits a channel. A file that is broken in any way raises, never guesses.

Pillow opens every file, because it notices truncated data and knows EXIF; it has no RGB of 16 bits, which OpenCV then
delivers.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from dscsr_arch.errors import ImageError
from dscsr_model.data.memory import free_ram

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # EXIF
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION, _APART = 258, 284, 2  # TIFF
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


class Header(NamedTuple):
    """What a file says of its image before the pixels are decoded; height and width are those of the upright image."""

    height: int
    width: int
    alpha: bool
    sixteen_bit: bool
    gray: bool = False


def read_header(file: str | Path) -> Header:
    """Look at an image without decoding it.

    Raises:
        ImageError: It cannot be read, is no image, or has neither 8 nor 16 bits a channel.
    """
    with image_faults(file), Image.open(file) as image:
        return _header(image)


def read_rgb(file: str | Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) RGB uint8.

    Turned upright as its EXIF says. Gray becomes three equal channels, 16 bits are rounded to 8, alpha is left out (as
    BasicSR does), palettes and CMYK are converted.

    Raises:
        ImageError: As `read_header`, or the pixels are broken or incomplete.
    """
    with image_faults(file):
        return decode_rgb(Path(file).read_bytes())


def decode_rgb(data: bytes | memoryview) -> NDArray[np.uint8]:
    """`read_rgb` of a file's content; raises what Pillow raises."""
    with Image.open(io.BytesIO(data)) as image:
        orientation = orientation_of(image)
        sixteen_bit = _header(image).sixteen_bit
        image.load()
        if image.format == "TIFF":  # which Pillow has turned upright while loading
            turned, orientation = orientation != 1, image.getexif().get(_ORIENTATION, 1)
        else:
            turned = False
        if image.mode.startswith("I;16"):
            pixels = _to_eight_bits(sixteen_bit_gray(image)[:, :, None].repeat(3, axis=2))
        elif sixteen_bit and not turned:
            pixels = _decode_sixteen_bits(data)
        else:
            pixels = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(upright(pixels, orientation))


def decoding_memory(header: Header) -> int:
    """Bytes of RAM that reading an image takes: up to 8 a pixel in the decoders, and two copies of the pixels."""
    pixel = (4 if header.alpha else 3) * (2 if header.sixteen_bit else 1)
    return header.height * header.width * (2 * pixel + 8)


def check_memory(needed: int, height: int, width: int, scale: int = 1) -> None:
    """Stop before an image that would fill the memory, as one that only claims its size may.

    Args:
        needed: Bytes that it takes.
        height: As its header says.
        width: Likewise.
        scale: How many times it is enlarged.

    Raises:
        ImageError: There is not so much memory.
    """
    free = free_ram()
    if needed > free:
        raise ImageError(
            f"{width}x{height} pixels{f' times {scale}' if scale > 1 else ''} need {needed / 2**30:.1f} GiB of memory, "
            f"but {free / 2**30:.1f} GiB are free: cut the image, or use another machine"
        )


def decode_as_basicsr(data: NDArray[np.uint8], flags: int) -> NDArray[np.uint8] | None:
    """What OpenCV, and so BasicSR, makes of a file's content, in its order of channels; None if it cannot."""
    try:
        return cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # it claims more pixels than OpenCV allows
        return None


def in_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Give an image other channels, in the full range 0 to 255.

    Args:
        image: (H, W, 3) RGB or (H, W, 1) gray, uint8.
        channels: 3: gray becomes three equal channels; 1: RGB becomes its luma, 0.299·R + 0.587·G + 0.114·B, of which
            three equal channels are left as they are.

    Returns:
        (H, W, channels) uint8; ``image`` itself if it has these channels.
    """
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def upright(image: NDArray, orientation: int) -> NDArray:
    """Turn an image (H, W, …) as the number in its EXIF demands; unknown numbers mean 1, upright already."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return image[rows, columns]


def _header(image: Image.Image) -> Header:
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode} pixels of 32 bits, expected 8 or 16 bits")
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size may be the upright one already
        width, height = image.tag_v2[256], image.tag_v2[257]
        bits = np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, 8))
        sixteen_bit = 16 in bits
        if sixteen_bit and len(bits) > 1 and image.tag_v2.get(_PLANAR_CONFIGURATION) == _APART:
            raise ValueError("16-bit TIFF with its channels apart, which OpenCV mixes up: save it with them together")
    else:
        sixteen_bit = image.mode.startswith("I;16") or (image.format == "PNG" and _png_chunk(image, b"IHDR")[8] == 16)
    if orientation_of(image) in (5, 6, 7, 8):
        width, height = height, width
    alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return Header(height, width, alpha, sixteen_bit, image.mode in GRAY_MODES)


def orientation_of(image: Image.Image) -> int:
    """The number in an image's EXIF, found without decoding it."""
    if image.format == "PNG" and "exif" not in image.info and (exif := _png_chunk(image, b"eXIf")):
        image.info["exif"] = exif  # it stands behind the pixels, where Pillow would find it after decoding them
    return int(Image.Image.getexif(image).get(_ORIENTATION, 1))


def _png_chunk(image: Image.Image, wanted: bytes) -> bytes:
    """Content of a chunk of an opened PNG file, or nothing."""
    stream = image.fp  # type: ignore[attr-defined]
    position = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == wanted:
                return bytes(stream.read(length))
            stream.seek(length + 4, os.SEEK_CUR)
    finally:
        stream.seek(position)
    return b""


def sixteen_bit_gray(image: Image.Image) -> NDArray[np.uint16]:
    """Pixels (H, W) of a decoded image of a mode ``I;16…``; white is 65535 also where a TIFF has it as 0."""
    gray = np.asarray(image).astype(np.uint16)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return 65535 - gray  # which Pillow does for 8 bits only
    return gray


def _decode_sixteen_bits(data: bytes | memoryview) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ValueError("16-bit pixels that OpenCV cannot decode")
    return _to_eight_bits(pixels[:, :, 2::-1])


def _to_eight_bits(pixels: NDArray) -> NDArray[np.uint8]:
    """The nearest of 256 levels; 65535 / 255 = 257."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextlib.contextmanager
def image_faults(file: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one message, and keep its warnings (of odd metadata) to ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnidentifiedImageError as error:
            raise ImageError(f"{file}: no image, or a broken one") from error
        except Exception as error:
            raise ImageError(f"{file}: {str(error) or type(error).__name__}") from error
