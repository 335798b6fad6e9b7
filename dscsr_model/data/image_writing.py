"""Image files out: what each format can hold, and writing it with all that belongs to the image.

OpenImageIO writes PNG and TIFF, strip by strip. Measured, its JPEG writer ends the process when the disk is full, and
its WebP has no EXIF: these two are Pillow's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import OpenImageIO as oiio  # noqa: N813 - as it calls itself
from numpy.typing import NDArray
from PIL import Image

from dscsr_arch.errors import ImageError
from dscsr_model.data.image_io import DecodedImage, as_eight_bits
from dscsr_model.files import atomic

STRIP_BYTES = 1 << 20


class ImageFormat(NamedTuple):
    """What a file format can hold."""

    name: str
    suffix: str
    longest: int
    """Pixels of a side."""
    alpha: bool


IMAGE_FORMATS = {
    "png": ImageFormat("PNG", ".png", 2**31 - 1, True),
    "jpg": ImageFormat("JPEG", ".jpg", 65500, False),
    "webp": ImageFormat("WebP", ".webp", 16383, True),
    "tiff": ImageFormat("TIFF", ".tiff", 2**31 - 1, True),
}
_OF_SUFFIX = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}


def format_of(source: str | Path, wanted: str) -> str:
    """The output's format: ``wanted``, or, if that is ``same``, the one of the source (of BMP, PNG)."""
    return _OF_SUFFIX.get(Path(source).suffix.lower(), "png") if wanted == "same" else wanted


def check_size(height: int, width: int, form: str) -> None:
    """Raise `ImageError` if a format cannot hold an image of this size."""
    kind = IMAGE_FORMATS[form]
    if max(height, width) > kind.longest:
        largest = kind.longest == max(each.longest for each in IMAGE_FORMATS.values())
        remedy = "Cut the image." if largest else "Use --format png."
        expected = f"a result of at most {kind.longest} pixels a side, for {kind.name}"
        raise ImageError(expected, f"{width}x{height}", remedy)


def without_lost_alpha(image: DecodedImage, form: str) -> DecodedImage:
    """The image without its alpha, if a format has no place for it and it hides nothing.

    Raises:
        ImageError: It does.
    """
    if not image.alpha or IMAGE_FORMATS[form].alpha:
        return image
    if (image.pixels[:, :, -1] < np.iinfo(image.pixels.dtype).max).any():
        remedy = "Use --format png, webp or tiff."
        raise ImageError(f"an opaque image, for {IMAGE_FORMATS[form].name}", "transparency", remedy)
    colours: NDArray = image.pixels[:, :, :-1]
    return image._replace(pixels=np.ascontiguousarray(colours))


def write_image(
    path: Path,
    image: DecodedImage,
    form: str,
    quality: int = 95,
    *,
    replace: bool = False,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Write an image, with its profile, metadata and resolution; the file is whole or not there.

    Args:
        path: The file.
        image: What. JPEG and WebP get 8 bits.
        form: One of `IMAGE_FORMATS`.
        quality: Of JPEG and WebP, 1 to 100.
        replace: Take the place of a file that is there.
        between: Called now and then, and before the file gets its name; may raise, to give up.

    Raises:
        ImageError: The format does not take the image.
    """
    between()
    with atomic(path, replace=replace) as stream:
        try:
            if form in ("png", "tiff"):
                _write_strips(stream.name, image, form, between)
            else:
                _write_with_pillow(stream, image, form, quality)
        except (OSError, ValueError, MemoryError, SystemError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            stream.seek(0, os.SEEK_END)
            stream.write(bytes(STRIP_BYTES))  # on a full disk, this says so
            stream.flush()
            said = error if str(error) else "no memory for it"
            raise ImageError(f"an image that {IMAGE_FORMATS[form].name} can hold", said, where=path) from error
        between()


def as_colours(image: DecodedImage) -> DecodedImage:
    """Gray as three equal channels. A profile of grays does not describe these: it is left out."""
    if image.pixels.shape[2] > 2:
        return image
    channels = [0, 0, 0, 1] if image.alpha else [0, 0, 0]
    return image._replace(pixels=image.pixels[:, :, channels], icc=b"")


def _write_strips(name: str, image: DecodedImage, form: str, between: Callable[[], None]) -> None:
    if form == "tiff" and image.pixels.shape[2] == 2 and image.pixels.dtype == np.uint16:
        image = as_colours(image)  # gray with alpha of 16 bits nobody reads
    pixels = np.ascontiguousarray(image.pixels)
    out = oiio.ImageOutput.create(name)
    if out is None:
        raise ValueError(oiio.geterror())
    out.open(name, _spec(image, form))
    rows = max(1, STRIP_BYTES // pixels[0].nbytes)
    for first in range(0, len(pixels), rows):
        between()
        out.write_scanlines(first, min(first + rows, len(pixels)), 0, pixels[first : first + rows])
        if out.has_error:  # what is returned says success
            break
    out.close()
    if said := out.geterror():
        raise ValueError(said.splitlines()[0])


def _spec(image: DecodedImage, form: str) -> oiio.ImageSpec:
    height, width, channels = image.pixels.shape
    spec = oiio.ImageSpec(width, height, channels, str(image.pixels.dtype))
    spec.channelnames = ("Y", "A") if channels == 2 else ("R", "G", "B", "A")[:channels]
    spec.alpha_channel = channels - 1 if image.alpha else -1
    spec.attribute("oiio:UnassociatedAlpha", 1)
    spec.attribute("oiio:ColorSpace", "unknown")  # else a PNG says sRGB, beside whatever profile
    if form == "tiff":
        spec.attribute("compression", "zip")
        spec.attribute("DateTime", "")  # else it writes that of now, and XMP with it: another file every time
        spec.attribute("Exif:PixelXDimension", width)  # without any, it says that EXIF could not be written
        spec.attribute("Exif:PixelYDimension", height)
    for name, kind, value in image.metadata:
        spec.attribute(name, kind, value)
    if image.icc:
        spec.attribute("ICCProfile", oiio.TypeDesc(f"uint8[{len(image.icc)}]"), np.frombuffer(image.icc, np.uint8))
    if image.dpi:
        spec.attribute("ResolutionUnit", "in")
        spec.attribute("XResolution", image.dpi[0])
        spec.attribute("YResolution", image.dpi[1])
        spec.attribute("PixelAspectRatio", image.dpi[1] / image.dpi[0])  # of which the TIFF's y is made
    return spec


def _write_with_pillow(stream: Any, image: DecodedImage, form: str, quality: int) -> None:
    if form == "webp" and image.pixels.shape[2] < 3:
        image = as_colours(image)  # WebP has no gray
    pixels = as_eight_bits(image.pixels)
    options = {"icc_profile": image.icc, "exif": _exif(image), "dpi": image.dpi, "quality": quality}
    if form == "jpg":
        options["subsampling"] = 0  # colours as sharp as brightness: they were made so
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(
        stream, IMAGE_FORMATS[form].name, **{name: value for name, value in options.items() if value is not None}
    )


def _exif(image: DecodedImage) -> bytes:
    """The metadata as Pillow takes them: as OpenImageIO puts them into a PNG of one pixel."""
    if not image.metadata:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "exif.png")
        _write_strips(name, DecodedImage(np.zeros((1, 1, 1), np.uint8), metadata=image.metadata), "png", lambda: None)
        with Image.open(name) as one:
            return bytes(one.info.get("exif", b""))
