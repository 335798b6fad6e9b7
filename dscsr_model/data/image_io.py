"""Image files in, with all that belongs to them: depth, gray or colour, alpha, profile, EXIF, resolution.

OpenImageIO reads them. Measured, it lacks: EXIF behind the pixels of a PNG, inverting 16-bit TIFF whose white is zero,
dividing colours that alpha is multiplied into, and profiles of inks (CMYK), which Pillow applies.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import OpenImageIO as oiio  # noqa: N813 - as it calls itself
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dscsr_arch.errors import ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_KEPT = ("ImageDescription", "Make", "Model", "DateTime", "Artist", "Copyright")
# Sizes of the old image, and what points to places in the old file.
_DROPPED = ("Exif:PixelXDimension", "Exif:PixelYDimension", "Exif:MakerNote")
_PER_INCH = {"in": 1.0, "inch": 1.0, "cm": 2.54, "m": 0.0254}
oiio.attribute("limits:imagesize_MB", 0)  # who reads unknown files asks `check_memory`
_AS_STORED = oiio.ImageSpec()
_AS_STORED.attribute("oiio:UnassociatedAlpha", 1)  # alpha is not to be multiplied into the colours
_WITH_INKS = oiio.ImageSpec()
_WITH_INKS.attribute("oiio:RawColor", 1)
_ORIENTATION = 0x0112  # EXIF
_PALETTE = 3  # TIFF
_EXTRA_SAMPLES, _MULTIPLIED = 338, 1  # TIFF


class Header(NamedTuple):
    """What a file says of its image before the pixels are decoded; height and width are those of the upright image."""

    height: int
    width: int
    alpha: bool
    sixteen_bit: bool
    gray: bool = False


class DecodedImage(NamedTuple):
    """An image in memory, upright."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    """(H, W, C); C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha, which is not multiplied into the colours."""
    icc: bytes = b""
    """Colour profile, of as many colours as the pixels have; empty for none."""
    metadata: tuple[tuple[str, Any, Any], ...] = ()
    """When, where, with what and by whom it was taken: names, types and values as OpenImageIO has them."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch along x and y."""
    frames: int = 1
    """How many images the file has. This is the first."""

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)


def read_header(file: str | Path) -> Header:
    """Look at an image without decoding it; raises `ImageError` if it is none, or has neither 8 nor 16 bits."""
    with _opened(file) as source:
        return _header(file, source)


def read_image(file: str | Path) -> DecodedImage:
    """Read a PNG, JPEG, WebP, TIFF or BMP: 8 or 16 bits, gray or RGB, with alpha or without, into which others convert.

    Raises:
        ImageError: It cannot be read, is broken or incomplete, or has neither 8 nor 16 bits a channel.
    """
    with _opened(file) as source:
        header, spec = _header(file, source), source.spec()
        pixels = source.read_image("unknown")  # in the file's own type
        if pixels is None or source.has_error:
            raise _broken(file, source.geterror())
        icc = bytes(profile) if (profile := spec.getattribute("ICCProfile")) is not None else b""
        if icc[16:20] == b"CMYK":
            pixels, icc = _through_profile(file, pixels, icc)
        elif source.format_name() == "tiff":
            pixels = _of_tiff(file, pixels, spec, header)
        colours = 1 if header.gray else 3
        pixels = upright(pixels[:, :, : colours + header.alpha], _orientation(file, source))
        frames = 1
        while source.seek_subimage(frames, 0):
            frames += 1
    if icc[16:20] != (b"GRAY" if header.gray else b"RGB "):
        icc = b""  # of other colours than these: wrong in the file, or a palette's
    return DecodedImage(np.ascontiguousarray(pixels), icc, _metadata(spec), _dpi(spec), frames)


def read_rgb(file: str | Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) RGB uint8; see `read_image`.

    Gray becomes three equal channels, 16 bits are rounded to 8, alpha is left out (as BasicSR does).
    """
    pixels = as_eight_bits(read_image(file).pixels)
    return np.ascontiguousarray(pixels[:, :, :3] if pixels.shape[2] > 2 else pixels[:, :, [0, 0, 0]])


def decoding_memory(header: Header) -> int:
    """Bytes of RAM that reading an image takes: up to 8 a pixel in the decoders, and two copies of the pixels."""
    pixel = (4 if header.alpha else 3) * (2 if header.sixteen_bit else 1)
    return header.height * header.width * (2 * pixel + 8)


def as_eight_bits(pixels: NDArray) -> NDArray[np.uint8]:
    """The nearest of 256 levels; 65535 / 255 = 257."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def decode_as_basicsr(data: NDArray[np.uint8], flags: int) -> NDArray[np.uint8] | None:
    """What OpenCV, and so BasicSR, makes of a file's content, in its order of channels; None if it cannot."""
    try:
        return cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # it claims more pixels than OpenCV allows
        return None


