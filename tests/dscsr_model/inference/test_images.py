"""Reading: every kind of image becomes what it is; what belongs to it is kept."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from dscsr_arch.errors import ImageError
from dscsr_model.data.image_io import upright
from dscsr_model.inference.images import DecodedImage, read_image
from dscsr_model.inference.tiff_file import write_tiff

RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
ALPHA = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
DEEP = RGB.astype(np.uint16) * 250 + 17
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def exif(**tags):
    content = Image.Exif()
    for name, value in tags.items():
        content[ExifTags.Base[name]] = value
    return content


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_eight_bits(tmp_path, mode, suffix):
    if suffix == "webp" and mode in ("L", "LA"):
        pytest.skip("WebP has no gray")
    wanted = np.concatenate(
        [RGB[:, :, : 1 if mode[0] == "L" else 3], *[ALPHA[:, :, None]] * mode.endswith("A")], axis=2
    )
    Image.fromarray(wanted.squeeze()).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.pixels.dtype == np.uint8
    assert image.alpha == mode.endswith("A")
    np.testing.assert_array_equal(image.pixels, wanted)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(tmp_path, channels, suffix):
    wanted = np.dstack([DEEP, ALPHA.astype(np.uint16) * 3])[:, :, :channels]
    if channels == 1:
        Image.fromarray(wanted[:, :, 0]).save(tmp_path / f"a.{suffix}")
    else:
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), wanted[:, :, [2, 1, 0, 3][:channels]])
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}").pixels, wanted)


def mark(file, tag, value):
    """Set a tag of one short number in a little-endian TIFF file, which has it already."""
    content = bytearray(file.read_bytes())
    place = content.rindex(struct.pack("<HHI", tag, 3, 1))
    content[place + 8 : place + 10] = struct.pack("<H", value)
    file.write_bytes(content)


def test_alpha_that_is_multiplied_into_the_colours(tmp_path):
    """With 16 bits as with 8, where Pillow divides."""
    alpha = ALPHA[:, :, None]
    multiplied = np.concatenate([(RGB * (alpha / 255)).round().astype(np.uint8), alpha], axis=2)
    for name, pixels in (("a.tif", multiplied), ("b.tif", multiplied.astype(np.uint16) * 257)):
        with open(tmp_path / name, "wb") as stream:
            write_tiff(stream, DecodedImage(pixels))
        mark(tmp_path / name, 338, 1)
    eight, sixteen = (read_image(tmp_path / name).pixels.astype(float) for name in ("a.tif", "b.tif"))
    np.testing.assert_array_equal(sixteen[:, :, 3], eight[:, :, 3] * 257)
    visible = ALPHA > 0
    assert np.abs(sixteen / 257 - eight)[visible].max() <= 1  # Pillow rounds down
    assert np.abs(eight[:, :, :3] - multiplied[:, :, :3])[visible].max() > 50


def test_modes_that_become_others(tmp_path):
    image = Image.fromarray(RGB)
    palette = image.quantize(16)
    cases = {
        "bit.png": (image.convert("1"), 1, image.convert("1").convert("L")),
        "palette.png": (palette, 3, palette.convert("RGB")),
        "palette.tif": (palette, 3, palette.convert("RGB")),
        "cmyk.tif": (image.convert("CMYK"), 3, image.convert("CMYK").convert("RGB")),
        "bmp.bmp": (image, 3, image),
    }
    for name, (saved, channels, wanted) in cases.items():
        saved.save(tmp_path / name)
        pixels = read_image(tmp_path / name).pixels
        assert pixels.shape == (6, 8, channels), name
        np.testing.assert_array_equal(pixels.squeeze(), np.asarray(wanted))


def test_transparency_that_is_no_channel(tmp_path):
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png", transparency=3)
    np.testing.assert_array_equal(
        read_image(tmp_path / "p.png").pixels[:, :, 3], np.where(np.asarray(palette) == 3, 0, 255)
    )
    gray = RGB[:, :, 0]
    Image.fromarray(gray).save(tmp_path / "g.png", transparency=int(gray[2, 2]))
    np.testing.assert_array_equal(read_image(tmp_path / "g.png").pixels[:, :, 1], np.where(gray == gray[2, 2], 0, 255))
    Image.fromarray(RGB).save(tmp_path / "c.png", transparency=tuple(map(int, RGB[1, 1])))
    assert read_image(tmp_path / "c.png").pixels[1, 1, 3] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", "deep.png", "deep.tiff", "gray16.tiff"])
def test_orientation(tmp_path, name, orientation):
    from dscsr_model.inference.images import DecodedImage
    from dscsr_model.inference.png_file import write_png
    from dscsr_model.inference.tiff_file import write_tiff

    source = DEEP[:, :, :1] if "gray16" in name else DEEP if "deep" in name else RGB
    turned = np.ascontiguousarray(upright(source, INVERSE[orientation]))
    content = exif(Orientation=orientation, Make="M")
    if "a." in name:
        Image.fromarray(turned).save(tmp_path / name, exif=content, lossless=True)
    else:
        content.endian = "<"
        blob = content.tobytes().removeprefix(b"Exif\0\0")
        with (tmp_path / name).open("wb") as stream:
            (write_png if name.endswith("png") else write_tiff)(stream, DecodedImage(turned, exif=blob))
    image = read_image(tmp_path / name)
    np.testing.assert_array_equal(image.pixels, source)
    kept = Image.Exif()
    kept.load(image.exif)
    assert dict(kept) == {ExifTags.Base.Make: "M"}


def test_what_belongs_to_it(tmp_path):
    content = exif(Make="Maker", Orientation=1, Copyright="me", XResolution=7.0)
    content[ExifTags.IFD.Exif] = {36867: "2020:01:02 03:04:05", 40962: 4, 37500: b"maker's note"}
    content[ExifTags.IFD.GPSInfo] = {1: "N"}
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=content, icc_profile=SRGB, dpi=(240, 240))
    image = read_image(tmp_path / "a.jpg")
    assert image.icc == SRGB
    assert image.dpi == (240, 240)
    kept = Image.Exif()
    kept.load(image.exif)
    assert (kept[271], kept[33432]) == ("Maker", "me")
    assert kept.get_ifd(ExifTags.IFD.Exif) == {36867: "2020:01:02 03:04:05"}
    assert kept.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N"}
    assert 274 not in kept
    assert 282 not in kept


def test_damaged_exif_is_left_out(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").exif == b""


def test_profiles_of_other_colours_are_left_out(tmp_path):
    Image.fromarray(RGB[:, :, 0]).save(tmp_path / "a.png", icc_profile=SRGB)
    assert read_image(tmp_path / "a.png").icc == b""


def test_a_tiff_without_resolution(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff").dpi is None


def test_several_pages(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.tiff", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    image = read_image(tmp_path / "a.tiff")
    assert image.frames == 2
    np.testing.assert_array_equal(image.pixels, RGB)


def _png():
    stream = io.BytesIO()
    Image.fromarray(RGB).resize((64, 64)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "broken.png: no image, or a broken one"),
        (b"text", "no image"),
        (_png()[:-400], "broken.png"),
        (_png()[:20], "broken.png"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "broken.png")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits(tmp_path, mode):
    Image.fromarray(RGB[:, :, 0]).convert(mode).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=f"{mode} pixels of 32 bits, expected 8 or 16"):
        read_image(tmp_path / "a.tiff")
