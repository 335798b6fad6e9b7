"""Image files out: what each format can hold, and writing so that a file with a final name is always whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dscsr_arch.errors import ImageError
from dscsr_model.files import atomic
from dscsr_model.inference.images import DecodedImage
from dscsr_model.inference.png_file import write_png
from dscsr_model.inference.tiff_file import write_tiff


class Format(NamedTuple):
    """What a file format can hold."""

    name: str
    suffix: str
    longest: int
    """Pixels of a side."""
    alpha: bool
    sixteen_bit: bool


FORMATS = {
    "png": Format("PNG", ".png", 2**31 - 1, True, True),
    "jpg": Format("JPEG", ".jpg", 65500, False, False),
    "webp": Format("WebP", ".webp", 16383, True, False),
    "tiff": Format("TIFF", ".tiff", 2**31 - 1, True, True),
}
_OF_SUFFIX = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}


class Stopped(Exception):  # noqa: N818 - no fault: what a thread meets when all is to end
    """Work was given up because everything ends."""


def format_of(source: str | Path, wanted: str) -> str:
    """The output's format: ``wanted``, or, if that is ``same``, the one of the source (of BMP, PNG)."""
    return _OF_SUFFIX.get(Path(source).suffix.lower(), "png") if wanted == "same" else wanted


def check_size(height: int, width: int, form: str) -> None:
    """Raise `ImageError` if a format cannot hold an image of this size."""
    kind = FORMATS[form]
    if max(height, width) > kind.longest:
        largest = kind.longest == max(each.longest for each in FORMATS.values())
        raise ImageError(
            f"the result of {width}x{height} pixels is too large for {kind.name} ({kind.longest} a side): "
            f"{'cut the image' if largest else 'use --format png'}"
        )


def without_lost_alpha(image: DecodedImage, form: str) -> DecodedImage:
    """The image without its alpha, if a format has no place for it and it hides nothing.

    Raises:
        ImageError: It does.
    """
    if not image.alpha or FORMATS[form].alpha:
        return image
    if (image.pixels[:, :, -1] < np.iinfo(image.pixels.dtype).max).any():
        raise ImageError(f"its transparency has no place in {FORMATS[form].name}: use --format png, webp or tiff")
    colours: NDArray = image.pixels[:, :, :-1]
    return image._replace(pixels=np.ascontiguousarray(colours))


class Saver:
    """Writes images whose files are whole or not there.

    Args:
        quality: Of JPEG and WebP, 1 to 100.
    """

    def __init__(self, quality: int) -> None:
        self.quality = quality
        self._stopped = threading.Event()

    def save(self, image: DecodedImage, target: Path, form: str, replace: bool) -> None:
        """Write one file. Several threads may do so at once.

        Raises:
            ImageError: The format does not take the image.
            DiskError: The file cannot be written; or, unless ``replace``, there is one by now.
            BusyError: Another process is writing it.
            Stopped: See `stop`.
        """
        self._check()
        with atomic(target, replace=replace) as stream:
            _encode(stream, image, form, self.quality, self._check)
            self._check()

    def stop(self) -> None:
        """Let no file appear from now on, but for those that are being renamed."""
        self._stopped.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped


def _encode(stream: BinaryIO, image: DecodedImage, form: str, quality: int, between: Callable[[], None]) -> None:
    try:
        if form == "png":
            write_png(stream, image, between)
        elif form == "tiff":
            gray_alpha = image.pixels.shape[2] == 2 and image.pixels.dtype == np.uint16
            write_tiff(stream, as_colours(image) if gray_alpha else image, between)  # which nobody reads
        else:
            _encode_with_pillow(stream, as_eight_bits(image), form, quality)
    except (ValueError, MemoryError, SystemError) as error:
        raise ImageError(f"cannot be written as {FORMATS[form].name}: {error or 'out of memory'}") from error


def _encode_with_pillow(stream: BinaryIO, image: DecodedImage, form: str, quality: int) -> None:
    if form == "webp" and image.pixels.shape[2] < 3:
        image = as_colours(image)  # WebP has no gray
    pixels = image.pixels[:, :, 0] if image.pixels.shape[2] == 1 else image.pixels
    options = {"icc_profile": image.icc, "exif": image.exif, "dpi": image.dpi, "quality": quality}
    if form == "jpg":
        options["subsampling"] = 0  # colours as sharp as brightness: they were made so
        if image.exif:
            options["exif"] = b"Exif\0\0" + image.exif
    Image.fromarray(pixels).save(
        stream, FORMATS[form].name, **{name: value for name, value in options.items() if value}
    )


def as_eight_bits(image: DecodedImage) -> DecodedImage:
    """The nearest of 256 levels; 65535 / 255 = 257."""
    if image.pixels.dtype == np.uint8:
        return image
    return image._replace(pixels=((image.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def as_colours(image: DecodedImage) -> DecodedImage:
    """Gray as three equal channels. A profile of grays does not describe these: it is left out."""
    if image.pixels.shape[2] > 2:
        return image
    channels = [0, 0, 0, 1] if image.alpha else [0, 0, 0]
    return image._replace(pixels=image.pixels[:, :, channels], icc=b"")
