"""Image files with all that belongs to them: depth, gray or colour, alpha, colour profile, EXIF, resolution."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from dscsr_model.data.image_io import GRAY_MODES, image_faults, orientation_of, read_header, sixteen_bit_gray, upright

__all__ = ["DecodedImage", "kept_exif", "read_image"]

_KEPT_TAGS = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.DateTime),
    *(ExifTags.Base.Artist, ExifTags.Base.Copyright),
)
# Sizes of the old image, and what points to places in the old file.
_DROPPED_EXIF = (
    *(ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, ExifTags.Base.MakerNote),
    ExifTags.Base.ExifInteroperabilityOffset,
)
_PNG = b"\x89PNG\r\n\x1a\n"
_EXTRA_SAMPLES, _MULTIPLIED = 338, 1  # a tag of TIFF


class DecodedImage(NamedTuple):
    """An image in memory, upright."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    """(H, W, C); C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha, which is not multiplied into the colours."""
    icc: bytes = b""
    """Colour profile, of as many colours as the pixels have; empty for none."""
    exif: bytes = b""
    """What is worth keeping, as a TIFF structure, without the orientation; empty for none."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch along x and y."""
    frames: int = 1
    """How many images the file has. This is the first."""

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)


def read_image(file: str | Path) -> DecodedImage:
    """Read an image: 8 or 16 bits; gray, RGB, with alpha or without; 1 bit, palettes and CMYK converted to these.

    Args:
        file: PNG, JPEG, WebP, TIFF or BMP.

    Raises:
        ImageError: It cannot be read, is broken or incomplete, or has 32 bits.
    """
    header = read_header(file)
    with image_faults(file):
        data = Path(file).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            icc, exif, dpi = image.info.get("icc_profile") or b"", kept_exif(image), _dpi(image)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a phone's extra views
            orientation = 1 if image.format == "TIFF" else orientation_of(image)  # decoders turn TIFF by themselves
            if header.sixteen_bit and image.mode != "CMYK" and not image.mode.startswith("I;16"):
                pixels: NDArray = _colours_of_sixteen_bits(data, _is_gray_png(data))
                if _is_multiplied(image):
                    pixels = _divided(pixels)
            else:
                image.load()
                pixels, icc = _pixels_of_cmyk(image, icc) if image.mode == "CMYK" else (_pixels(image), icc)
    colours = 1 if pixels.shape[2] < 3 else 3
    if icc[16:20] != (b"GRAY" if colours == 1 else b"RGB "):
        icc = b""  # of other colours than these: wrong in the file, or a palette's
    return DecodedImage(np.ascontiguousarray(upright(pixels, orientation)), icc, exif, dpi, frames)


def kept_exif(image: Image.Image) -> bytes:
    """When, where, with what and by whom an image was taken, without its orientation and its sizes.

    Returns:
        A little-endian TIFF structure, or nothing.
    """
    kept = Image.Exif()
    kept.endian = "<"
    with suppress(Exception):  # of damaged EXIF what could be read is kept
        source = Image.Image.getexif(image)
        for tag in _KEPT_TAGS:
            if tag in source:
                kept[tag] = source[tag]
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            content = {tag: value for tag, value in source.get_ifd(ifd).items() if tag not in _DROPPED_EXIF}
            if content:
                kept[ifd] = content
    with suppress(Exception):
        return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""
    return b""


def _pixels(image: Image.Image) -> NDArray:
    """(H, W, C) of a decoded image."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        gray = sixteen_bit_gray(image)[:, :, None]
        if isinstance(transparency, int):
            gray = np.concatenate([gray, np.where(gray == transparency, 0, 65535).astype(np.uint16)], axis=2)
        return gray
    alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or transparency is not None
    mode = ("L" if image.mode in GRAY_MODES else "RGB") + ("A" if alpha else "")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _is_gray_png(data: bytes) -> bool:
    return data[:8] == _PNG and data[25] in (0, 4)  # the colour type, in the header


def _colours_of_sixteen_bits(data: bytes, gray: bool) -> NDArray[np.uint16]:
    """RGB or alpha of 16 bits, which Pillow does not have; upright, if it is a TIFF."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError("16-bit pixels of a kind that OpenCV cannot decode")
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return pixels[:, :, order[2:] if gray else order]


def _is_multiplied(image: Image.Image) -> bool:
    """Whether the colours of a TIFF have alpha multiplied into them."""
    extra = image.tag_v2.get(_EXTRA_SAMPLES, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()
    return _MULTIPLIED in np.atleast_1d(extra)


def _divided(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """(H, W, C), alpha last and multiplied into the colours, without that; Pillow does so for 8 bits."""
    alpha = pixels[:, :, -1:].astype(np.uint32)  # 65535² + 65535 / 2 fits
    colours = (pixels[:, :, :-1] * np.uint32(65535) + alpha // 2) // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), pixels[:, :, -1:]], axis=2)


def _pixels_of_cmyk(image: Image.Image, icc: bytes) -> tuple[NDArray[np.uint8], bytes]:
    """RGB and its profile: sRGB by the file's own profile; without one, as Pillow mixes inks."""
    if icc:
        with suppress(ImageCms.PyCMSError, OSError):
            srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            rgb = ImageCms.profileToProfile(image, io.BytesIO(icc), srgb, outputMode="RGB")
            if rgb is not None:
                return np.asarray(rgb), srgb.tobytes()
    return np.asarray(image.convert("RGB")), b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with suppress(Exception):
        x, y = (float(value) for value in image.info["dpi"])
        if 1 < x < 1e6 and 1 < y < 1e6:  # Pillow makes 1 of a TIFF that does not say
            return x, y
    return None
