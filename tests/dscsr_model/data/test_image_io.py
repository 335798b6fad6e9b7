"""Every kind of image becomes what it is, and other programs read what is written; what belongs to an image is kept."""

import os
import struct

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from dscsr_arch.errors import ImageError
from dscsr_model.data.image_io import DecodedImage, Header, read_header, read_image, read_rgb, upright
from dscsr_model.data.image_writing import write_image

RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
ALPHA = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
DEEP = RGB.astype(np.uint16) * 250 + 17
# What a viewer has to do, by the EXIF standard.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def exif(**tags):
    content = Image.Exif()
    for name, value in tags.items():
        content[ExifTags.Base[name]] = value
    return content


def in_tiff(file, tag, value):
    """Set a tag of one short number in a little-endian TIFF file, which has it already."""
    content = bytearray(file.read_bytes())
    at = content.rindex(struct.pack("<HHI", tag, 3, 1)) + 8
    content[at : at + 2] = struct.pack("<H", value)
    file.write_bytes(content)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_eight_bits(tmp_path, mode, suffix):
    if (suffix, mode) in {("webp", "L"), ("webp", "LA"), ("bmp", "LA"), ("bmp", "RGBA")}:
        return  # which it does not have
    colours = RGB[:, :, : 1 if mode[0] == "L" else 3]
    wanted = np.concatenate([colours, *[ALPHA[:, :, None]] * mode.endswith("A")], axis=2)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(wanted.squeeze()).save(file, lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(file).pixels, wanted)
    np.testing.assert_array_equal(read_rgb(file), np.broadcast_to(colours, RGB.shape))
    assert read_header(file) == Header(6, 8, mode.endswith("A"), False, mode[0] == "L")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(tmp_path, channels, suffix):
    wanted = np.dstack([DEEP, ALPHA.astype(np.uint16) * 3])[:, :, :channels]
    file = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(file), wanted[:, :, [2, 1, 0, 3][:channels]] if channels > 1 else wanted)
    np.testing.assert_array_equal(read_image(file).pixels, wanted)
    np.testing.assert_array_equal(read_rgb(file), np.broadcast_to(np.rint(wanted[:, :, :3] / 257), RGB.shape))
    assert read_header(file) == Header(6, 8, channels == 4, True, channels == 1)


def test_modes_that_become_others(tmp_path):
    image = Image.fromarray(RGB)
    palette = image.quantize(16)
    cases = {
        "bit.png": (image.convert("1"), image.convert("1").convert("L")),
        "palette.png": (palette, palette.convert("RGB")),
        "palette.tif": (palette, palette.convert("RGB")),
        "palette.bmp": (palette, palette.convert("RGB")),
        "cmyk.tif": (image.convert("CMYK"), image.convert("CMYK").convert("RGB")),
        "a jpeg.png": (image.convert("L"), image.convert("L")),
        "transparent.bmp": (image.convert("RGBA"), image),  # most programs write no alpha there
    }
    for name, (saved, wanted) in cases.items():
        saved.save(tmp_path / name, **({"format": "JPEG", "quality": 100} if "jpeg" in name else {}))
        pixels = read_image(tmp_path / name).pixels.squeeze().astype(int)
        assert np.abs(pixels - np.asarray(wanted)).max() <= (0 if name.startswith(("bit", "pal")) else 2), name


def test_transparency_that_is_no_channel(tmp_path):
    palette, gray = Image.fromarray(RGB).quantize(16), RGB[:, :, 0]
    palette.save(tmp_path / "p.png", transparency=3)
    Image.fromarray(gray).save(tmp_path / "g.png", transparency=int(gray[2, 2]))
    Image.fromarray(RGB).save(tmp_path / "c.png", transparency=tuple(map(int, RGB[1, 1])))
    for name, hidden in (("p", np.asarray(palette) == 3), ("g", gray == gray[2, 2]), ("c", (RGB[1, 1] == RGB).all(2))):
        image = read_image(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(image.pixels[:, :, -1], np.where(hidden, 0, 255))
        assert read_header(tmp_path / f"{name}.png").alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_that_is_multiplied_into_the_colours(tmp_path, dtype):
    most, visible = np.iinfo(dtype).max, ALPHA > 0
    alpha = (ALPHA[:, :, None] / 255 * most).astype(dtype)
    multiplied = (RGB / 255 * alpha).round().astype(dtype)
    write_image(tmp_path / "a.tif", DecodedImage(np.concatenate([multiplied, alpha], axis=2)), "tiff")
    in_tiff(tmp_path / "a.tif", 338, 1)
    pixels = read_image(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(pixels[:, :, 3:], alpha)
    error = np.abs(pixels[:, :, :3] / most - RGB / 255)
    assert (error <= 0.51 / np.maximum(alpha, 1) + 1 / most)[visible].all()  # what rounding has left


def test_sixteen_bit_tiffs_of_other_programs(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="it comes with scikit-image")
    tifffile.imwrite(tmp_path / "white.tif", 65535 - DEEP[:, :, 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif").pixels[:, :, 0], DEEP[:, :, 0])
    apart = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "apart.tif", np.moveaxis(DEEP, 2, 0), **apart)
    np.testing.assert_array_equal(read_image(tmp_path / "apart.tif").pixels, DEEP)
    tifffile.imwrite(tmp_path / "turned.tif", DEEP, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_image(tmp_path / "turned.tif").pixels, np.rot90(DEEP, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_orientation(tmp_path, photographs, orientation, suffix):
    photo = photographs[1]
    options = {"webp": {"lossless": True}, "jpg": {"quality": 98}}.get(suffix, {})
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(photo).save(file, exif=exif(Orientation=orientation, Make="M"), **options)
    wanted = np.asarray(Image.fromarray(photo).transpose(TURNS[orientation])) if orientation > 1 else photo
    image = read_image(file)
    assert image.pixels.shape == wanted.shape == (*read_header(file)[:2], 3)
    assert np.abs(image.pixels - wanted.astype(int)).mean() < (3 if suffix == "jpg" else 1e-9)
    assert [(name, value) for name, _, value in image.metadata] == [("Make", "M")]
    np.testing.assert_array_equal(upright(upright(photo, orientation), INVERSE[orientation]), photo)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "bmp"])
@pytest.mark.parametrize("deep", [False, True])
def test_truncated(tmp_path, suffix, deep):
    if deep and suffix not in ("png", "tiff"):
        return
    file = tmp_path / f"half.{suffix}"
    cv2.imwrite(str(file), np.tile(DEEP if deep else RGB, (20, 20, 1)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"half\.{suffix}: no image, or a broken one \(\S"):
        read_image(file)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png: Expected an image, but got No such file"):
        read_rgb(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ImageError, match=r"float\.tiff: Expected .* of 8 or 16 bits, but got 1 of float"):
        read_rgb(tmp_path / "float.tiff")
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    open(name, "wb").close()
    with pytest.raises(ImageError, match="Expected a name in UTF-8"):
        read_header(name)