def in_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Give an image (H, W, 3) RGB or (H, W, 1) gray, uint8, 3 or 1 channels, in the full range 0 to 255.

    Gray becomes three equal channels; RGB its luma, 0.299·R + 0.587·G + 0.114·B, of which three equal channels are left
    as they are.
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


@contextlib.contextmanager
def _opened(file: str | Path, config: oiio.ImageSpec = _AS_STORED) -> Iterator[oiio.ImageInput]:
    try:
        open(file, "rb").close()
        source = oiio.ImageInput.open(str(file), config)
    except OSError as error:
        raise ImageError("an image", error.strerror, where=file) from error
    except (TypeError, UnicodeEncodeError) as error:
        raise ImageError("a name in UTF-8", "another", "Rename the image.", where=repr(file)) from error
    if source is None:
        raise _broken(file, oiio.geterror())
    try:
        yield source
    finally:
        source.close()


def _broken(file: str | Path, said: str) -> ImageError:
    return ImageError(f"no image, or a broken one ({said.strip().partition(chr(10))[0]})", where=file)


def _header(file: str | Path, source: oiio.ImageInput) -> Header:
    spec = source.spec()
    kind, channels = str(spec.format), spec.nchannels
    if kind not in ("uint8", "uint16") or channels > 4:
        raise ImageError("1 to 4 channels of 8 or 16 bits", f"{channels} of {kind}", "Convert the image.", where=file)
    height, width = spec.height, spec.width
    if _orientation(file, source) in (5, 6, 7, 8):
        height, width = width, height
    alpha = spec.alpha_channel >= 0 and source.format_name() != "bmp"  # where most programs write no alpha there
    return Header(height, width, alpha, kind == "uint16", channels < 3)


def _orientation(file: str | Path, source: oiio.ImageInput) -> int:
    number = source.spec().get_int_attribute("Orientation", 0)
    if number or source.format_name() != "png":
        return int(number)
    with open(file, "rb") as stream:  # EXIF may stand behind the pixels
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                exif = Image.Exif()
                with contextlib.suppress(Exception):  # whatever damaged EXIF does
                    exif.load(stream.read(length))
                return int(exif.get(_ORIENTATION, 1))
            stream.seek(length + 4, os.SEEK_CUR)
    return 1


def _of_tiff(file: str | Path, pixels: NDArray, spec: oiio.ImageSpec, header: Header) -> NDArray:
    """Pixels of which white is the largest level, and into whose colours alpha is not multiplied."""
    meaning = spec.get_int_attribute("tiff:PhotometricInterpretation", 1)
    if meaning == _PALETTE:  # of which OpenImageIO takes 16 bits for 257 times 8, and most programs write 256 times
        with contextlib.suppress(OSError, ValueError), Image.open(file) as image:
            image.getexif()[_ORIENTATION] = 1  # else it is turned here and once more
            return np.asarray(image.convert("RGB"))
    if header.sixteen_bit and meaning == 0:
        pixels = 65535 - pixels
    if header.alpha and _MULTIPLIED in _extra_samples(file):
        most = np.uint32(np.iinfo(pixels.dtype).max)  # 65535² + 65535 / 2 fits
        alpha = pixels[:, :, -1:].astype(np.uint32)
        colours = (pixels[:, :, :-1] * most + alpha // 2) // np.maximum(alpha, 1)
        pixels = np.concatenate([np.minimum(colours, most).astype(pixels.dtype), pixels[:, :, -1:]], axis=2)
    return pixels


def _extra_samples(file: str | Path) -> NDArray:
    """What kinds of alpha a TIFF says it has; OpenImageIO takes it for multiplied where nothing is said."""
    with Image.open(file) as image:
        return np.atleast_1d(getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES, 0))


def _through_profile(file: str | Path, pixels: NDArray, icc: bytes) -> tuple[NDArray, bytes]:
    """Inks as sRGB, and its profile; ``pixels``, mixed without one, if their own is of no use."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError), Image.open(file) as image:
        if image.format == "TIFF":  # which Pillow would turn; of JPEG, OpenImageIO has no inks
            with _opened(file, _WITH_INKS) as source:
                inks = Image.fromarray(np.asarray(source.read_image("uint8")), "CMYK")
        else:
            inks = image
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        rgb = ImageCms.profileToProfile(inks, io.BytesIO(icc), srgb, outputMode="RGB")
        if rgb is not None:
            return np.asarray(rgb), srgb.tobytes()
    return pixels, b""


def _metadata(spec: oiio.ImageSpec) -> tuple[tuple[str, Any, Any], ...]:
    return tuple(
        (each.name, each.type, each.value)
        for each in spec.extra_attribs
        if each.name in _KEPT or (each.name.startswith(("Exif:", "GPS:")) and each.name not in _DROPPED)
    )


def _dpi(spec: oiio.ImageSpec) -> tuple[float, float] | None:
    unit = _PER_INCH.get(spec.get_string_attribute("ResolutionUnit"), 0.0)
    x, y = (unit * spec.get_float_attribute(name, 0.0) for name in ("XResolution", "YResolution"))
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None
